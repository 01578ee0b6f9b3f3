"""The buffer's statistics and TCP's, of the same interval, in one record. Pure: time is given.

A record is a line of `ws trace --json`. The reordering buffer stands where packets come in, so a
host's own buffer orders what it receives: beside a flow that mainly sends stands the buffer of its
ACKs, and the buffer of its data is the other host's. Trace both ends and lay one over the other
(`python -m tools.tracing`): `t` is the clock of the wall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from whalescale.status import Multipath, Path, Reordering
from whalescale.structs import Struct, msgspec
from whalescale.trace import tcpinfo

if TYPE_CHECKING:
    from whalescale.trace.events import Retransmission
    from whalescale.trace.sockets import Sample

VERSION: Final = 1


#: what grows; the rest is how it is now
SUMS: Final = tuple(
    name
    for name in Reordering.__struct_fields__
    if name not in {"depth", "depth_max", "wait_max_us"}
)


class FlowRow(Struct, frozen=True, kw_only=True):
    """One TCP flow. `change`: what its counters grew by in this interval, None in its first."""

    flow: str
    peer: str | None
    state: str
    congestion: str
    ca_state: str
    tcp: dict[str, int]
    change: dict[str, int] | None
    #: when in this interval (UNIX s) it sent something again; None: nobody watched
    retransmits: tuple[float, ...] | None


class BufferRow(Struct, frozen=True, kw_only=True):
    """One peer's buffer. `wait_mean_us`: of the packets held in this interval, None without any."""

    peer: str
    reordering: Reordering
    change: dict[str, int] | None
    wait_mean_us: float | None
    paths: tuple[Path, ...] = ()


class Record(Struct, frozen=True, kw_only=True):
    """One interval. `t`: its end, UNIX seconds; `interval_s`: how long it was, None for the first.

    `missing`: what could not be seen ("buffer", "events"), and why.
    """

    version: int = VERSION
    t: float
    interval_s: float | None
    interface: str
    flows: tuple[FlowRow, ...] = ()
    flows_left_out: int = 0
    buffers: tuple[BufferRow, ...] = ()
    missing: dict[str, str] = {}


def total(changes: Iterable[dict[str, int] | None]) -> dict[str, int]:
    """Sums of counters; intervals that know no change are left out."""
    summed: dict[str, int] = {}
    for change in changes:
        for name, value in (change or {}).items():
            summed[name] = summed.get(name, 0) + value
    return summed


def encode(record: Record) -> bytes:
    """A line of JSON, without its end."""
    return msgspec.json.encode(record)


def decode(line: bytes) -> Record:
    """ValueError: no record of a version that is known here."""
    try:
        record = msgspec.json.decode(line, type=Record)
    except msgspec.MsgspecError as e:
        raise ValueError(str(e)) from None
    if record.version != VERSION:
        raise ValueError(f"trace version {record.version}, known here: {VERSION}")
    return record


def growth(
    before: Mapping[str, int] | None, now: Mapping[str, int], names: Sequence[str]
) -> dict[str, int] | None:
    """What each counter grew by; None where there is no before, or it started anew."""
    if before is None:
        return None
    change = {n: now[n] - before[n] for n in names if n in now and n in before}
    return None if any(value < 0 for value in change.values()) else change


class Joiner:
    """Remembers the interval before."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._sockets: dict[int, dict[str, int]] = {}
        self._buffers: dict[str, dict[str, int]] = {}
        self._at_s: float | None = None

    def step(
        self,
        now_s: float,
        unix_s: float,
        samples: Sequence[tuple[Sample, str | None]],
        buffers: Mapping[str, Multipath],
        retransmissions: Sequence[Retransmission] | None,
        missing: Mapping[str, str],
        left_out: int = 0,
    ) -> Record:
        """The record of the interval that ends now.

        `samples`: with the peer's name; `retransmissions`: of any flow, None: nobody watched.
        `now_s` is of the monotonic clock, as the times of the retransmissions are.
        """
        flows = tuple(self._flow(s, p, retransmissions, unix_s - now_s) for s, p in samples)
        rows = tuple(self._buffer(name, m) for name, m in buffers.items())
        record = Record(
            t=round(unix_s, 6),
            interval_s=None if self._at_s is None else round(now_s - self._at_s, 6),
            interface=self._interface,
            flows=flows,
            flows_left_out=left_out,
            buffers=rows,
            missing=dict(missing),
        )
        self._at_s = now_s
        self._sockets = {s.cookie: s.info for s, _ in samples}
        self._buffers = {n: msgspec.structs.asdict(m.reordering) for n, m in buffers.items()}
        return record

    def _flow(
        self,
        sample: Sample,
        peer: str | None,
        retransmissions: Sequence[Retransmission] | None,
        to_unix_s: float,
    ) -> FlowRow:
        times = None
        if retransmissions is not None:
            its = (r.at_s for r in retransmissions if r.flow == sample.flow)
            times = tuple(round(at + to_unix_s, 6) for at in its)
        return FlowRow(
            flow=str(sample.flow),
            peer=peer,
            state=sample.state,
            congestion=sample.congestion,
            ca_state=sample.ca_state,
            tcp=sample.info,
            change=growth(self._sockets.get(sample.cookie), sample.info, tcpinfo.COUNTERS),
            retransmits=times,
        )

    def _buffer(self, name: str, multipath: Multipath) -> BufferRow:
        now = msgspec.structs.asdict(multipath.reordering)
        change = growth(self._buffers.get(name), now, SUMS)
        held = change["held"] if change else 0
        return BufferRow(
            peer=name,
            reordering=multipath.reordering,
            change=change,
            wait_mean_us=change["wait_us"] / held if change and held else None,
            paths=multipath.paths,
        )
