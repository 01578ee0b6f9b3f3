"""What `ws bench HOST` measures: the tunnel, and beside it (round by round) the bare way there."""

from __future__ import annotations

import functools
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from whalescale.bench import measure
from whalescale.bench.measure import Load, MeasureError
from whalescale.bench.remote import BenchError, Remote

VERSION: Final = 1
UDP_PAYLOAD: Final = 1200
PINGS: Final = 100

#: ways to the other host, by name: "tunnel", and "bare" where it is wanted
Ways = dict[str, str]


@dataclass(slots=True)
class Row:
    """One figure: a value for each round and way. `errors`: the last one of each way."""

    name: str
    title: str
    unit: str
    better: Literal["more", "less"]
    digits: int = 2
    values: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, way: str) -> float | None:
        return measure.median(self.values.get(way, []))

    @property
    def ratio(self) -> float | None:
        """Tunnel to bare, median of the rounds."""
        return measure.ratio_of_rounds(self.values.get("tunnel", []), self.values.get("bare", []))

    def as_json(self) -> dict[str, Any]:
        ways = {
            way: {
                "median": self.median(way),
                "samples": samples,
                "error": self.errors.get(way, ""),
            }
            for way, samples in self.values.items()
        }
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "better": self.better,
            **ways,
            "ratio": self.ratio,
        }


def _row(name: str, title: str, unit: str, better: Literal["more", "less"] = "more") -> Row:
    return Row(name, title, unit, better)


class Session:
    """A measurement under way. `rows` fill while it runs."""

    def __init__(self, remote: Remote, ways: Ways, rounds: int, seconds: float) -> None:
        self._remote = remote
        self._ways = ways
        self._rounds = rounds
        self._seconds = seconds
        self._loads = {
            "tcp1": Load(seconds),
            "tcp1-back": Load(seconds, reverse=True),
            "tcp4": Load(seconds, flows=4),
            "bidir": Load(seconds, bidir=True),
            "udp": Load(seconds, udp_bytes=UDP_PAYLOAD),
        }
        self._cpu = _row("cpu", "CPU of both machines, one TCP flow", "s/GB", "less")
        self._ping = Row("ping", "idle ping, median", "ms", "less", 3)
        titles = {
            "tcp1": "one TCP flow, from here",
            "tcp1-back": "one TCP flow, to here",
            "tcp4": "4 TCP flows",
            "bidir": "TCP both ways at once",
            "udp": f"UDP, {UDP_PAYLOAD:,} bytes",
        }
        by_load = {name: _row(name, title, "Gbit/s") for name, title in titles.items()}
        self._by_load = by_load
        self.rows: list[Row] = [self._ping, *by_load.values(), self._cpu]

    @property
    def estimate(self) -> float:
        """Seconds, roughly."""
        turn = len(self._loads) * (self._seconds + 0.5) + PINGS * 0.01
        return turn * self._rounds * len(self._ways)

    def run(self, doing: Callable[[str], None]) -> None:
        """Every round has every way in turn. A failure is a row's error, not the end."""
        for number in range(1, self._rounds + 1):
            for way, address in self._ways.items():
                doing(f"round {number} of {self._rounds}: {self._ping.title}, {way}")
                self._keep(self._ping, way, functools.partial(self._pinged, address))
            for name, load in self._loads.items():
                row = self._by_load[name]
                for way, address in self._ways.items():
                    doing(f"round {number} of {self._rounds}: {row.title}, {way}")
                    self._load(row, way, address, load)

    def _keep(self, row: Row, way: str, take: Callable[[], float]) -> None:
        samples = row.values.setdefault(way, [])
        try:
            samples.append(take())
        except (MeasureError, BenchError, OSError) as error:
            samples.append(None)
            row.errors[way] = str(error)

    def _load(self, row: Row, way: str, address: str, load: Load) -> None:
        cost: list[float] = []

        def take() -> float:
            carried, spent = self._carried(address, load)
            cost.append(spent / (carried.bytes / measure.GB))
            return carried.gbps

        self._keep(row, way, take)
        if row.name == "tcp1":
            self._cpu.values.setdefault(way, []).append(cost[0] if cost else None)

    def _pinged(self, address: str) -> float:
        out = _run(measure.ping_command(address, PINGS, 0.01), PINGS * 0.01 + 15)
        return statistics.median(measure.parse_ping(out))

    def _carried(self, address: str, load: Load) -> tuple[measure.Carried, float]:
        """What came over, and the CPU seconds of both machines (once, if they are the same)."""
        port = self._remote.iperf(address)
        here, there = measure.busy_seconds(), self._remote.cost()
        out = _run(load.client(address, port), load.timeout)
        after, there_after = measure.busy_seconds(), self._remote.cost()
        spent = after - here
        if there[1] != measure.boot_id():
            spent += there_after[0] - there[0]
        return measure.parse_iperf(out), spent

    def as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "rounds": self._rounds,
            "seconds": self._seconds,
            "figures": [row.as_json() for row in self.rows],
        }


def _run(command: list[str], timeout: float) -> str:
    """Its output, whatever its exit code: what it printed tells more."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise MeasureError(f"`{command[0]}` took more than {timeout:g} s") from None
    except FileNotFoundError:
        fix = f"`sudo apt install {'iputils-ping' if command[0] == 'ping' else command[0]}`"
        raise BenchError(f"there is no `{command[0]}` on this machine", fix) from None
    return done.stdout or done.stderr
