"""`ws top`: the live view; one snapshot where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from whalescale.cli.common import Interface, console, interface_name


def top(
    interface: Interface = None,
    once: Annotated[bool, typer.Option("--once", help="One snapshot, then end.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="A line of JSON each interval (with --once: one).")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", "-n", min=0.1, max=3600, help="Seconds between two.")
    ] = 1.0,
) -> None:
    """Watch the tunnel live: totals, peers, the chosen peer's rates. ? shows the keys."""
    from whalescale.cli import client

    name = interface_name(interface)
    if json:
        _json_lines(name, once, interval)
        return
    from whalescale.tui import app, render, snapshot

    out = console()
    if once or not sys.stdout.isatty() or out.is_dumb_terminal:
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
    app.run(out, lambda: client.status(name)[0], interval)


def _json_lines(name: str, once: bool, interval: float) -> None:
    import json

    from whalescale.cli import client

    while True:
        raw = client.status(name)[1]
        print(json.dumps({"version": 1, **raw}), flush=True)
        if once:
            return
        time.sleep(interval)
