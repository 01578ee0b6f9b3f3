"""A trace as a picture: TCP above, the reordering buffer below, on one axis of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from whalescale.trace.join import BufferRow, FlowRow, Record

MISSING: Final = "drawing needs matplotlib"
FIX: Final = "`sudo apt install python3-matplotlib` or pip; --json keeps the figures without it"
#: so many flows and buffers keep their own colours
LINES_MAX: Final = 8
#: times and values, by flow or by peer
Series = dict[str, tuple[list[float], list[float]]]


def available() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _series(points: Iterable[tuple[str, float, float | None]]) -> Series:
    """Of (what, time, value): the first few that have any value."""
    series: Series = {}
    for key, t, y in points:
        if y is not None:
            times, values = series.setdefault(key, ([], []))
            times.append(t)
            values.append(y)
    return dict(list(series.items())[:LINES_MAX])


def _of_flows(
    records: Sequence[Record], value: Callable[[Record, FlowRow], float | None]
) -> Series:
    return _series((f.flow, r.t, value(r, f)) for r in records for f in r.flows)


def _of_buffers(records: Sequence[Record], value: Callable[[BufferRow], float]) -> Series:
    return _series((b.peer, r.t, value(b)) for r in records for b in r.buffers)


def _per_s(record: Record, change: dict[str, int] | None, *names: str) -> float | None:
    if not change or not record.interval_s:
        return None
    return sum(change.get(n, 0) for n in names) / record.interval_s


def goodput_mbps(record: Record, row: FlowRow) -> float | None:
    bytes_per_s = _per_s(record, row.change, "bytes_acked", "bytes_received")
    return None if bytes_per_s is None else bytes_per_s * 8 / 1e6


def draw(records: Sequence[Record], path: Path, other: Sequence[Record] = ()) -> None:
    """Writes a PNG. `other`: the other end's trace, whose buffer is drawn instead of this one's.

    ValueError: there is nothing in it to draw. OSError: it cannot be written.
    """
    if not any(r.flows or r.buffers for r in records):
        raise ValueError("the trace has no flow and no buffer in it")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    start = min(r.t for r in records)
    figure, axes = pyplot.subplots(
        6, 1, figsize=(11, 13), sharex=True, layout="constrained", squeeze=True
    )
    lower = other or records
    whose = "the other end's" if other else "this end's"
    panels: tuple[tuple[str, Series], ...] = (
        ("goodput, Mbit/s", _of_flows(records, goodput_mbps)),
        ("smoothed RTT, ms", _of_flows(records, lambda _, f: f.tcp.get("rtt_us", 0) / 1000)),
        ("cwnd, segments", _of_flows(records, lambda _, f: f.tcp.get("cwnd"))),
    )
    for axis, (title, series) in zip(axes, panels, strict=False):
        _lines(axis, title, series, start)
    _counts(axes[3], records, start)
    held = _of_buffers(lower, lambda b: float(b.reordering.depth))
    _lines(axes[4], f"packets in\n{whose} buffer", held, start)
    waits = _of_buffers(lower, lambda b: (b.wait_mean_us or 0.0) / 1000)
    _lines(axes[5], f"mean wait in\n{whose} buffer, ms", waits, start)
    _marks(axes[5], lower, start)
    axes[0].set_title(f"{records[0].interface}: TCP inside the tunnel and the reordering buffer")
    axes[-1].set_xlabel("s")
    try:
        figure.savefig(str(path), dpi=110)
    finally:
        pyplot.close(figure)


def _lines(axis: Any, title: str, series: Series, start: float) -> None:
    for name, (times, values) in series.items():
        axis.plot([t - start for t in times], values, label=name, linewidth=1)
    _finish(axis, title, bool(series))


def _counts(axis: Any, records: Sequence[Record], start: float) -> None:
    """What TCP took for loss, and what of it was none, summed over the flows."""
    kinds = (
        ("retransmitted", "total_retrans", "#c0392b", "x"),
        ("DSACK: needlessly", "dsack_dups", "#8e44ad", "+"),
        ("reordering seen", "reord_seen", "#d68910", "2"),
        ("came out of order", "rcv_ooopack", "#2563a8", "."),
    )
    some = False
    for label, name, colour, marker in kinds:
        points = [
            (r.t - start, sum((f.change or {}).get(name, 0) for f in r.flows)) for r in records
        ]
        points = [(t, n) for t, n in points if n]
        if points:
            some = True
            axis.plot(*zip(*points, strict=True), marker, label=label, color=colour)
    _finish(axis, "segments an interval", some)


def _marks(axis: Any, records: Sequence[Record], start: float) -> None:
    """Where the buffer gave something up."""
    for label, name, colour in (("skipped", "skipped", "#c0392b"), ("late", "late", "#d68910")):
        times = [
            r.t - start for r in records if any((b.change or {}).get(name, 0) for b in r.buffers)
        ]
        if times:
            axis.plot(times, [0] * len(times), "|", label=label, color=colour, markersize=12)
            axis.legend(loc="upper right", fontsize="small")


def _finish(axis: Any, title: str, some: bool) -> None:
    axis.set_ylabel(title, fontsize="small")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
    axis.grid(alpha=0.3)
    if some:
        axis.legend(loc="upper right", fontsize="small")
    else:
        axis.text(0.5, 0.5, "not seen", transform=axis.transAxes, ha="center", color="#808080")
