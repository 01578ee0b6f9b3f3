"""Notices of a restored or copied virtual machine."""

from __future__ import annotations

import asyncio

import pytest

from whalescale.runtime import generation

NEW = b"change@/devices/VMGENCTR:00\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"


@pytest.mark.parametrize(
    ("message", "sender", "new"),
    [
        (NEW, 0, True),
        (NEW, 4711, False),  # not the kernel's
        (NEW.replace(b"NEW_VMGENID=1", b"NEW_VMGENID=10"), 0, False),
        (b"add@/devices/x\0ACTION=add\0DEVPATH=/NEW_VMGENID=1/x\0", 0, False),
        (b"", 0, False),
    ],
)
def test_only_the_kernels_own_word_counts(message: bytes, sender: int, new: bool) -> None:
    assert generation.is_new(message, sender) is new


class Told:
    """A socket with these messages."""

    def __init__(self, *messages: bytes | OSError) -> None:
        self.messages = list(messages)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        if not self.messages:
            raise BlockingIOError
        message = self.messages.pop(0)
        if isinstance(message, OSError):
            raise message
        return message, (0, 1)


def test_each_new_generation_is_told_and_nothing_else() -> None:
    calls: list[None] = []
    watched = generation.Generation(lambda: calls.append(None))
    watched._socket = Told(b"add@/x\0", OSError(105, "lost"), NEW, NEW)  # type: ignore[assignment]
    watched.read()
    assert len(calls) == 2


def test_it_opens_and_closes() -> None:
    async def run() -> None:
        watched = generation.Generation(lambda: None)
        watched.started()
        await watched.close()
        await watched.close()

    asyncio.run(run())
