"""The distance to the limit: what one packet costs in each part by itself, and in the whole.

A packet is 1,420 bytes and carries PAYLOAD_BYTES of TCP. The whole (Whalescale, no tunnel) is CPU
time of the machine over one flow; the parts are the benches of tests/csrc, each of which does
nothing else. Every packet is sealed once, opened once, copied four times between kernel and user,
sliced once and merged once more than without a tunnel.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tools.bench import load
from tools.bench.contestants import SUM, Pair
from tools.bench.model import Options
from tools.bench.targets import BARE, WS
from tools.benchkit.model import SkipError, Values
from tools.netlab import run
from tools.peers import ROOT
from whalescale.bench.measure import Load, MeasureError

#: 1,420 bytes less the heads of IPv4 and of TCP with timestamps
PAYLOAD_BYTES = 1368
SOURCES = ROOT / "tests/csrc"
FOLDER = ROOT / "build/csrc"
#: exit status of a bench that this machine cannot run
CANNOT = 2


def aead(output: str) -> dict[str, float]:
    """ns of the first cipher that is here, which is the one that an agent takes."""
    found = re.search(r"^\S+ +1420 bytes: .*?\bseal2 +(\d+) +open +(\d+) ns$", output, re.MULTILINE)
    if found is None:
        raise MeasureError("bench_aead names no cipher")
    return {"aead-seal": float(found[1]), "aead-open": float(found[2])}


def slicing(output: str) -> dict[str, float]:
    return {"slice": _one(output, r"^segment TCP/IPv4: ([\d.]+) ns a segment$")}


def merging(output: str) -> dict[str, float]:
    """Between two Whalescale agents inner checksums need not be verified."""
    return {"merge": _one(output, r"^coalesce TCP/IPv4, 1 flow\(s\), trusted: ([\d.]+) ns")}


def copies(output: str) -> dict[str, float]:
    names = ("tun-read", "udp-send", "udp-receive", "tun-write")
    return {name: _one(output, rf"^{name}: ([\d.]+) ns a packet$") for name in names}


def _one(output: str, pattern: str) -> float:
    found = re.search(pattern, output, re.MULTILINE)
    if found is None:
        raise MeasureError(f"a bench of tests/csrc says nothing like {pattern}")
    return float(found[1])


#: bench, and what its output says of which rows
BENCHES: dict[str, Callable[[str], dict[str, float]]] = {
    "bench_aead": aead,
    "bench_copies": copies,
    "bench_segment": slicing,
    "bench_coalesce": merging,
}
PARTS = {
    "aead-seal": "bench_aead",
    "aead-open": "bench_aead",
    "tun-read": "bench_copies",
    "udp-send": "bench_copies",
    "udp-receive": "bench_copies",
    "tun-write": "bench_copies",
    "slice": "bench_segment",
    "merge": "bench_coalesce",
}
CONTESTANTS = (WS, BARE, *PARTS, SUM)
METRICS = ("ns_per_packet", "s_per_gb")


def measure(name: str, options: Options) -> Values:
    """One row."""
    if name in PARTS:
        return _values(_run(PARTS[name])[name])
    if name != SUM:
        return _values(_whole(name, options))
    every = [ns for bench in BENCHES for ns in _run(bench).values()]
    return _values(_whole(BARE, options) + sum(every))


def _values(ns: float) -> Values:
    return {"ns_per_packet": ns, "s_per_gb": ns / PAYLOAD_BYTES}


def _whole(name: str, options: Options) -> float:
    with Pair(name) as pair:
        # Offers and first probes are Python's work, and no packet's.
        time.sleep(options.of(2.0, 0.5))
        carried = load.tcp(pair, Load(options.seconds))
    return carried["cpu_s_per_gb"] * PAYLOAD_BYTES


def _run(bench: str) -> dict[str, float]:
    program = _built(bench)
    done = run(program, check=False)
    if done.returncode == CANNOT:
        raise SkipError(f"{bench}: {done.stderr.strip()}")
    if done.returncode != 0:
        raise MeasureError(f"{bench} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return BENCHES[bench](done.stdout)


def _built(bench: str) -> Path:
    if shutil.which("make") is None or shutil.which("cc") is None:
        raise SkipError("the benches of tests/csrc need make and a C compiler")
    run("make", "-s", "-C", SOURCES, FOLDER / bench, timeout=120)
    return FOLDER / bench
