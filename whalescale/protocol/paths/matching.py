"""Which of the working paths take data: no bottleneck twice, no interface idle.

A pair joins an interface of ours and one of the peer's. First the pairs of interfaces that none
before has taken, shortest round trip first; then for each interface left its best pair, so that a
host with two links and a host with one use both links. Every path keeps an interface to itself at
one end at least. N separate subnets make N paths, and a router between them none more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from whalescale.protocol.candidates import NO_LINK, ends_of, near
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.types import PathState

#: round trips below this differ by chance
FLOOR_US: Final = 2000
#: a path in use is left for one that is clearly better
INCUMBENT: Final = 0.6
NEAR: Final = 0.8

#: our interface and the peer's
Ends = tuple[str, int | str]


def _order(path: Path, full: set[Ends]) -> tuple[bool, float, list[str], int]:
    """`full`: interfaces whose path in use is degraded, so a spare over them is no better: nothing
    that it could lose goes over it, and it would begin anew."""
    rtt = float(path.own_rtt_us + FLOOR_US)
    if path.used and not path.known:
        rtt = 0.0
    elif path.used or not path.id:
        # Path 0 alone needs no queue, no rate and no order: it is gone back to.
        rtt *= INCUMBENT
    local = path.local.ip if path.local is not None else ""
    if near(local, path.remote.ip):
        rtt *= NEAR
    # Equal ones: both sides choose the same.
    addresses = sorted((local, path.remote.ip))
    degraded = path.state is PathState.DEGRADED or (path.link is not None and _ends(path) in full)
    return degraded, rtt, addresses, path.id


def _own_end(ends: Ends, all_: list[Ends]) -> bool:
    """One of the two interfaces has no other path."""
    ours = sum(local == ends[0] for local, _ in all_)
    return ours == 1 or sum(remote == ends[1] for _, remote in all_) == 1


def _ends(path: Path) -> Ends:
    return ends_of(path.interface, path.remote, path.remote_link)


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """The best first."""
    every = list(paths)
    full = {_ends(p) for p in every if p.used and p.link and p.state is PathState.DEGRADED}
    return sorted(every, key=lambda path: _order(path, full))


def _meet(one: Ends, other: Ends) -> bool:
    """They have an interface in common."""
    return one[0] == other[0] or one[1] == other[1]


def _doubtful(path: Path, failed: list[Path]) -> bool:
    """A spare that has not answered since a path over one of its interfaces failed.

    Else, when a link goes silent, its next pair takes over, and then the one after that.
    """
    if path.used or path.link is None:
        return False
    last = path.answered_at or 0
    return any((p.failed_at or 0) > last and _meet(_ends(p), _ends(path)) for p in failed)


def choose(paths: Iterable[Path]) -> set[int]:
    """Numbers of the paths to use; empty if none works."""
    every = list(paths)
    failed = [p for p in every if p.state is PathState.FAILED and p.validated and p.link]
    alive = _sorted(p for p in every if p.alive and not p.pin.disabled)
    working = [p for p in alive if not _doubtful(p, failed)] or alive
    known = [p for p in working if p.link is not None]
    chosen: dict[int, Ends] = {}
    rest: list[Path] = []
    for path in known:
        ends = _ends(path)
        if any(_meet(ends, taken) for taken in chosen.values()):
            rest.append(path)
        else:
            chosen[path.id] = ends
    # An address without a number may be of an interface that has a path already.
    numbered = all(p.remote_link != NO_LINK for p in known if p.id in chosen)
    for path in rest:
        local, remote = _ends(path)
        new_local = all(local != of_ours for of_ours, _ in chosen.values())
        new_remote = all(remote != of_theirs for _, of_theirs in chosen.values())
        if not (new_local or (new_remote and numbered and path.remote_link != NO_LINK)):
            continue
        wider = [*chosen.values(), (local, remote)]
        if all(_own_end(ends, wider) for ends in wider):
            chosen[path.id] = local, remote
    # Through which interface an unknown local address leaves nobody knows.
    return set(chosen) or {p.id for p in working[:1]}


def one_each(paths: Iterable[Path], chosen: set[int]) -> set[int]:
    """Of the chosen only the best from each interface of ours."""
    best: dict[str, int] = {}
    for path in _sorted(p for p in paths if p.id in chosen):
        best.setdefault(path.interface, path.id)
    return set(best.values())
