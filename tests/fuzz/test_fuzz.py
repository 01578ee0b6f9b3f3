"""Every libFuzzer target runs for a bounded time on its corpus; a crash fails and leaves its input.

WS_FUZZ_SECONDS (default 2, and 20 with `-m long`) is the time per target. Inputs that crashed stay
in build/fuzz; the message names the file and how to run it again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.making import make
from tests.params import first

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "build" / "fuzz"
SECONDS = int(os.environ.get("WS_FUZZ_SECONDS", "2"))
LONGER = 20
PYTHON_TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))
# A start of an instrumented process on a loaded machine, and libFuzzer's last input.
GRACE_SECONDS = 180


@pytest.mark.timeout(SECONDS + LONGER + 4 * GRACE_SECONDS)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seconds", first(1, [SECONDS, LONGER]))
def test_target(name: str, seconds: int, tmp_path: Path) -> None:
    assert shutil.which("clang"), "the fuzz targets need clang with its run-time (apt: clang)"
    binary = make(HERE, OUT, f"fuzz_{name}", seconds=3 * GRACE_SECONDS)
    fuzz(name, [binary], seconds, tmp_path)


@pytest.mark.timeout(SECONDS + LONGER + 4 * GRACE_SECONDS)
@pytest.mark.parametrize("name", PYTHON_TARGETS)
@pytest.mark.parametrize("seconds", first(1, [SECONDS, LONGER]))
def test_python_target(name: str, seconds: int, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no build for this machine")
    OUT.mkdir(parents=True, exist_ok=True)
    fuzz(name, [sys.executable, HERE / f"fuzz_{name}.py"], seconds, tmp_path)


def fuzz(name: str, command: list[str | Path], seconds: int, tmp_path: Path) -> None:
    """Run a target on its corpus for `seconds`."""
    corpus = HERE / "corpus" / name
    seeds = list(corpus.iterdir()) if corpus.is_dir() else []
    assert seeds, f"{corpus} has no input: a target starts from what its format looks like"

    run = subprocess.run(
        [
            *command,
            f"-max_total_time={seconds}",
            "-timeout=30",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={OUT}/{name}-",
            tmp_path,  # what it finds new; the corpus in the tree is only read
            corpus,
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + GRACE_SECONDS,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert run.returncode == 0, (
        f"fuzz_{name} found a failing input; run it again with:\n"
        f"  {' '.join(map(str, command))} {OUT}/{name}-<file named below>\n{run.stderr[-8000:]}"
    )
    executed = re.search(r"stat::number_of_executed_units:\s+(\d+)", run.stderr)
    assert executed, run.stderr[-2000:]
    assert int(executed[1]) > len(seeds), "it ran its corpus and nothing more"
