"""The live view's loop: a snapshot each interval, keys in between, the terminal left as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from whalescale.status import Status
from whalescale.tui import render, snapshot

#: returns a fresh status; raises an Exception whose text is shown while the view goes on
Fetch = Callable[[], Status]
#: of a view, for a terminal of this width and height
Draw = Callable[[snapshot.View, int, int], RenderableType]


@contextlib.contextmanager
def keyboard() -> Iterator[int | None]:
    """Single keys from standard input (None: it is no terminal); puts its settings back."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C; Ctrl-Z would leave the other screen standing."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers: dict[signal.Signals, Any] = {
        signal.SIGTERM: end,
        signal.SIGHUP: end,
        signal.SIGTSTP: signal.SIG_IGN,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(console: Console, fetch: Fetch, interval_s: float, draw: Draw = render.screen) -> None:
    """Until q. The first fetch may raise; later failures are shown and tried again."""
    view = snapshot.first(fetch())
    with (
        _orderly_end(),
        keyboard() as fd,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        due = time.monotonic() + interval_s
        while True:
            width, height = console.size
            live.update(draw(view, width, height), refresh=True)
            for key in _pressed(fd, max(due - time.monotonic(), 0.0)):
                after = snapshot.press(view, key)
                if after is None:
                    return
                view = after
            if time.monotonic() >= due:
                due = time.monotonic() + interval_s
                if not view.paused:
                    view = _fetched(view, fetch)


def _fetched(view: snapshot.View, fetch: Fetch) -> snapshot.View:
    try:
        return snapshot.advance(view, fetch())
    except Exception as e:
        return replace(view, trouble=str(e) or type(e).__name__)


def _pressed(fd: int | None, timeout_s: float) -> list[str]:
    if fd is None:
        time.sleep(timeout_s)
        return []
    if not select.select([fd], [], [], timeout_s)[0]:
        return []
    data = os.read(fd, 256)
    if not data:  # the terminal is gone
        return ["q"]
    return snapshot.keys(data)
