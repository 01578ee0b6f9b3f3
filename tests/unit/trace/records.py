"""Samples and peers for the tests of `ws trace`."""

from __future__ import annotations

from typing import Any

from whalescale.trace.flows import Flow, address_of
from whalescale.trace.join import Joiner, Record, multipath_of
from whalescale.trace.sockets import Sample

FLOW = Flow(address_of("10.77.0.1"), 40052, address_of("10.77.0.2"), 5201)


def sample(cookie: int = 1, flow: Flow = FLOW, **info: int) -> Sample:
    whole = {"rtt_us": 20_000, "rttvar_us": 500, "cwnd": 64, "total_retrans": 0, "dsack_dups": 0,
             "reord_seen": 0, "rcv_ooopack": 0, "bytes_acked": 0, "bytes_received": 0,
             "data_segs_out": 0, "delivery_rate_bps": 50_000_000} | info  # fmt: skip
    return Sample(flow, cookie, "established", "bbr", "open", whole)


def peer(**reordering: Any) -> dict[str, Any]:
    """As the agent tells it, with more than is known here."""
    return {"name": "berlin", "multipath": {"reordering": reordering, "paths": [{"id": 0}], "x": 1}}


def trace(
    steps: list[tuple[dict[str, int], dict[str, int] | None]], joiner: Joiner | None = None
) -> list[Record]:
    """A record every 100 ms, of (tcp_info, reordering) each."""
    joiner = joiner or Joiner("ws0")
    records = []
    for number, (info, reordering) in enumerate(steps):
        told = None if reordering is None else multipath_of(peer(**reordering))
        buffers = {} if told is None else {"berlin": told}
        at = number / 10
        records.append(
            joiner.step(50.0 + at, 1000.0 + at, [(sample(**info), "berlin")], buffers, None, {})
        )
    return records
