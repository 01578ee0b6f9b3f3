"""A peer's paths and its reordering buffer, for `ws paths`, `ws status` and `ws top`. Pure.

Each figure of a path is one of COLUMNS. Those that do not fit the width go, least important first:
from the table into words below the path's line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from whalescale.status import Multipath, Path, Peer, Pin
from whalescale.tui import text
from whalescale.tui.paths import Row
from whalescale.tui.snapshot import UNKNOWN, PathKey, Rate, path_key

STATE_STYLES: Final = {
    "healthy": "green",
    "degraded": "yellow",
    "failed": "red",
    "probing": "cyan",
    "candidate": "dim",
}
#: what an event of a path says beside its state
EVENT_STYLES: Final = {**STATE_STYLES, "up": "green", "roamed": "cyan", "removed": "dim"}
GAP: Final = "  "
INDENT: Final = " " * 6
#: cells of a sparkline at least, or it is not there, and at most; and of the figures behind it
SPARK_LEAST: Final = 6
SPARK_MOST: Final = 60
SPARK_FIGURES: Final = 23
RATE_FIGURES: Final = 11


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a path; of those that do not fit, the greatest `rank` goes first."""

    title: str
    rank: int
    value: Callable[[Path, Rate], str]
    left: bool = False
    style: Callable[[Path], str] = lambda _: ""
    #: not there where no path has it
    optional: bool = False


COLUMNS: Final = (
    Column("path", 0, lambda p, _: str(p.id)),
    Column("interface", 0, lambda p, _: p.interface or text.NONE, left=True),
    Column(
        "state",
        0,
        lambda p, _: state_words(p),
        left=True,
        style=lambda p: state_style(p),  # noqa: PLW0108 - it stands below
    ),
    Column("RTT", 1, lambda p, _: text.human_ms(p.rtt_ms)),
    Column("jitter", 6, lambda p, _: text.human_ms(p.jitter_ms)),
    Column("loss", 3, lambda p, _: percent(p.loss)),
    Column("rate", 2, lambda p, _: text.human_rate(p.rate_bps or None)),
    Column("weight", 4, lambda p, _: percent(p.weight)),
    Column("queue", 5, lambda p, _: text.human_ms(p.queue_ms)),
    Column("sent", 7, lambda p, _: text.human_bytes(p.tx_bytes)),
    Column("received", 7, lambda p, _: text.human_bytes(p.rx_bytes)),
    Column("pinned", 8, lambda p, _: pin_words(p.pin) or text.NONE, left=True, optional=True),
    Column("local → remote", 9, lambda p, _: both(p), left=True),
    Column("RTT min", 10, lambda p, _: text.human_ms(p.rtt_min_ms)),
    Column("acked", 11, lambda p, _: text.human_rate(p.acked_bps)),
    Column("in flight", 12, lambda p, _: text.human_bytes(p.in_flight_bytes)),
    Column("packets to", 13, lambda p, _: text.human_count(p.max_packet)),
)
#: where there is a rate: what goes over the path now
LIVE_COLUMNS: Final = (
    *COLUMNS[:9],
    Column("↑ now", 7, lambda _, r: text.human_rate(r.tx_bps)),
    Column("↓ now", 7, lambda _, r: text.human_rate(r.rx_bps)),
    *COLUMNS[9:],
)
#: beside a path's sparklines, which tell the bytes
TOP_COLUMNS: Final = tuple(c for c in COLUMNS if c.title not in {"path", "sent", "received"})


def percent(share: float) -> str:
    """ "0 %", "0.13 %", "67 %"; anything above 0 is seen."""
    value = max(share, 0.0) * 100
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 0.95 else f"{max(value, 0.01):.2f} %"


def state_words(path: Path) -> str:
    """ "healthy", "healthy, spare", "healthy, relay", "failed", "disabled", "idle 40 s" """
    if path.pin.disabled:
        return "disabled"
    spare = path.state in ("healthy", "degraded") and not path.usable
    # What was not heard for so long may be gone: nobody shall read that it is well.
    state = f"idle {text.human_duration(path.heard_s)}" if path.is_idle else path.state
    words = f"{state}, spare" if spare else state
    return f"{words}, relay" if path.relayed else words


def state_style(path: Path) -> str:
    return "dim" if path.pin.disabled or path.is_idle else STATE_STYLES[path.state]


def both(path: Path) -> str:
    return f"{path.local or 'any'} → {path.remote}"


def pin_words(pin: Pin) -> str:
    """ "disabled, tier 1, at most 50 %"; "" for what nobody said anything of."""
    words = ["disabled"] if pin.disabled else []
    if pin.tier is not None:
        words.append(f"tier {pin.tier}")
    if pin.weight_cap < 1:
        words.append(f"at most {percent(pin.weight_cap)}")
    return ", ".join(words)


def shown(multipath: Multipath) -> list[Path]:
    """All but spare link-local pairs of an interface that another pair is in use on: for a reader
    that is one path. (JSON has them.)"""
    used = {p.interface for p in multipath.paths if p.usable}
    return [
        p
        for p in multipath.paths
        if p.usable or p.interface not in used or not p.remote.lower().startswith("[fe80:")
    ]


def spread(multipath: Multipath) -> str:
    """ "2 of 3 paths in use, edf" """
    found = shown(multipath)
    used = sum(p.usable for p in found)
    count = len(found)
    line = f"{used} of {count} path{'s' if count != 1 else ''} in use"
    return f"{line}, {multipath.scheduler}" if multipath.scheduling else line


def reordering(multipath: Multipath) -> str:
    r = multipath.reordering
    if not r.delivered and not r.refused:
        return "nothing came yet"
    n = text.human_count
    mean = r.wait_us / r.held / 1000 if r.held else 0.0
    line = (
        f"depth {n(r.depth)} (most {n(r.depth_max)}), gaps {n(r.gaps)} ({n(r.gaps_filled)} filled)"
        f", skipped {n(r.skipped)}, late {n(r.late)}; {n(r.held)} of {n(r.delivered)} waited"
        f" {text.human_ms(mean)}, most {text.human_ms(r.wait_max_us / 1000)}"
    )
    more = {"skipped as full": r.skipped_full, "copies": r.duplicates, "refused": r.refused}
    return line + "".join(f", {what} {n(count)}" for what, count in more.items() if count)


def queue(multipath: Multipath) -> str:
    m, n = multipath, text.human_count
    line = (
        f"{n(m.queue.packets)} packets waiting ({text.human_bytes(m.queue.bytes)})"
        f", dropped {n(m.queue.drops)}; urgent {n(m.urgent)}, sent again {n(m.again)}"
        f"; ACKs {n(m.acks_tx)} sent, {n(m.acks_rx)} received"
    )
    return f"{line}, {n(m.ack_refused)} refused" if m.ack_refused else line


class Grid(NamedTuple):
    """The head, a line for each path, and in words what did not fit."""

    head: Text
    lines: list[Text]
    rest: list[list[str]]


def grid(columns: Sequence[Column], rows: Sequence[tuple[Path, Rate]], width: int | None) -> Grid:
    """`width` None: as wide as it gets. The columns of rank 0 stay whatever the width."""
    cells = [[text.plain(c.value(p, r)) for c in columns] for p, r in rows]
    told = [
        i
        for i, c in enumerate(columns)
        if not (c.optional and all(row[i] == text.NONE for row in cells))
    ]
    widths = [max([len(c.title), *(len(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    shown, used = set[int](), -len(GAP)
    # The first that do not fit end it: a table with lesser figures in their stead would puzzle.
    for rank, group in groupby(
        sorted(told, key=lambda i: columns[i].rank), lambda i: columns[i].rank
    ):
        more = list(group)
        used += sum(widths[i] + len(GAP) for i in more)
        if rank and width is not None and used > width:
            break
        shown.update(more)
    head = Text(no_wrap=True, overflow="ellipsis", style="bold")
    lines = [Text(no_wrap=True, overflow="ellipsis") for _ in rows]
    for i in sorted(shown):
        c, gap = columns[i], GAP if head else ""
        head.append(gap + _padded(c.title, widths[i], c.left))
        for line, row, (path, _) in zip(lines, cells, rows, strict=True):
            line.append(gap)
            line.append(_padded(row[i], widths[i], c.left), style=c.style(path))
    hidden = [i for i in told if i not in shown]
    rest = [[_in_words(columns[i], row[i]) for i in hidden if row[i] != text.NONE] for row in cells]
    return Grid(head, lines, rest)


def _padded(value: str, width: int, left: bool) -> str:
    return value.ljust(width) if left else value.rjust(width)


def _in_words(column: Column, value: str) -> str:
    return value if column.title == "local → remote" else f"{column.title} {value}"


def of_peer(peer: Peer, width: int, rates: Mapping[PathKey, Rate] | None = None) -> RenderableType:
    """All there is to tell, for `ws paths`. `rates`: of the time since the last look."""
    name = Text(text.plain(peer.name), style="bold")
    m = peer.multipath
    if m is None or not m.paths:
        return Text.assemble(name, f": {why_none(peer)}")
    rows = [(p, (rates or {}).get(path_key(peer.name, p), UNKNOWN)) for p in shown(m)]
    made = grid(COLUMNS if rates is None else LIVE_COLUMNS, rows, width)
    parts: list[RenderableType] = [Text.assemble(name, f": {text.plain(spread(m))}"), made.head]
    for line, rest in zip(made.lines, made.rest, strict=True):
        parts.append(line)
        parts += [Text(f"{INDENT}{w}", style="dim") for w in folded(rest, width - len(INDENT))]
    for title, told in (("reordering", reordering(m)), ("queue     ", queue(m))):
        parts.append(Text.assemble((title, "bold"), GAP, told))
    return Group(*parts)


def folded(pieces: Sequence[str], width: int) -> list[str]:
    """Lines of whole pieces, with commas between them."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f", {piece}"
        else:
            lines.append(piece)
    return lines


def why_none(peer: Peer) -> str:
    """Why a peer has no paths to show."""
    if peer.state != "up":
        return f"no session ({peer.state})"
    if not peer.extended:
        return "one path only, as the peer is a plain WireGuard one"
    return "one path only: [multipath] is off here, or the peer does not speak of paths"


def brief(peers: Sequence[Peer], width: int) -> RenderableType | None:
    """One line a path, for `ws status`; None: there are none."""
    rows = [(peer.name, p) for peer in peers if peer.multipath for p in shown(peer.multipath)]
    if not rows:
        return None
    names = {id(p): name for name, p in rows}
    first = Column("peer", 0, lambda p, _: names[id(p)], left=True)
    made = grid((first, *COLUMNS), [(p, UNKNOWN) for _, p in rows], width)
    return Group(made.head, *made.lines)


def top_rows(
    peer: Peer,
    width: int,
    rates: Mapping[PathKey, Rate],
    history: Mapping[PathKey, Sequence[tuple[float, float]]],
    extra: Callable[[Path], list[str]],
) -> list[Row]:
    """For the detail pane: a line for each path, its sparklines, and what it has no room for.

    `width`: of a row's value. `history`: of this peer's paths. The sparklines of all of them have
    one scale, so that they compare. `extra`: lines of least importance about a path.
    """
    m = peer.multipath
    if m is None:
        return []
    paths = shown(m)
    made = grid(TOP_COLUMNS, [(p, UNKNOWN) for p in paths], width)
    top = max((max(pair) for h in history.values() for pair in h), default=0.0)
    found = [Row(1, "paths", spread(m)), Row(3, "", made.head)]
    for path, line, rest in zip(paths, made.lines, made.rest, strict=True):
        key = path_key(peer.name, path)
        spark = _sparks(path, rates.get(key, UNKNOWN), history.get(key, ()), top, width)
        # A spare has little to tell.
        spare = path.state != "failed" and not path.usable
        found += [
            Row(2 if spare else 1, f"path {path.id}", line),
            Row(6 if spare else 3, "", spark),
        ]
        found += [Row(6, "", Text(line, style="dim")) for line in folded(rest, width)]
        found += [Row(8, "", Text(text.plain(more), style="dim")) for more in extra(path)]
    found += [Row(2, "reordering", reordering(m)), Row(5, "queue", queue(m))]
    return found


def _sparks(
    path: Path, rate: Rate, history: Sequence[tuple[float, float]], top: float, width: int
) -> str:
    """ "↑ ▁▂▃ 31.2 Mbit/s (1.21 GiB)  ↓ ▁▁▂ ..." """
    bars = min((width - len(GAP)) // 2 - SPARK_FIGURES - 3, SPARK_MOST)
    # On a phone there is room for what goes on now alone.
    totals = width >= 2 * (SPARK_FIGURES + 2) + len(GAP)
    parts = []
    for arrow, values, bps, total in (
        ("↑", [tx for tx, _ in history], rate.tx_bps, path.tx_bytes),
        ("↓", [rx for _, rx in history], rate.rx_bps, path.rx_bytes),
    ):
        line = f" {text.sparkline(values, bars, top)}" if bars >= SPARK_LEAST else ""
        figures = f"{text.human_rate(bps):<{RATE_FIGURES}}"
        if totals:
            figures = f"{f'{figures.rstrip()} ({text.human_bytes(total)})':<{SPARK_FIGURES}}"
        parts.append(f"{arrow}{line} {figures}")
    return GAP.join(parts).rstrip()


def event(line: str) -> str | Text:
    """An event's words; those of a path with its state in colour."""
    plain = text.plain(line)
    words = plain.split(" ", 3)
    if len(words) < 3 or words[0] != "path":
        return plain
    what = words[2].rstrip(":")
    done = Text(plain)
    if style := EVENT_STYLES.get(what):
        at = len(words[0]) + len(words[1]) + 2
        done.stylize(style, at, at + len(what))
    return done
