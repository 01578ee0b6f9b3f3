"""The members of the network: `ws members`, `ws address`, `ws hosts`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Annotated, Any

import typer

from whalescale.cli.common import Interface, Json, console, interface_name, plain, print_json
from whalescale.cli.network import VERSION, MemberName, ask, find_member


def address(name: MemberName, interface: Interface = None, json: Json = False) -> None:
    """Show where a member was reached, and where it is said to be."""
    member = find_member(ask(interface, op="view"), name)
    if json:
        print_json({"version": VERSION, **member})
        return
    print(f"inside   {', '.join(a for a in (member['address'], member['overlay']) if a)}")
    if member["session"]:
        print(f"now      {member['endpoint']}")
    for place in member["places"]:
        print(f"{place['how']:8} {place['endpoint']}")


def hosts(interface: Interface = None, json: Json = False) -> None:
    """Print lines for /etc/hosts, one for each member."""
    view = ask(interface, op="view")
    network = plain(str(view["network"]["name"]))
    count = Counter(m["name"] for m in view["members"])
    found = []
    for m in view["members"]:
        name = plain(m["name"])
        own = [f"{name}.{network}.internal"]
        if count[m["name"]] == 1:
            own.append(f"{name}.internal")
        found += [(inside, own) for inside in (m["address"], m["overlay"]) if inside]
    if json:
        rows = [{"address": inside, "names": own} for inside, own in found]
        print_json({"version": VERSION, "hosts": rows})
        return
    for inside, own in found:
        print(f"{inside}\t{' '.join(own)}")


def members(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", "-n", min=0.1, max=3600, help="Seconds between two.")
    ] = 1.0,
    interface: Interface = None,
    json: Annotated[
        bool, typer.Option("--json", help="JSON with a version (--watch: a line each).")
    ] = False,
) -> None:
    """List the network's members: who is reached, and where."""
    view = ask(interface, op="view")
    if watch:
        _watch(interface_name(interface), view, interval, json=json)
        return
    if json:
        print_json({"version": VERSION, **view})
        return
    rows = [("NAME", "ADDRESS", "ROLE", "REACHED")]
    for m in view["members"]:
        role = " ".join(r for r in ("admin", "anchor") if m[r]) or "-"
        reached = "this machine" if m["self"] else m["endpoint"] if m["session"] else "-"
        rows.append((plain(m["name"]), m["address"] or m["overlay"], role, reached or "yes"))
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
        print("  ".join([*cells, row[3]]).rstrip())


def _watch(interface: str, view: dict[str, Any], interval: float, *, json: bool) -> None:
    """Until q in a terminal, else one below the other."""
    if json:
        import json as encoder

        while True:
            print(encoder.dumps({"version": VERSION, **view}), flush=True)
            time.sleep(interval)
            view = ask(interface, op="view")
    from whalescale.cli import client
    from whalescale.tui import app, render
    from whalescale.tui import members as look

    out = console()
    if sys.stdout.isatty() and not out.is_dumb_terminal:
        app.run(out, lambda: client.status(interface)[0], interval, render.members_screen)
        return
    while True:
        out.print(look.body(client.status(interface)[0], out.width))
        sys.stdout.flush()
        time.sleep(interval)
