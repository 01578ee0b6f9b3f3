"""Every C leaf's test binary (ASan, UBSan, -Werror) is built and run as a test of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.making import make

HERE = Path(__file__).parent
#: `make coverage` counts what the tests of the leaves reach
COVERAGE = "--coverage -fprofile-abs-path" if os.environ.get("WS_COVERAGE") else ""
OUT = HERE.parents[1] / "build" / ("csrc-coverage" if COVERAGE else "csrc")
TESTS = sorted(path.stem for path in HERE.glob("test_*.c"))


def build(name: str, out: Path = OUT, defines: str = "") -> Path:
    """Builds a test binary, with the objects of those before it."""
    return make(HERE, out, name, f"WS_DEFINES={defines} {COVERAGE}")


def build_and_run(name: str, out: Path, defines: str = "", **environ: str) -> None:
    binary = build(name, out, defines)
    run = subprocess.run(
        [binary],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, f"{name} exited with {run.returncode}:\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize("name", TESTS)
def test_leaf(name: str) -> None:
    build_and_run(name, OUT)


@pytest.mark.long
@pytest.mark.parametrize("leaf", ["segment", "coalesce", "multipath", "scheduler"])
def test_leaf_at_length(leaf: str) -> None:
    """Every size of a segment, and several times as many rounds of what is random."""
    build_and_run(f"test_{leaf}", OUT, WS_TEST_WHOLE="1")


def test_aead_without_ipsec_mb() -> None:
    """The build of a machine that lacks Intel's header (ARM, other distributions)."""
    build_and_run("test_aead", OUT / "portable", "-DWS_WITHOUT_IPSEC_MB")


def test_every_tested_leaf_exists() -> None:
    """A renamed leaf must not silently take its test out of the build."""
    assert TESTS
    leaves = {path.stem for path in (HERE.parents[1] / "csrc").rglob("*.c")}
    assert {name.removeprefix("test_") for name in TESTS} <= leaves
