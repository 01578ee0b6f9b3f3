"""Where the output goes: a full disk, an encoding without arrows, a terminal that cannot move."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_agent import FakeAgent

WS = [sys.executable, "-m", "whalescale.cli"]


@pytest.mark.parametrize("words", [["--help"], ["version"], ["status"], ["status", "--json"]])
def test_a_full_disk_is_said_once(agent: FakeAgent, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*WS, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("ws: standard output: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_for_the_errors_too(runtime: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*WS, "status"], stdout=full, stderr=full, check=False)
    assert done.returncode == 3


@pytest.mark.parametrize("words", [["status"], ["top", "--once"], ["paths"], ["peers"]])
def test_an_output_that_is_ascii_only(agent: FakeAgent, words: list[str]) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([*WS, *words], capture_output=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"berlin" in done.stdout
    assert b"?" not in done.stdout
    assert done.stdout.isascii()
