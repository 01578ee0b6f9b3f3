"""Records -> renderables of rich. Pure. Every colour stands beside a figure or a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whalescale.trace.join import BufferRow, FlowRow, Record, total
from whalescale.tui import text

#: rates are over so long
WINDOW_S: Final = 1.0
NO_FLOWS: Final = "no TCP flow of this host goes through {interface} now"


class Recent(NamedTuple):
    """The last second of a flow and of the buffer of its peer."""

    flow: FlowRow
    buffer: BufferRow | None
    seconds: float
    tcp: dict[str, int]
    reordering: dict[str, int]
    wait_us: float | None


class Column(NamedTuple):
    """`least`: from which width of the terminal on it is there."""

    name: str
    least: int
    cell: Callable[[Recent], str]


def _count(name: str) -> Callable[[Recent], str]:
    """A sum, and what the last second added."""

    def cell(recent: Recent) -> str:
        if name not in recent.flow.tcp:
            return text.NONE
        more = recent.tcp.get(name, 0)
        return f"{text.human_count(recent.flow.tcp[name])}{f' +{more}' if more else ''}"

    return cell


def _buffer(cell: Callable[[Recent, BufferRow], str]) -> Callable[[Recent], str]:
    return lambda recent: text.NONE if recent.buffer is None else cell(recent, recent.buffer)


def _ms(us: float | None) -> str:
    return text.human_ms(None if us is None else us / 1000)


def _rtt(recent: Recent) -> str:
    rtt_us, var_us = (recent.flow.tcp.get(n, 0) / 1000 for n in ("rtt_us", "rttvar_us"))
    return f"{rtt_us:.1f}±{var_us:.1f}"


def _rate(recent: Recent) -> str:
    return text.human_rate(recent.flow.tcp.get("delivery_rate_bps"))


def _goodput(recent: Recent) -> str:
    moved = recent.tcp.get("bytes_acked", 0) + recent.tcp.get("bytes_received", 0)
    return text.human_rate(moved * 8 / recent.seconds) if recent.seconds else text.NONE


def _gaps(recent: Recent, _: BufferRow) -> str:
    gaps = recent.reordering.get("gaps")
    return text.NONE if gaps is None or not recent.seconds else f"{gaps / recent.seconds:.0f}"


TCP_COLUMNS: Final = (
    Column("peer", 130, lambda r: text.plain(r.flow.peer or text.NONE)),
    Column("control", 155, lambda r: f"{text.plain(r.flow.congestion)} {r.flow.ca_state}"),
    Column("RTT ms", 0, _rtt),
    Column("cwnd", 80, lambda r: text.human_count(r.flow.tcp.get("cwnd", 0))),
    Column("delivery", 90, _rate),
    Column("goodput", 170, _goodput),
    Column("retrans", 0, _count("total_retrans")),
    Column("reord", 0, _count("reord_seen")),
    Column("DSACK", 0, _count("dsack_dups")),
    Column("ooo in", 142, _count("rcv_ooopack")),
)
BUFFER_COLUMNS: Final = (
    Column("buffer", 0, _buffer(lambda _, b: f"{b.reordering.depth}/{b.reordering.depth_max}")),
    Column("gaps/s", 104, _buffer(_gaps)),
    Column("wait", 104, _buffer(lambda r, _: _ms(r.wait_us))),
    Column("late", 118, _buffer(lambda _, b: text.human_count(b.reordering.late))),
    Column("skipped", 118, _buffer(lambda _, b: text.human_count(b.reordering.skipped))),
)


def window(records: Sequence[Record]) -> list[Record]:
    """Of the records (oldest first), those of the last second."""
    kept: list[Record] = []
    seconds = 0.0
    for record in reversed(records):
        kept.append(record)
        seconds += record.interval_s or 0.0
        if seconds >= WINDOW_S - 1e-3:
            break
    return kept[::-1]


def recent(records: Sequence[Record]) -> list[Recent]:
    """A row a flow of the last record, summed over all of these."""
    last = records[-1]
    seconds = sum(r.interval_s or 0.0 for r in records)
    buffers = {b.peer: b for b in last.buffers}
    rows = []
    for flow in last.flows:
        tcp = total(f.change for r in records for f in r.flows if f.flow == flow.flow)
        buffer = buffers.get(flow.peer or "")
        parts = [b.change for r in records for b in r.buffers if b.peer == flow.peer]
        reordering = total(parts)
        held = reordering.get("held", 0)
        wait_us = reordering["wait_us"] / held if held else None
        rows.append(Recent(flow, buffer, seconds, tcp, reordering, wait_us))
    return rows


def screen(records: Sequence[Record], width: int, height: int | None = None) -> RenderableType:
    """The last second of these records (oldest first, at least one), for a terminal this wide.

    `height`: how many lines there are; what does not fit is counted.
    """
    shown = window(records)
    last = shown[-1]
    parts: list[RenderableType] = []
    rows = recent(shown)
    room = len(rows) if height is None else max((height - 4 - len(last.missing)) // 2, 1)
    if rows:
        parts.append(_table(rows[:room], width))
    else:
        parts.append(Text(NO_FLOWS.format(interface=text.plain(last.interface)), style="dim"))
    more = max(len(rows) - room, 0) + last.flows_left_out
    if more:
        parts.append(Text(f"{more} more flows: choose with --flow or --peer", style="dim"))
    for what, why in last.missing.items():
        parts.append(Text(f"no {what}: {text.plain(why)}", style="yellow"))
    return Group(*parts)


def _table(rows: Sequence[Recent], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    tcp = [c for c in TCP_COLUMNS if width >= c.least]
    buffer = [c for c in BUFFER_COLUMNS if width >= c.least]
    table.add_column("flow", no_wrap=True, overflow="ellipsis", min_width=16)
    for column in tcp:
        words = column.name in {"peer", "control"}
        table.add_column(column.name, justify="left" if words else "right", no_wrap=True)
    # Right of this line the figures are the tunnel's; "buffer" is the packets in it now / at most.
    table.add_column("│", no_wrap=True, style="cyan")
    for column in buffer:
        table.add_column(column.name, justify="right", no_wrap=True, style="cyan")
    for row in rows:
        source, _, destination = row.flow.flow.rpartition("-")
        table.add_row(
            Text(f"{source}\n→ {destination}"),
            *(c.cell(row) for c in tcp),
            "│" if row.buffer else "│ none",
            *(c.cell(row) for c in buffer),
        )
    return table
