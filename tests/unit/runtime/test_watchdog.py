"""The watchdog is fed while the loop and the workers go round, and not a moment longer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from whalescale.runtime import watchdog
from whalescale.runtime.notify import Notifier


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "1"}, watchdog.LEAST_S),
    ],
)
def test_how_often(environment: dict[str, str], interval: float | None) -> None:
    assert watchdog.interval_s(environment, 7) == interval


class Heard:
    def __init__(self) -> None:
        self.states: list[str] = []

    def send(self, state: str) -> bool:
        self.states.append(state)
        return True


def test_a_stuck_worker_is_heard_of_by_silence() -> None:
    """The beat waits for it, and with it the loop that would feed the dog."""
    heard, stuck, came = Heard(), threading.Event(), threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(len(heard.states))
        if len(beats) == 3:
            came.set()
            stuck.wait(10)

    async def main() -> None:
        feeding = asyncio.create_task(watchdog.feed(cast(Notifier, heard), beat, 0.001))
        await asyncio.sleep(0.2)
        feeding.cancel()

    thread: Any = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert came.wait(10)
    assert heard.states == ["WATCHDOG=1"] * 2
    stuck.set()
    thread.join(10)
    assert beats[:3] == [0, 1, 2]
