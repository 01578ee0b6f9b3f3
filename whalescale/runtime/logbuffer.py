"""The agent's log: stderr, and a bounded ring in memory for `ws logs`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

RING_LINES: Final = 2000
#: a message (by its format string) may be written this often per window
BURST: Final = 10
#: one that names its subject (`extra={"subject": peer}`): so often in all, and so often of one
BURST_SUBJECTS: Final = 50
BURST_SUBJECT: Final = 5
WINDOW_S: Final = 10.0

Line = dict[str, Any]


@dataclass(slots=True)
class _Window:
    """What came of one format string since `start`: records passed, per subject too, and held."""

    start: float
    passed: Counter[str | None] = field(default_factory=Counter)
    held: int = 0


class RateLimit(logging.Filter):
    """Lets BURST records of a format string pass per WINDOW_S; says later how many were held.

    Of a record that has a `subject` more pass, but no subject takes the others' share.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, str(record.msg))
        subject: str | None = getattr(record, "subject", None)
        now = self._clock()
        window = self._seen.get(key)
        before = 0
        if window is None or now - window.start >= WINDOW_S:
            before = window.held if window is not None else 0
            if len(self._seen) > 256:
                # format strings are literals, so this takes a caller that formats by itself
                self._seen.clear()
            window = self._seen[key] = _Window(now)
        most, share = (BURST, BURST) if subject is None else (BURST_SUBJECTS, BURST_SUBJECT)
        if window.passed.total() >= most or window.passed[subject] >= share:
            window.held += 1
            return False
        window.passed[subject] += 1
        if before:
            like = "like it" if subject is None else "like it, of any peer,"
            record.msg = f"{record.getMessage()} ({before} more {like} were held back)"
            record.args = ()
        return True


class LogBuffer(logging.Handler):
    """Keeps the last RING_LINES lines as {"t": unix s, "level", "message"} and feeds followers."""

    def __init__(self, lines: int = RING_LINES) -> None:
        super().__init__()
        self._ring: deque[Line] = deque(maxlen=lines)
        self._followers: set[Callable[[Line], None]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line: Line = {
            "t": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        self._ring.append(line)
        for follower in tuple(self._followers):
            follower(line)

    def lines(self) -> list[Line]:
        return list(self._ring)

    def follow(self, follower: Callable[[Line], None]) -> Callable[[], None]:
        """Call `follower` with every new line, until the returned function is called."""
        self._followers.add(follower)
        return lambda: self._followers.discard(follower)

    async def stream(self, *, follow: bool) -> AsyncGenerator[Line, None]:
        """The lines that are there, then (`follow`) new ones. A reader too slow misses some."""
        queue: asyncio.Queue[Line] = asyncio.Queue(RING_LINES)

        def put(line: Line) -> None:
            if not queue.full():
                queue.put_nowait(line)

        unfollow = self.follow(put)
        try:
            for line in self.lines():
                yield line
            while follow:
                yield await queue.get()
        finally:
            unfollow()


class _Stderr(logging.Formatter):
    """`time level message`; under systemd a priority prefix instead, the journal has the time."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        if not self._journal:
            return super().format(record)
        priority = 3 if record.levelno >= 40 else 4 if record.levelno >= 30 else 6
        return f"<{priority}>{record.getMessage()}"


def setup(*, journal: bool, level: int = logging.INFO) -> LogBuffer:
    """Wire the `whalescale` logger to stderr and a new ring. Other libraries only warn."""
    ring = LogBuffer()
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_Stderr(journal))
    limit = RateLimit()
    logger = logging.getLogger("whalescale")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.filters.clear()
    logger.setLevel(level)
    logger.propagate = False

    class _Limited(logging.Handler):
        # One limiter in front of both, so that both show the same lines.
        def emit(self, record: logging.LogRecord) -> None:
            if limit.filter(record):
                ring.handle(record)
                stderr.handle(record)

    logger.addHandler(_Limited())
    logging.getLogger().setLevel(logging.WARNING)
    return ring
