"""What a run's gaps, samples and logs say: nothing here touches a host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tools.soak.world import Window

#: beyond what the cut itself costs
STALL_S = 1.0
#: after a kill or a suspend of the other end, an end learns by the test limits that its key is
#: worth nothing: keepalive_timeout + rekey_timeout without an answer, and the next initiation if
#: that is lost too
RECOVERY_S = {"kill": 1.5, "suspend": 1.5}
#: a TCP that waits longest waits so long between two tries, where the kernel can be told so
TCP_RTO_S = 1.0
#: what a killed end had delivered it does not know any more, and the other end may send it again
FORGOTTEN_S = 5.0
#: memory and descriptors that a settled agent may gain
GROWTH_KIB = 4 * 1024
GROWTH_DESCRIPTORS = 8
#: what no log may have
WRONG = re.compile(r"Traceback|fault in whalescale|\bCRITICAL\b|\bERROR\b|Sanitizer|Exception")


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a flow brought nothing."""

    flow: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One agent at one time."""

    at: float
    born: float
    rss_kib: int
    descriptors: int


def merged(windows: Iterable[Window]) -> list[tuple[float, float]]:
    """The times that any of them covers, in order, without overlap."""
    out: list[tuple[float, float]] = []
    for window in sorted(windows, key=lambda w: w.began):
        if out and window.began <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], window.ended))
        else:
            out.append((window.began, window.ended))
    return out


def all_down(windows: Sequence[Window], kinds: Sequence[str]) -> list[Window]:
    """The times in which every one of these kinds (a cut of each link) was going on at once."""
    found = merged(w for w in windows if w.kind == kinds[0])
    for kind in kinds[1:]:
        other = merged(w for w in windows if w.kind == kind)
        found = [
            (max(a[0], b[0]), min(a[1], b[1]))
            for a in found
            for b in other
            if max(a[0], b[0]) < min(a[1], b[1])
        ]
    return [Window("every link down", *span) for span in found]


def covered(gap: Gap, windows: Iterable[Window]) -> float:
    """Seconds of the gap that the windows cover."""
    return sum(
        max(0.0, min(gap.ended, ended) - max(gap.began, began)) for began, ended in merged(windows)
    )


def beyond(
    gap: Gap, windows: Sequence[Window], starved_s: float = 0.0, tcp_rto_s: float = TCP_RTO_S
) -> float:
    """Seconds that a gap is longer than what was done in it costs.

    `starved_s`: how long the processes concerned waited for a processor meanwhile. `tcp_rto_s`: 0:
    TCP doubles its timer while nothing is answered, so it may notice an end as late again as the
    cut was long.
    """
    near = [w for w in windows if w.ended > gap.began - STALL_S and w.began < gap.ended]
    cost = covered(gap, near)
    if gap.flow == "tcp":
        cost = cost + tcp_rto_s if tcp_rto_s else 2 * cost
    cost += max((RECOVERY_S.get(w.kind, 0.0) for w in near), default=0.0)
    return max(0.0, gap.ended - gap.began - cost - starved_s)


def forgotten(at: float, windows: Iterable[Window]) -> bool:
    """Whether an agent was killed so shortly before that a packet may come a second time."""
    return any(w.kind == "kill" and w.began <= at <= w.ended + FORGOTTEN_S for w in windows)


def middle_of(samples: Sequence[Sample], name: str) -> int:
    """The median."""
    return int(sorted(getattr(s, name) for s in samples)[len(samples) // 2])


def growth(samples: Sequence[Sample], settled_s: float) -> tuple[int, int]:
    """KiB and descriptors that settled agents still gained: the most of any.

    From the middle of a life to its end: what Python keeps once it has used it is no leak.
    """
    lives: dict[float, list[Sample]] = {}
    for sample in samples:
        if sample.at - sample.born >= settled_s:
            lives.setdefault(sample.born, []).append(sample)
    memory = descriptors = 0
    for life in lives.values():
        third = len(life) // 3
        if not third:
            continue
        middle, last = life[third : 2 * third], life[-third:]
        memory = max(memory, middle_of(last, "rss_kib") - middle_of(middle, "rss_kib"))
        descriptors = max(
            descriptors, middle_of(last, "descriptors") - middle_of(middle, "descriptors")
        )
    return memory, descriptors


def wrong_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if WRONG.search(line)]


def left_behind(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What is there afterwards and was not before."""
    return [
        f"{what}: {line}"
        for what, lines in after.items()
        for line in lines
        if line not in before.get(what, ())
    ]


@dataclass
class Pings:
    """What `ping -D` printed."""

    came: int = 0
    gaps: list[Gap] = field(default_factory=list)
    #: when an answer came that had come before
    twice: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def pings(log: str, interval_s: float, clock_offset: float) -> Pings:
    """Its clock less ours is the offset."""
    found = Pings()
    last: float | None = None
    for line in log.splitlines():
        if "wrong data byte" in line:
            found.faults.append(f"ping: {line.strip()}")
        match = re.match(r"\[(\d+\.\d+)\] \d+ bytes from", line)
        if not match:
            continue
        at = float(match[1]) - clock_offset
        if "DUP!" in line:
            found.twice.append(at)
        found.came += 1
        if last is not None and at - last > 3 * interval_s:
            found.gaps.append(Gap("ping", last, at))
        last = at
    return found
