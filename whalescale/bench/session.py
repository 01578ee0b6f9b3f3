"""What `ws bench HOST` measures: the tunnel, and beside it (round by round) the bare way there."""

from __future__ import annotations

import functools
import shutil
import statistics
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from whalescale.bench import blast, measure
from whalescale.bench.measure import Load, MeasureError
from whalescale.bench.remote import BenchError, Remote

VERSION: Final = 1
UDP_PAYLOAD: Final = 1200
SMALL_PAYLOAD: Final = 64
PINGS: Final = 100
#: what a sample takes beside its seconds
START_S: Final = 0.5

#: every figure, in the order of the table
FIGURES: Final = {
    "ping": "idle ping, median",
    "tcp1": "one TCP flow, from here",
    "tcp1-back": "one TCP flow, to here",
    "tcp4": "4 TCP flows",
    "tcp16": "16 TCP flows",
    "bidir": "TCP both ways at once",
    "udp": f"UDP, {UDP_PAYLOAD:,} bytes, sent singly (iperf3)",
    "udp64": f"UDP, {SMALL_PAYLOAD} bytes, sent in runs",
    "cpu": "CPU of both machines, one TCP flow",
}

WAYS: Final = ("tunnel", "bare")
#: ways to the other host, by name: "tunnel", and "bare" where it is wanted
Ways = dict[str, str]


@dataclass(slots=True)
class Row:
    """One figure: a value for each round and way. `errors`: the last one of each way.

    `notes`: what else is to be known of a way's figure. `skipped`: why there is none at all.
    """

    name: str
    title: str
    unit: str
    better: Literal["more", "less"]
    digits: int = 2
    values: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    skipped: str = ""

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
                "note": self.notes.get(way, ""),
            }
            for way, samples in self.values.items()
        }
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "better": self.better,
            "digits": self.digits,
            "skipped": self.skipped,
            **ways,
            "ratio": self.ratio,
        }

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Row:
        """What `as_json` made. KeyError, TypeError: it was something else."""
        row = cls(*(table[key] for key in ("name", "title", "unit", "better", "digits")))
        row.skipped = table["skipped"]
        for way in (w for w in WAYS if w in table):
            row.values[way] = list(table[way]["samples"])
            for kept, key in ((row.errors, "error"), (row.notes, "note")):
                if table[way][key]:
                    kept[way] = table[way][key]
        return row


def make_row(name: str) -> Row:
    title = FIGURES[name]
    match name:
        case "ping":
            return Row(name, title, "ms", "less", 3)
        case "cpu":
            return Row(name, title, "s/GB", "less")
        case "udp64":
            return Row(name, title, "million/s", "more", 3)
    return Row(name, title, "Gbit/s", "more")


class Session:
    """A measurement under way. `rows` fill while it runs."""

    def __init__(
        self, remote: Remote, ways: Ways, rounds: int, seconds: float, only: Collection[str] = ()
    ) -> None:
        """`only`: names of FIGURES, all if empty."""
        self._remote = remote
        self._ways = ways
        self._rounds = rounds
        self._seconds = seconds
        rows = {name: make_row(name) for name in FIGURES}
        wanted = [name for name in FIGURES if not only or name in only]
        loads = {
            "tcp1": Load(seconds),
            "tcp1-back": Load(seconds, reverse=True),
            "tcp4": Load(seconds, flows=4),
            "tcp16": Load(seconds, flows=16),
            "bidir": Load(seconds, bidir=True),
            "udp": Load(seconds, udp_bytes=UDP_PAYLOAD),
        }
        # The CPU figure comes of the run of one flow.
        run = {"tcp1" if name == "cpu" else name for name in wanted}
        self._loads = {name: load for name, load in loads.items() if name in run}
        self._by_load = {name: rows[name] for name in loads}
        self._cpu, self._ping, self._small = rows["cpu"], rows["ping"], rows["udp64"]
        self._alone = [row for row in (self._ping, self._small) if row.name in run]
        self.rows: list[Row] = [rows[name] for name in wanted]
        for row in rows.values():
            row.skipped = self._lacks(row.name)

    def _lacks(self, name: str) -> str:
        """Why a figure cannot be had on these two machines; "" if it can."""
        if name == "udp64":
            older = "the other end's `ws` is older and does not count small packets"
            return "" if "sink" in self._remote.does else older
        program = "ping" if name == "ping" else "iperf3"
        if shutil.which(program) is None:
            package = "iputils-ping" if program == "ping" else program
            return f"there is no `{program}` on this machine (`sudo apt install {package}`)"
        if program == "iperf3" and "iperf" not in self._remote.does:
            return "there is no `iperf3` on the other machine (`sudo apt install iperf3`)"
        return ""

    @property
    def estimate(self) -> float:
        """Seconds, roughly."""
        turn = sum(
            self._seconds + START_S
            for row in (self._small, *(self._by_load[name] for name in self._loads))
            if not row.skipped and (row is not self._small or row in self._alone)
        )
        if self._ping in self._alone and not self._ping.skipped:
            turn += PINGS * 0.01
        return turn * self._rounds * len(self._ways)

    def run(self, doing: Callable[[str], None]) -> None:
        """Every round has every way in turn. A failure is a row's error, not the end."""
        for number in range(1, self._rounds + 1):
            for row, take in self._steps():
                if row.skipped:
                    continue
                for way, address in self._ways.items():
                    doing(f"round {number} of {self._rounds}: {row.title}, {way}")
                    take(row, way, address)

    def _steps(self) -> Iterator[tuple[Row, Callable[[Row, str, str], None]]]:
        if self._ping in self._alone:
            yield self._ping, self._take_ping
        for name, load in self._loads.items():
            yield self._by_load[name], functools.partial(self._load, load)
        if self._small in self._alone:
            yield self._small, self._blast

    def _take_ping(self, row: Row, way: str, address: str) -> None:
        self._keep(row, way, functools.partial(self._pinged, address))

    def _keep(self, row: Row, way: str, take: Callable[[], float]) -> None:
        samples = row.values.setdefault(way, [])
        try:
            samples.append(take())
        except (MeasureError, BenchError, OSError) as error:
            samples.append(None)
            row.errors[way] = str(error)

    def _load(self, load: Load, row: Row, way: str, address: str) -> None:
        cost: list[float] = []

        def take() -> float:
            carried, spent = self._carried(address, load)
            cost.append(spent / (carried.bytes / measure.GB))
            if load.udp_bytes and carried.bytes >= blast.ALL * carried.sent_bytes:
                row.notes[way] = "all that was sent arrived: iperf3 is the limit"
            return carried.gbps

        self._keep(row, way, take)
        if row.name == "tcp1":
            self._cpu.values.setdefault(way, []).append(cost[0] if cost else None)
            if way in row.errors:  # the flow's row need not be among ours
                self._cpu.errors[way] = row.errors[way]

    def _blast(self, row: Row, way: str, address: str) -> None:
        def take() -> float:
            port = self._remote.sink(address, SMALL_PAYLOAD)
            sent = blast.send(address, port, SMALL_PAYLOAD, self._seconds)
            counted = self._remote.counted()
            if note := blast.limit(sent, counted):
                row.notes[way] = note
            return blast.rate(sent, counted) / 1e6

        self._keep(row, way, take)

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
        return document(self.rows, self._rounds, self._seconds)


def document(rows: Iterable[Row], rounds: int, seconds: float) -> dict[str, Any]:
    """What `ws bench --json` prints."""
    figures = [row.as_json() for row in rows]
    return {"version": VERSION, "rounds": rounds, "seconds": seconds, "figures": figures}


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
