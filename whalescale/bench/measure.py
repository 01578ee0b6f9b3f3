"""Commands that make load, what they printed, and what the machine says it spent.

Nothing here starts a process: a caller runs the command where it likes (here, in a namespace, on
another host) and gives the output back. All rates are of payload: what an application got.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

GB: Final = 1e9
MB: Final = 1e6
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

#: fields of /proc/stat's first line (proc(5)): user nice system idle iowait irq softirq steal ...
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_PING_TIME: Final = re.compile(r"\btime=([\d.]+) ms")


class MeasureError(Exception):
    """A measurement gave nothing that can be used; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class Load:
    """One iperf3 run. `bidir`: both directions at once, figures are their sum."""

    seconds: float = 5.0
    flows: int = 1
    bidir: bool = False
    reverse: bool = False
    udp_bytes: int = 0
    #: left out of the result: slow start
    omit: float = 0.0

    def client(self, address: str, port: int) -> list[str]:
        words = ["iperf3", "-J", "-c", address, "-p", str(port), "-t", f"{self.seconds:g}"]
        words += ["-P", str(self.flows)] if self.flows > 1 else []
        words += ["--bidir"] if self.bidir else []
        words += ["-R"] if self.reverse else []
        words += ["-O", f"{self.omit:g}"] if self.omit else []
        if self.udp_bytes:
            words += ["-u", "-b", "0", "-l", str(self.udp_bytes)]
        return words

    @property
    def timeout(self) -> float:
        """Seconds after which the run hangs rather than takes long."""
        return self.seconds + self.omit + 20.0


def iperf_server(address: str, port: int) -> list[str]:
    """Serves one client and ends."""
    return ["iperf3", "-s", "-1", "-B", address, "-p", str(port)]


@dataclass(frozen=True, slots=True)
class Carried:
    """What an iperf3 run carried: payload bytes received and the bits per second of it."""

    bits_per_second: float
    bytes: float
    retransmits: int
    sent_bytes: float = 0.0

    @property
    def gbps(self) -> float:
        return self.bits_per_second / 1e9


def parse_iperf(output: str) -> Carried:
    """iperf3's JSON. MeasureError: it failed, or carried nothing."""
    try:
        result: Any = json.loads(output)
    except ValueError:
        raise MeasureError(f"iperf3 gave no JSON: {_end_of(output)}") from None
    if not isinstance(result, dict):
        raise MeasureError("iperf3's JSON is no object")
    if "error" in result:
        raise MeasureError(f"iperf3: {result['error']}")
    end = result.get("end")
    if not isinstance(end, dict):
        raise MeasureError("iperf3's JSON has no end")
    try:
        # Not `sum`: for UDP that is what was sent.
        sums = [end["sum_received"], *[end[k] for k in ("sum_received_bidir_reverse",) if k in end]]
        bits = sum([float(s["bits_per_second"]) for s in sums], 0.0)
        received = sum([float(s["bytes"]) for s in sums], 0.0)
        sent = [s for key, s in end.items() if key.startswith("sum_sent")]
        sent_bytes = sum([float(s["bytes"]) for s in sent], 0.0)
        again = sum(int(s.get("retransmits", 0)) for s in sent)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MeasureError(f"iperf3's JSON lacks the sum of what came: {error}") from None
    if received <= 0:
        raise MeasureError("iperf3 carried nothing")
    return Carried(bits, received, again, sent_bytes)


def ping_command(address: str, count: int, interval_s: float) -> list[str]:
    words = ["ping", "-n", "-c", str(count), "-i", f"{interval_s:g}"]
    return [*words, "-w", str(int(count * interval_s) + 10), address]


def parse_ping(output: str) -> list[float]:
    """Round trips in ms, in order. MeasureError: none came back."""
    times = [float(t) for t in _PING_TIME.findall(output)]
    if not times:
        raise MeasureError(f"no ping came back: {_end_of(output)}")
    return times


def busy_seconds(stat: str | None = None) -> float:
    """CPU seconds that this machine's cores have worked since boot, of /proc/stat.

    Idle, waiting for disks and stolen by the hypervisor do not count; guest time is in user time.
    """
    text = Path("/proc/stat").read_text() if stat is None else stat
    words = text.split("\n", 1)[0].split()
    if not words or words[0] != "cpu" or len(words) < 8:
        raise MeasureError("/proc/stat has no line for all CPUs")
    ticks = [int(w) for w in words[1:9]]
    return sum(t for i, t in enumerate(ticks) if i not in (_IDLE, _IOWAIT, _STEAL)) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of a process. MeasureError: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        raise MeasureError(f"process {pid} is gone") from None


def process_seconds(pid: int) -> float:
    """CPU seconds of a process, all its threads, user and system. MeasureError: it is gone."""
    try:
        # proc(5): after the name, which may have anything in it, utime and stime are 12th and 13th.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS_PER_S
    except (OSError, IndexError, ValueError):
        raise MeasureError(f"process {pid} is gone") from None


def boot_id() -> str:
    """The same on two ends that are one machine, whose CPU time is then counted once."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def ratio_of_rounds(over: Sequence[float | None], under: Sequence[float | None]) -> float | None:
    """Median of the ratios of each round: what drifts between rounds hits both sides alike.

    Rounds in which either side is missing (or 0 stands below the line) do not count.
    """
    ratios = [a / b for a, b in zip(over, under, strict=False) if a is not None and b]
    return statistics.median(ratios) if ratios else None


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None without any."""
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed. ValueError: no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def _end_of(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][-200:] if lines else "nothing at all"
