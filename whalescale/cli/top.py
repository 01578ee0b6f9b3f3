"""`ws top`: the live view; one snapshot where there is no terminal."""

from __future__ import annotations

import time
from typing import Annotated

from whalescale.cli.common import (
    Interface,
    Interval,
    console,
    interface_name,
    is_screen,
    print_json_lines,
)
from whalescale.cli.options import Option


def top(
    interface: Interface = None,
    once: Annotated[bool, Option("--once", help="One snapshot, then end.")] = False,
    json: Annotated[
        bool, Option("--json", help="A line of JSON each interval (with --once: one).")
    ] = False,
    interval: Interval = 1.0,
) -> None:
    """Watch the tunnel live: totals, peers, the chosen peer's rates. ? shows the keys."""
    from whalescale.cli import client

    name = interface_name(interface)
    if json:
        print_json_lines(lambda: {"version": 1, **client.status(name)[1]}, interval, once=once)
        return
    from whalescale.tui import render, snapshot

    out = console()
    if once or not is_screen(out):
        view = snapshot.first(client.status(name)[0])
        # A rate needs two looks.
        time.sleep(min(interval, 1.0))
        view = snapshot.advance(view, client.status(name)[0])
        out.print(render.once(view, out.width))
        while out.is_dumb_terminal and not once:  # one below the other: it cannot be redrawn
            time.sleep(interval)
            view = snapshot.advance(view, client.status(name)[0])
            out.print(render.once(view, out.width))
        return
    from whalescale.tui import app

    app.run(out, lambda: client.status(name)[0], interval)
