"""Samples and peers for the tests of `ws trace`."""

from __future__ import annotations

from whalescale.status import Multipath, Reordering
from whalescale.trace.flows import Flow, address_of
from whalescale.trace.join import Joiner, Record
from whalescale.trace.sockets import Sample

FLOW = Flow(address_of("10.77.0.1"), 40052, address_of("10.77.0.2"), 5201)


def sample(cookie: int = 1, flow: Flow = FLOW, **info: int) -> Sample:
    whole = {"rtt_us": 20_000, "rttvar_us": 500, "cwnd": 64, "total_retrans": 0, "dsack_dups": 0,
             "reord_seen": 0, "rcv_ooopack": 0, "bytes_acked": 0, "bytes_received": 0,
             "data_segs_out": 0, "delivery_rate_bps": 50_000_000} | info  # fmt: skip
    return Sample(flow, cookie, "established", "bbr", "open", whole)


def multipath(**reordering: int) -> Multipath:
    return Multipath(reordering=Reordering(**reordering))


def trace(
    steps: list[tuple[dict[str, int], dict[str, int] | None]], joiner: Joiner | None = None
) -> list[Record]:
    """A record every 100 ms, of (tcp_info, reordering) each."""
    joiner = joiner or Joiner("ws0")
    records = []
    for number, (info, reordering) in enumerate(steps):
        buffers = {} if reordering is None else {"berlin": multipath(**reordering)}
        at = number / 10
        samples = [(sample(1, FLOW, **info), "berlin")]
        records.append(joiner.step(50.0 + at, 1000.0 + at, samples, buffers, None, {}))
    return records
