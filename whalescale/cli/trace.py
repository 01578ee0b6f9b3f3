"""`ws trace`: the reordering buffer beside what TCP inside the tunnel made of it."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

from whalescale.cli.common import Interface, console, interface_name, note
from whalescale.cli.ending import OK, PERMISSION, USAGE, CliError, plain
from whalescale.cli.options import Option

if TYPE_CHECKING:
    from whalescale.cli.client import Connection
    from whalescale.status import Status
    from whalescale.trace.flows import Pattern
    from whalescale.trace.join import Record
    from whalescale.trace.session import Fetch, Session

SECONDS_MAX: Final = 86400.0
#: without a terminal and without a time: what a table's rates are over
SNAPSHOT_S: Final = 1.0
#: an hour at 100 ms
PLOTTED_MAX: Final = 36000
#: of the live table, whatever the interval is
REDRAW_S: Final = 0.2


def trace(
    interface: Interface = None,
    peer: Annotated[
        str | None, Option("--peer", metavar="PEER", help="Only flows to this one.")
    ] = None,
    flow: Annotated[
        str | None,
        Option("--flow", metavar="SRC:PORT-DST:PORT", help="Only this one; * for any part."),
    ] = None,
    interval: Annotated[
        float, Option("--interval", "-n", min=0.02, max=60, help="Seconds between two.")
    ] = 0.1,
    seconds: Annotated[
        float | None,
        Option("--seconds", min=0.1, max=SECONDS_MAX, help="How long [until Ctrl-C]."),
    ] = None,
    events: Annotated[
        bool, Option(help="The time of each retransmission, by bcc where it is (root).")
    ] = True,
    json: Annotated[bool, Option("--json", help="A line of JSON each interval.")] = False,
    plot: Annotated[
        Path | None, Option("--plot", metavar="FILE.png", help="Draw it at the end.")
    ] = None,
) -> int:
    """Trace TCP inside the tunnel beside the reordering buffer: sudo ws trace"""
    name = interface_name(interface)
    pattern = _pattern(flow)
    if plot is not None:
        _can_plot(plot)
    kept: deque[Record] = deque(maxlen=PLOTTED_MAX if plot is not None else 1)
    with contextlib.ExitStack() as stack:
        _end_on_sigterm(stack)
        session = _session(stack, name, pattern, peer, events)
        with contextlib.suppress(KeyboardInterrupt):
            if json:
                _lines(session, interval, seconds or SECONDS_MAX, kept)
            elif sys.stdout.isatty():
                _live(session, interval, seconds or SECONDS_MAX, kept)
            else:
                _once(session, interval, seconds or SNAPSHOT_S, kept)
    return OK if plot is None else _plotted(kept, plot)


def _pattern(flow: str | None) -> Pattern:
    from whalescale.trace.flows import Pattern, parse_pattern

    if flow is None:
        return Pattern()
    try:
        return parse_pattern(flow)
    except ValueError as e:
        fix = "such as 10.77.0.1:*-10.77.0.2:443 or *:*-[fd77::2]:443"
        raise CliError(f"--flow {plain(flow)!r}: {e}", fix, USAGE) from None


def _can_plot(path: Path) -> None:
    from whalescale.trace import plot

    if path.suffix.lower() != ".png":
        raise CliError(f"--plot {path}: it draws PNG files", "name it FILE.png", USAGE)
    if not path.parent.is_dir():
        raise CliError(f"--plot {path}: there is no such folder", "make it first", USAGE)
    if not plot.available():
        raise CliError(plot.MISSING, plot.FIX)


def _session(
    stack: contextlib.ExitStack, name: str, pattern: Pattern, peer: str | None, events: bool
) -> Session:
    """Opens what the trace asks; what this user may not ask is left out, and said."""
    from whalescale.trace.events import Retransmissions
    from whalescale.trace.session import Session

    fetch, peer = _agent(stack, name, peer)
    from whalescale.trace.sockets import Sockets

    try:
        sockets = stack.enter_context(Sockets(name))
    except OSError as e:
        fix = f"`sudo ws -i {name} up` makes it; -i chooses another"
        raise CliError(f"no interface {name}: {e.strerror}", fix) from None
    source = None
    if events:
        source = stack.enter_context(Retransmissions())
        source.wait_ready()
    return Session(name, sockets, fetch, source, pattern, peer)


def _agent(
    stack: contextlib.ExitStack, name: str, peer: str | None
) -> tuple[Fetch | None, str | None]:
    """How to ask the agent (None: not for this user), and the peer's whole name."""
    from whalescale.cli.common import find

    agent = Agent(name)
    stack.callback(agent.close)
    try:
        status = agent.fetch()
    except CliError as e:
        if e.exit_code != PERMISSION or peer is not None:
            raise
        return None, None
    return agent.fetch, None if peer is None else find(status, peer, name).name


class Agent:
    """One connection for all the questions; a new one after it broke."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._connection: Connection | None = None

    def fetch(self) -> Status:
        """CliError: it does not answer (now)."""
        from whalescale.cli.client import Connection

        if self._connection is None:
            self._connection = Connection(self._interface)
        try:
            return self._connection.status()[0]
        except CliError:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.__exit__()
            self._connection = None


def _end_on_sigterm(stack: contextlib.ExitStack) -> None:
    """SIGTERM unwinds like Ctrl-C: the terminal is put right, the bcc program ends."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, number, signal.signal(number, end))


def _lines(session: Session, interval_s: float, seconds: float, kept: deque[Record]) -> None:
    from whalescale.trace.join import encode

    said: dict[str, str] = {}
    for record in session.records(interval_s, seconds):
        for what, why in record.missing.items():
            if said.get(what) != why:
                note(f"no {what}: {why}")
        said = record.missing
        kept.append(record)
        sys.stdout.buffer.write(encode(record) + b"\n")
        sys.stdout.buffer.flush()


def _once(session: Session, interval_s: float, seconds: float, kept: deque[Record]) -> None:
    from whalescale.trace import render

    window = _window(interval_s)
    for record in session.records(interval_s, seconds):
        window.append(record)
        kept.append(record)
    out = console()
    out.print(render.screen(window, out.width))


def _live(session: Session, interval_s: float, seconds: float, kept: deque[Record]) -> None:
    from rich.live import Live

    from whalescale.trace import render
    from whalescale.tui.app import keyboard

    out = console()
    window = _window(interval_s)
    drawn_s = 0.0
    with keyboard() as fd, Live(console=out, auto_refresh=False) as live:
        for record in session.records(interval_s, seconds):
            window.append(record)
            kept.append(record)
            if time.monotonic() - drawn_s >= REDRAW_S:
                drawn_s = time.monotonic()
                live.update(render.screen(window, out.width, out.height), refresh=True)
            if _quit(fd):
                break


def _window(interval_s: float) -> deque[Record]:
    from whalescale.trace.render import WINDOW_S

    return deque(maxlen=int(WINDOW_S / interval_s) + 2)


def _quit(fd: int | None) -> bool:
    import os

    return (
        fd is not None
        and bool(select.select([fd], [], [], 0)[0])
        and os.read(fd, 64)[:1] in (b"q", b"")
    )


def _plotted(kept: deque[Record], path: Path) -> int:
    from whalescale.trace import plot

    try:
        plot.draw(list(kept), path)
    except ValueError as e:
        raise CliError(f"nothing drawn: {e}", "trace while a flow runs") from None
    note(f"drawn: {path}")
    return OK
