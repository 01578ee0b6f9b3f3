"""The fuzzers of the receive path for longer, and how many datagrams they gave the engine."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tools.netlab import LabError
from tools.soak.conductor import ROOT
from tools.soak.report import save_fuzz

#: those whose inputs are datagrams
NAMES = ("receive", "paths")
OUT = ROOT / "build/fuzz"


def storm(name: str, seconds: int, seed: int) -> Path:
    """The target without libFuzzer (tests/fuzz/storm.c): for numbers. Returns the result's file."""
    binary = OUT / f"storm_{name}"
    build(binary)
    files = sorted((ROOT / "tests/fuzz/corpus" / name).iterdir())
    command: list[str | Path] = [binary, str(seconds), str(seed), *files]
    return finished(name, seconds, command)


def fuzz(name: str, seconds: int) -> Path:
    """Runs one; what it finds new is kept for the next time. Returns the result's file."""
    binary = OUT / f"fuzz_{name}"
    corpus = OUT / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    build(binary)
    command: list[str | Path] = [
        *(binary, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048"),
        *("-print_final_stats=1", f"-artifact_prefix={OUT}/{name}-"),
        *(corpus, ROOT / "tests/fuzz/corpus" / name),
    ]
    return finished(name, seconds, command)


def build(binary: Path) -> None:
    built = subprocess.run(
        ["make", "-s", "-C", ROOT / "tests/fuzz", f"OUT={OUT}", binary],
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode:
        raise LabError(f"{binary.name} does not build: {built.stderr[-2000:]}")


def finished(name: str, seconds: int, command: Sequence[str | Path]) -> Path:
    """Runs it to its end, and keeps what it said of itself."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 300,
    )
    runs = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    datagrams = re.search(r"stat::datagrams:\s+(\d+)", done.stderr)
    failed = done.returncode != 0 or runs is None
    if failed:
        (OUT / f"{name}.log").write_text(done.stderr)
    return save_fuzz(
        name,
        time.monotonic() - began,
        int(runs[1]) if runs else 0,
        int(datagrams[1]) if datagrams else 0,
        failed,
    )
