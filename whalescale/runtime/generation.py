"""The virtual machine under us was put back to an earlier state, or copied: Linux 6.10 tells it.

Its driver of the VM generation ID (VMGENCTR) sends a uevent, NEW_VMGENID=1, to every network
namespace of the initial user namespace. Counters of before would be used again then.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from whalescale.runtime.part import Part

log = logging.getLogger(__name__)

NETLINK_KOBJECT_UEVENT: Final = 15  # <linux/netlink.h>
KERNEL_GROUP: Final = 1
UEVENT_BYTES_MAX: Final = 8192
#: kinds of event are many on a busy host; only the newest are of interest
READ_AT_ONCE: Final = 64


def is_new(message: bytes, sender: int) -> bool:
    """`sender`: the port ID; 0 is the kernel's own, what others send is not believed."""
    return sender == 0 and b"NEW_VMGENID=1" in message.split(b"\0")


class Generation(Part):
    """Calls `changed` for each new generation. Without uevents it stays silent."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None

    def started(self) -> None:
        try:
            found = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                NETLINK_KOBJECT_UEVENT,
            )
        except OSError as e:
            log.info("no notice of restored snapshots: %s", e.strerror)
            return
        try:
            found.bind((0, KERNEL_GROUP))
        except OSError as e:
            found.close()
            log.info("no notice of restored snapshots: %s", e.strerror)
            return
        self._socket = found
        asyncio.get_running_loop().add_reader(found, self.read)

    def read(self) -> None:
        assert self._socket is not None
        for _ in range(READ_AT_ONCE):
            try:
                message, (sender, _) = self._socket.recvfrom(UEVENT_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: a storm of other events
                continue
            if is_new(message, sender):
                log.warning(
                    "this virtual machine was restored or copied: every session begins anew"
                )
                self._changed()

    async def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
