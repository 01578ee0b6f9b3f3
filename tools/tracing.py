#!/usr/bin/env python3
"""What `ws trace --json` wrote, drawn and summed up; both ends' traces laid over each other.

    python -m tools.tracing plot SENDER.jsonl [--other RECEIVER.jsonl] [-o FILE.png]
    python -m tools.tracing sum SENDER.jsonl [--other RECEIVER.jsonl] [--json]

The buffer that orders a flow's data stands at its receiver: --other takes that end's trace. The
clocks of the two must agree (one machine, or NTP). Exit status: 0 ok, 1 failed, 2 usage.
"""

from __future__ import annotations

import argparse
import bisect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from whalescale.trace import plot
from whalescale.trace.join import BufferRow, FlowRow, Record, decode, total

#: TCP notices what the buffer gave up after about a round trip, and repeats it in the next
RTTS = 2.0


class TracingError(Exception):
    """One line for the user."""


def load(path: Path) -> list[Record]:
    """TracingError: it cannot be read. A last line that was cut off (a killed trace) is let go."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TracingError(f"{path}: {error.strerror}") from None
    whole, cut = lines[:-1], lines[-1]
    records = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(decode(line))
        except ValueError as error:
            raise TracingError(f"{path}, line {number}: {error}") from None
    if not records:
        what = "only a cut line" if cut else "no record"
        raise TracingError(f"{path}: {what} in it; `ws trace --json` writes them")
    return records


def percent(part: float, whole: float) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def flow_figures(rows: Sequence[tuple[Record, FlowRow]]) -> dict[str, Any]:
    """One flow over the whole trace. Shares in per cent; None where nothing was counted."""
    sums = total(row.change for _, row in rows)
    seconds = sum(record.interval_s or 0.0 for record, row in rows if row.change is not None)
    again = sums.get("total_retrans", 0)
    moved = sums.get("bytes_acked", 0) + sums.get("bytes_received", 0)
    rtts = [row.tcp["rtt_us"] / 1000 for _, row in rows if row.tcp.get("rtt_us")]
    return {
        "congestion": rows[-1][1].congestion,
        "seconds": round(seconds, 2),
        "goodput_mbps": round(moved * 8 / 1e6 / seconds, 2) if seconds else None,
        "rtt_mean_ms": round(sum(rtts) / len(rtts), 2) if rtts else None,
        "rtt_max_ms": round(max(rtts), 2) if rtts else None,
        "retransmitted": again,
        "retransmitted_percent": percent(again, sums.get("data_segs_out", 0)),
        "dsack": sums.get("dsack_dups", 0),
        "needless_percent": percent(sums.get("dsack_dups", 0), again),
        "reordering_seen": sums.get("reord_seen", 0),
        "reordering_max": max((row.tcp.get("reordering", 0) for _, row in rows), default=0),
        "out_of_order_in": sums.get("rcv_ooopack", 0),
        "rwnd_limited_percent": percent(sums.get("rwnd_limited_us", 0), sums.get("busy_us", 0)),
        "sndbuf_limited_percent": percent(
            sums.get("sndbuf_limited_us", 0), sums.get("busy_us", 0)
        ),
    }  # fmt: skip


def buffer_figures(rows: Sequence[tuple[Record, BufferRow]]) -> dict[str, Any]:
    """One peer's buffer over the whole trace."""
    sums = total(row.change for _, row in rows)
    seconds = sum(record.interval_s or 0.0 for record, row in rows if row.change is not None)
    held = sums.get("held", 0)
    return {
        "seconds": round(seconds, 2),
        "delivered": sums.get("delivered", 0),
        "held_percent": percent(held, sums.get("delivered", 0)),
        "gaps_per_s": round(sums.get("gaps", 0) / seconds, 2) if seconds else None,
        "gaps_filled_percent": percent(sums.get("gaps_filled", 0), sums.get("gaps", 0)),
        "wait_mean_ms": round(sums["wait_us"] / held / 1000, 3) if held else None,
        "depth_seen": max(row.reordering.depth for _, row in rows),
        "late": sums.get("late", 0),
        "skipped": sums.get("skipped", 0),
        "skipped_full": sums.get("skipped_full", 0),
    }


def blamed(flow: Sequence[tuple[Record, FlowRow]], given_up: Sequence[float]) -> dict[str, Any]:
    """How many retransmissions followed, within two RTTs, on what the buffer gave up.

    `given_up`: when (UNIX s, ascending) an interval ended in which it skipped a packet or had one
    come late. Beside it the share of all intervals that did: what chance alone would give.
    """
    after, again, near = 0, 0, 0
    counted = [(r, f) for r, f in flow if f.change is not None]
    for record, row in counted:
        assert row.change is not None
        back_s = (record.interval_s or 0.0) + RTTS * row.tcp.get("rtt_us", 0) / 1e6
        at = bisect.bisect_left(given_up, record.t - back_s)
        followed = at < len(given_up) and given_up[at] <= record.t
        near += followed
        count = row.change.get("total_retrans", 0)
        again += count
        after += count if followed else 0
    return {
        "retransmitted": again,
        "after_given_up": after,
        "after_given_up_percent": percent(after, again),
        "by_chance_percent": percent(near, len(counted)),
    }


def summary(records: Sequence[Record], other: Sequence[Record] = ()) -> dict[str, Any]:
    """All figures of a trace, by flow and by peer. `other`: see the module."""
    flows: dict[str, list[tuple[Record, FlowRow]]] = {}
    for record in records:
        for row in record.flows:
            flows.setdefault(row.flow, []).append((record, row))
    buffers: dict[str, list[tuple[Record, BufferRow]]] = {}
    given_up = []
    for record in other or records:
        for buffer in record.buffers:
            buffers.setdefault(buffer.peer, []).append((record, buffer))
            change = buffer.change or {}
            if change.get("skipped", 0) or change.get("late", 0):
                given_up.append(record.t)
    given_up.sort()
    return {
        "version": 1,
        "buffer_of": "other" if other else "same",
        "flows": {
            name: flow_figures(rows) | ({"blame": blamed(rows, given_up)} if buffers else {})
            for name, rows in flows.items()
        },
        "buffers": {name: buffer_figures(rows) for name, rows in buffers.items()},
    }


def tell(figures: dict[str, Any]) -> str:
    """A summary as lines of text."""
    lines = []
    for kind, title in (("flows", "flow"), ("buffers", "buffer of packets from")):
        for name, values in figures[kind].items():
            lines.append(f"{title} {name}")
            flat = {k: v for k, v in values.items() if k != "blame"}
            flat |= {f"blame: {k}": v for k, v in values.get("blame", {}).items()}
            width = max(len(k) for k in flat)
            for key, value in flat.items():
                lines.append(
                    f"  {key.replace('_', ' '):{width}}  {'-' if value is None else value}"
                )
    return "\n".join(lines) or "no flow and no buffer in it"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/tracing", description="Look at traces.")
    commands = parser.add_subparsers(dest="command", required=True)
    drawn = commands.add_parser("plot", help="a PNG")
    summed = commands.add_parser("sum", help="figures of the whole trace")
    for one in (drawn, summed):
        one.add_argument("trace", type=Path, help="what `ws trace --json` wrote")
        one.add_argument("--other", type=Path, help="the receiver's: its buffer instead")
    drawn.add_argument("-o", "--output", type=Path, help="[the trace's name with .png]")
    summed.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    try:
        records = load(options.trace)
        other = load(options.other) if options.other else []
        if options.command == "sum":
            figures = summary(records, other)
            print(json.dumps(figures, indent=2) if options.json else tell(figures))
            return 0
        if not plot.available():
            raise TracingError(f"{plot.MISSING}; {plot.FIX}")
        output = options.output or options.trace.with_suffix(".png")
        plot.draw(records, output, other)
        print(output)
    except (TracingError, ValueError) as error:
        print(f"tracing: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"tracing: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
