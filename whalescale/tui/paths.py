"""What the eBPF programs counted, as lines of the live view: a peer's paths, shield and strangers.

Pure, as render.py. A path's line is made of COLUMNS; the lines below it tell what went over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.text import Text

from whalescale.status import Bpf, BpfPath, Path, PathCounts, Peer
from whalescale.tui import text
from whalescale.tui.snapshot import SHIELD_PASSED, UNKNOWN, Rate, View

SHIELD_WORDS: Final = {
    "short": "too short",
    "type": "unknown type",
    "length": "wrong length",
    "source_limit": "one source's limit",
    "global_limit": "strangers' limit",
    "unasked": "not asked for",
    "destination": "to a broadcast address",
    "headers": "too many headers",
}


class Row(NamedTuple):
    """A line of the detail pane; of those that do not fit, the greatest `rank` goes first."""

    rank: int
    name: str
    value: str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a path's line, right-aligned to `width` cells under its `title`."""

    title: str
    width: int
    value: Callable[[BpfPath, Rate], str]


COLUMNS: Final = (
    Column("↑ sent", 11, lambda _, r: text.human_rate(r.tx_bps)),
    Column("↓ received", 11, lambda _, r: text.human_rate(r.rx_bps)),
)


def of_peer(bpf: Bpf, peer: Peer) -> list[BpfPath]:
    """The paths to this peer's endpoint and candidates; the one in use first, then by bytes."""
    ends = _ends_of(peer)
    in_use = (_no_zone(peer.local or ""), _no_zone(peer.endpoint or ""))

    def order(path: BpfPath) -> tuple[bool, bool, int]:
        here = (path.local, path.remote)
        return here != in_use, path.remote != in_use[1], -path.tx.bytes - path.rx.bytes

    return sorted((p for p in bpf.paths if p.remote in ends), key=order)


def _ends_of(peer: Peer) -> set[str]:
    return {_no_zone(e) for e in (peer.endpoint, *peer.candidates) if e is not None}


def _no_zone(endpoint: str) -> str:
    """A datagram carries no zone: [fe80::1%3]:51820 -> [fe80::1]:51820."""
    address, percent, rest = endpoint.partition("%")
    return address + rest[rest.find("]") :] if percent else endpoint


def counts(c: PathCounts) -> str:
    """ "1,234 datagrams, 1.21 MiB: transport 1,230, initiation 4" """
    one = "datagram" if c.packets == 1 else "datagrams"
    line = f"{text.human_count(c.packets)} {one}, {text.human_bytes(c.bytes)}"
    return f"{line}: {_types(c)}" if c.types else line


def _types(c: PathCounts) -> str:
    some = sorted(((n, t) for t, n in c.types.items() if n), reverse=True)
    return ", ".join(f"{t.replace('_', ' ')} {text.human_count(n)}" for n, t in some)


def rows(view: View, peer: Peer, inside: int) -> list[Row]:
    """A peer's paths: each its line, and what went over it by message types.

    `inside`: cells of a row's value; the rates are not there where both do not fit.
    """
    bpf = view.current.bpf
    in_use = Row(0, "path", f"{peer.local or 'any'} → {peer.endpoint or 'not known yet'}")
    if bpf.state == "off":
        return [in_use, Row(1, "counted", f"not per path: the eBPF programs are {off(bpf)}")]
    own = of_peer(bpf, peer)
    if not own:
        why = f" ({bpf.reason})" if bpf.reason else ""
        return [in_use, Row(1, "counted", f"nothing on this path yet{why}")]
    width = max(len(_both(p)) for p in own)
    columns = COLUMNS if width + sum(c.width + 2 for c in COLUMNS) <= inside else ()
    head = "local → remote".ljust(width) + "".join(f"  {c.title:>{c.width}}" for c in columns)
    found = [Row(4, "", head)]
    for i, path in enumerate(own):
        rate = view.path_rates.get((path.local, path.remote), UNKNOWN)
        cells = "".join(f"  {c.value(path, rate):>{c.width}}" for c in columns)
        found += [
            Row(min(i, 1), "path", _both(path).ljust(width) + cells),
            Row(1 if i == 0 else 6, "  sent", counts(path.tx)),
            Row(1 if i == 0 else 6, "  received", counts(path.rx)),
        ]
    return found


def of_path(bpf: Bpf, path: Path) -> list[str]:
    """What the programs counted of one of a peer's paths."""
    ends = (_no_zone(path.local or ""), _no_zone(path.remote))
    return [
        f"{way} {counts(c)}"
        for p in bpf.paths
        if (p.local, p.remote) == ends
        for way, c in (("sent", p.tx), ("received", p.rx))
    ]


def _both(path: BpfPath) -> str:
    return f"{path.local} → {path.remote}"


def fitting(found: Sequence[Row], lines: int | None) -> list[Row]:
    """At most `lines` of the rows, in their order, those of the least rank; None: all."""
    kept = sorted(range(len(found)), key=lambda i: (found[i].rank, i))[:lines]
    return [found[i] for i in sorted(kept)]


def off(bpf: Bpf) -> str:
    return f"off, because {bpf.reason}" if bpf.reason else "off"


def shield(bpf: Bpf) -> str:
    """ "shield on eth0 (tc), dropped 12"; "off, because ..." """
    if bpf.state == "off":
        return text.plain(off(bpf))
    where = ", ".join(f"{i} ({h})" for i, h in bpf.hooks.items())
    dropped = sum(n for what, n in bpf.shield.items() if what not in SHIELD_PASSED)
    line = f"shield on {where or 'no interface'}, dropped {text.human_count(dropped)}"
    return text.plain(f"{line}; {bpf.reason}" if bpf.reason else line)


def guard(view: View) -> str:
    """The line of the header: what the shield dropped, and why; what strangers sent."""
    bpf = view.current.bpf
    if bpf.state == "off":
        return text.plain(f"shield and path counters {off(bpf)}")
    line = shield(bpf)
    if view.dropped_pps:
        line += f" ({view.dropped_pps:,.0f}/s)"
    c = bpf.strangers
    line += f"   strangers {counts(c) if c.packets else 'none'}"
    known: set[str] = set().union(*(_ends_of(p) for p in view.current.peers))
    if others := sum(p.remote not in known for p in bpf.paths):
        line += f"   paths of no peer {others}"
    dropped = [(n, SHIELD_WORDS.get(w, w)) for w, n in bpf.shield.items() if w not in SHIELD_PASSED]
    some = ", ".join(f"{w} {text.human_count(n)}" for n, w in sorted(dropped, reverse=True) if n)
    return text.plain(f"{line}   dropped as: {some}" if some else line)
