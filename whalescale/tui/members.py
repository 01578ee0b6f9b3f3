"""The members of the network: who, in which role, reached how, seen when; what is amiss. Pure."""

from __future__ import annotations

import textwrap
import time
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from whalescale.status import Member, Network, Peer, Status
from whalescale.tui import text
from whalescale.tui.table import Column, Table

#: from which width of the terminal on a column is there
COLUMNS: Final = {
    "member": 0,
    "role": 0,
    "reached": 0,
    "last seen": 46,
    "address": 66,
    "endpoint": 90,
    "RTT": 112,
}
#: the network's last events below the table, where there is room
EVENTS: Final = 4
#: from so many lines on warnings are shown whole
ROOMY: Final = 18
NO_NETWORK: Final = "no network yet: `ws network create NAME` makes one, `ws join TICKET` joins one"


def summary(network: Network) -> str:
    """ "hearth: 5 members, 3 of them reached, 2 anchors alive" """
    others = [m for m in network.members if not m.here]
    reached = sum(m.session for m in others)
    one = "" if network.anchors_alive == 1 else "s"
    return text.plain(
        f"{network.name}: {len(network.members)} members, {reached} of {len(others)} others "
        f"reached, {network.anchors_alive} anchor{one} alive"
    )


def ordered(network: Network) -> list[Member]:
    """This machine, then who is reached, then the rest; by name."""
    return sorted(network.members, key=lambda m: (not m.here, not m.session, m.name))


def role(member: Member) -> str:
    anchor = "anchor*" if member.proved else "anchor"
    return " ".join(r for r, on in (("admin", member.admin), (anchor, member.anchor)) if on) or "-"


def reached(member: Member) -> Text:
    """By a path of our own that we dialled, or one that the member came by, or over an anchor."""
    if member.here:
        return Text("this machine", style="cyan")
    if not member.session:
        return Text("not now", style="dim")
    style = "yellow" if member.reached == "relayed" else "green"
    return Text(text.plain(member.reached or "direct"), style=style)


def table(status: Status, width: int, lines: int | None = None) -> RenderableType:
    """One line a member. `lines`: no more than so many members."""
    members = ordered(status.network)
    fits = len(members) if lines is None or len(members) <= lines else max(lines - 1, 1)
    names = [name for name, least in COLUMNS.items() if width >= least]
    least = {"member": 8, "role": 6, "reached": 12, "last seen": 10}
    found = Table(Column(n, least.get(n, 1), n == "RTT") for n in names)
    peers = {p.id: p for p in status.peers}
    for member in members[:fits]:
        cells = _cells(member, peers.get(member.id))
        found.add_row(*(cells[n] for n in names))
    if fits == len(members):
        return found
    return Group(found, Text(f"and {len(members) - fits} more: `ws members`", style="dim"))


def _cells(member: Member, peer: Peer | None) -> dict[str, str | Text]:
    seen = text.NONE if member.here else text.human_ago(peer.last_received_s if peer else None)
    endpoint = peer.endpoint if peer is not None and member.session else None
    return {
        "member": Text(text.plain(member.name)),
        "role": role(member),
        "reached": reached(member),
        "last seen": seen,
        "address": Text(text.plain(member.address or text.NONE)),
        "endpoint": Text(text.plain(endpoint or text.NONE)),
        "RTT": text.human_ms(peer.handshake_rtt_ms if peer is not None else None),
    }


def body(status: Status, width: int, height: int | None = None) -> RenderableType:
    """What there is to say of the network in at most `height` lines."""
    network = status.network
    if not network.name and not network.members:
        return Text(NO_NETWORK, style="dim")
    roomy = height is None or height >= ROOMY
    warnings = [line for w in network.warnings for line in _warning(w, width, roomy)]
    events = [_event(e.t, e.event) for e in status.events if e.peer is None][-EVENTS:]
    left = None
    if height is not None:
        # The summary takes a line, the table's head two.
        left = max(height - 3 - len(warnings), 1)
        room = left - len(network.members) - 1
        events = events[-room:] if room > 0 else []
    head = Text(summary(network), style="bold", no_wrap=True, overflow="ellipsis")
    parts: list[RenderableType] = [head, *warnings, table(status, width, left)]
    if events:
        parts += [Text(), *events]
    return Group(*parts)


def _warning(words: str, width: int, roomy: bool) -> list[Text]:
    """Whole where there are lines to spare, for who reads it is to do something."""
    label, plain = "warning ", text.plain(words)
    room = max(width - len(label), 1)
    lines = (textwrap.wrap(plain, room) if roomy else []) or [plain]
    return [
        Text.assemble(
            (label if not i else " " * len(label), "bold yellow"),
            line,
            overflow="ellipsis",
            no_wrap=True,
        )
        for i, line in enumerate(lines)
    ]


def _event(at: float, what: str) -> Text:
    # UTC, as the peers' events are shown
    clock = time.strftime("%H:%M:%S", time.gmtime(max(at, 0)))
    return Text(f"{clock} UTC  {text.plain(what)}", style="dim", no_wrap=True, overflow="ellipsis")
