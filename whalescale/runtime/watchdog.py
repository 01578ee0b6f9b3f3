"""systemd's watchdog (sd_watchdog_enabled(3)): a stuck agent is a restart, not a silent tunnel.

The event loop feeds it, after every worker has come round once more. A worker that is stuck keeps
the loop waiting, and so does whatever else stops it: systemd hears nothing, and starts anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Final

from whalescale.runtime.notify import Notifier

#: of systemd's time, so that two late ones are no restart
SHARE: Final = 3
LEAST_S: Final = 0.05


def interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    """How often to feed it; None: nobody asks this process for it."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or not int(text):
        return None
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return max(int(text) / 1e6 / SHARE, LEAST_S)


async def feed(notifier: Notifier, beat: Callable[[], None], interval: float) -> None:
    """Until it is cancelled. `beat`: returns when every worker has come round."""
    while True:
        beat()
        notifier.send("WATCHDOG=1")
        await asyncio.sleep(interval)


def wanted() -> float | None:
    return interval_s(os.environ, os.getpid())
