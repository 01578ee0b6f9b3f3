"""What the live view knows: two snapshots and a history of rates. Pure, no clock: the time between
two snapshots is the difference of the agent's own uptime.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from whalescale.status import BpfPath, Path, Peer, Status

HISTORY: Final = 240
#: what of the shield's counters it let through; it dropped the rest
SHIELD_PASSED: Final = ("transport", "handshake")


class Rate(NamedTuple):
    """Bits per second on the wire; None where it is not known (first snapshot, restart)."""

    tx_bps: float | None = None
    rx_bps: float | None = None


UNKNOWN: Final = Rate()
#: a peer's name, and what makes a path: its number is used again by others
PathKey = tuple[str, int, str | None, str]


def path_key(peer: str, path: Path) -> PathKey:
    return peer, path.id, path.local, path.remote


@dataclass(frozen=True, slots=True)
class View:
    """Everything that `render.screen` draws."""

    current: Status
    total: Rate = UNKNOWN
    #: by peer name
    rates: dict[str, Rate] = field(default_factory=dict)
    #: by (local, remote), as the eBPF programs counted
    path_rates: dict[tuple[str, str], Rate] = field(default_factory=dict)
    #: of the paths of peers that speak multipath, as the data plane counted
    multipath_rates: dict[PathKey, Rate] = field(default_factory=dict)
    multipath_history: dict[PathKey, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    #: datagrams that the shield dropped, per second; None: not known
    dropped_pps: float | None = None
    #: by peer name: (tx, rx) per interval, oldest first
    history: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    selected: str | None = None
    paused: bool = False
    help: bool = False
    #: the members of the network are shown in place of the peers
    members: bool = False
    #: why there is no fresh snapshot, "" when there is one
    trouble: str = ""


def rate(before: Peer | Path | None, after: Peer | Path, seconds: float) -> Rate:
    if before is None or seconds <= 0:
        return Rate()
    return Rate(
        _bps(before.tx_bytes, after.tx_bytes, seconds),
        _bps(before.rx_bytes, after.rx_bytes, seconds),
    )


def _bps(before: int, after: int, seconds: float) -> float | None:
    return (after - before) * 8 / seconds if after >= before else None


def _path_rates(before: Status, after: Status, seconds: float) -> dict[tuple[str, str], Rate]:
    old = {(p.local, p.remote): p for p in before.bpf.paths}
    return {
        key: _path_rate(old.get(key), p, seconds)
        for p in after.bpf.paths
        if (key := (p.local, p.remote))
    }


def _path_rate(before: BpfPath | None, after: BpfPath, seconds: float) -> Rate:
    """A path that is new was at 0."""
    tx, rx = (before.tx.bytes, before.rx.bytes) if before is not None else (0, 0)
    return Rate(_bps(tx, after.tx.bytes, seconds), _bps(rx, after.rx.bytes, seconds))


def _multipath(status: Status) -> dict[PathKey, Path]:
    return {
        path_key(peer.name, path): path
        for peer in status.peers
        if peer.multipath is not None
        for path in peer.multipath.paths
    }


def _longer(
    history: tuple[tuple[float, float], ...] | None, rate: Rate
) -> tuple[tuple[float, float], ...]:
    return (*(history or ())[-HISTORY + 1 :], (rate.tx_bps or 0.0, rate.rx_bps or 0.0))


def _dropped(status: Status) -> int:
    return sum(n for what, n in status.bpf.shield.items() if what not in SHIELD_PASSED)


def first(status: Status) -> View:
    return View(current=status, selected=status.peers[0].name if status.peers else None)


def advance(view: View, status: Status) -> View:
    """The view after a new snapshot: rates from the difference, history one longer."""
    before = view.current
    same = before.agent.pid == status.agent.pid
    seconds = status.agent.uptime_s - before.agent.uptime_s if same else 0.0
    if same and seconds == 0:
        return replace(view, current=status, trouble="")
    old = {p.name: p for p in before.peers} if same else {}
    rates = {p.name: rate(old.get(p.name), p, seconds) for p in status.peers}
    history = {name: _longer(view.history.get(name), r) for name, r in rates.items()}
    ways = _multipath(before) if same else {}
    way_rates = {key: rate(ways.get(key), p, seconds) for key, p in _multipath(status).items()}
    ways_history = {k: _longer(view.multipath_history.get(k), r) for k, r in way_rates.items()}
    total, path_rates, dropped_pps = Rate(), {}, None
    if seconds > 0:
        path_rates = _path_rates(before, status, seconds)
        if (dropped := _dropped(status) - _dropped(before)) >= 0:
            dropped_pps = dropped / seconds
        total = Rate(
            _bps(before.counters.tx_bytes, status.counters.tx_bytes, seconds),
            _bps(before.counters.rx_bytes, status.counters.rx_bytes, seconds),
        )
    names = [p.name for p in status.peers]
    selected = view.selected if view.selected in names else (names[0] if names else None)
    return replace(
        view,
        current=status,
        total=total,
        rates=rates,
        path_rates=path_rates,
        multipath_rates=way_rates,
        multipath_history=ways_history,
        dropped_pps=dropped_pps,
        history=history,
        selected=selected,
        trouble="",
    )


def press(view: View, key: str) -> View | None:
    """The view after a key; None: leave."""
    if key == "q":
        return None
    if view.help:
        return replace(view, help=False)
    if key == "?":
        return replace(view, help=True)
    if key == "m":
        return replace(view, members=not view.members)
    if key == "space":
        return replace(view, paused=not view.paused)
    names = [p.name for p in view.current.peers]
    if not names:
        return view
    at = names.index(view.selected) if view.selected in names else 0
    steps = {"up": at - 1, "down": at + 1, "home": 0, "end": len(names) - 1}
    steps |= {"pageup": at - 10, "pagedown": at + 10}
    if key in steps:
        return replace(view, selected=names[min(max(steps[key], 0), len(names) - 1)])
    return view


_KEYS: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"g": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"G": "end",
    b"\x1b[5~": "pageup",
    b"\x1b[6~": "pagedown",
    b"m": "m",
    b"M": "m",
    b"q": "q",
    b"Q": "q",
    b"?": "?",
    b"h": "?",
    b" ": "space",
    b"p": "space",
}
_LONGEST_FIRST: Final = sorted(_KEYS, key=len, reverse=True)


def keys(data: bytes) -> list[str]:
    """What the terminal sent -> names of keys; what is not known here is skipped."""
    found: list[str] = []
    at = 0
    while at < len(data):
        for code in _LONGEST_FIRST:
            if data.startswith(code, at):
                found.append(_KEYS[code])
                at += len(code)
                break
        else:
            at += _skip(data, at)
    return found


def _skip(data: bytes, at: int) -> int:
    """Length of one unknown key; an escape sequence goes as a whole, its letters are no keys."""
    if data[at] != 0x1B:
        return 1
    if data[at + 1 : at + 2] == b"O":
        return 3
    if data[at + 1 : at + 2] != b"[":
        return 1
    end = at + 2
    while end < len(data) and not 0x40 <= data[end] <= 0x7E:
        end += 1
    return end - at + 1
