"""The members of the network: `ws members`, `ws address`, `ws hosts`."""

from __future__ import annotations

import sys
import time
from collections import Counter

from whalescale.cli.common import (
    Interface,
    Interval,
    Json,
    JsonLines,
    Watch,
    console,
    interface_name,
    is_screen,
    note,
    print_json,
    print_json_lines,
)
from whalescale.cli.ending import plain
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
    if member["self"]:
        from whalescale.cli import client, troubles

        for text in troubles.nat(client.status(interface_name(interface))[0]):
            print(f"NAT      {plain(text)}")


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
    watch: Watch = False,
    interval: Interval = 1.0,
    interface: Interface = None,
    json: JsonLines = False,
) -> None:
    """List the network's members: who is reached, and where."""
    view = ask(interface, op="view")
    if json and watch:
        print_json_lines(lambda: {"version": VERSION, **ask(interface, op="view")}, interval)
        return
    if watch:
        _watch(interface_name(interface), interval)
        return
    if json:
        print_json({"version": VERSION, **view})
        return
    rows = [("NAME", "ADDRESS", "ROLE", "REACHED")]
    for m in view["members"]:
        anchor = "anchor*" if m.get("proved") else "anchor"
        role = " ".join(r for r, on in (("admin", m["admin"]), (anchor, m["anchor"])) if on) or "-"
        reached = "this machine" if m["self"] else m["endpoint"] if m["session"] else "-"
        if m.get("relayed_by"):
            reached = f"relayed by {plain(m['relayed_by'])}"
        rows.append((plain(m["name"]), m["address"] or m["overlay"], role, reached or "yes"))
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
        print("  ".join([*cells, row[3]]).rstrip())
    if not view["network"].get("belongs", True):
        note("this machine was revoked: `ws network leave` forgets the network")
    if any(m.get("proved") for m in view["members"]):
        note("* others dialled it unasked, and got in")


def _watch(interface: str, interval: float) -> None:
    """Until q in a terminal, else one below the other."""
    from whalescale.cli import client
    from whalescale.tui import app, render
    from whalescale.tui import members as look

    out = console()
    if is_screen(out):
        app.run(out, lambda: client.status(interface)[0], interval, render.members_screen)
        return
    while True:
        out.print(look.body(client.status(interface)[0], out.width))
        sys.stdout.flush()
        time.sleep(interval)
