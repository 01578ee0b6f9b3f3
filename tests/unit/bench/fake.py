"""Runs made up for the tests: two tunnels, a few rounds."""

from __future__ import annotations

from typing import Any

from tools.bench.model import Options, Run, Series
from tools.benchkit.model import Sample

MACHINE: dict[str, Any] = {
    "time": "2026-01-01 00:00:00 UTC",
    "kernel": "6.1.0",
    "architecture": "x86_64",
    "cpu": "A | CPU",
    "cpus": 2,
    "memory_mb": 1000,
    "virtual": True,
    "congestion_control": "cubic",
    "revision": "abc",
    "versions": {"whalescale": "0.1.0", "wireguard-go": ""},
}


def series(metric: str, *values: float | None, error: str = "it broke") -> Series:
    """A sample a value; None: that round failed."""
    samples = [
        Sample(n, {} if v is None else {metric: v}, error if v is None else "")
        for n, v in enumerate(values, start=1)
    ]
    return Series(samples)


def make_run(results: dict[str, dict[str, Series]], rounds: int = 5, seconds: float = 5.0) -> Run:
    return Run(Options(rounds, seconds), MACHINE, results, complete=True)


def tcp(whalescale: float, newest: float = 2.0) -> dict[str, dict[str, Series]]:
    """tcp1 of both; the machine drifts by a third over the rounds."""
    drift = (1.0, 0.9, 0.8, 0.7, 0.66)
    return {
        "tcp1": {
            "wireguard-go": series("gbps", *[newest * d for d in drift]),
            "whalescale": series("gbps", *[whalescale * d for d in drift]),
        }
    }
