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


def test_60_columns_cut_nothing(agent: FakeAgent) -> None:
    env = {**os.environ, "COLUMNS": "60"}
    done = subprocess.run([*WS, "status"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0
    peer = agent.answers["status"]["peers"][0]
    for piece in (peer["name"], peer["state"], peer["endpoint"], *peer["allowed_ips"]):
        assert piece in done.stdout
    assert all(len(line) <= 60 for line in done.stdout.splitlines() if "peer" not in line)
    top = subprocess.run(
        [*WS, "top", "--once"], capture_output=True, text=True, env=env, check=False
    )
    assert f"up 1 of {len(agent.answers['status']['peers'])}" in top.stdout


def test_a_dumb_terminal_gets_top_line_by_line(agent: FakeAgent) -> None:
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "dumb", "COLUMNS": "80"}
    process = subprocess.Popen([*WS, "top", "-n", "0.2"], stdin=theirs, stdout=theirs, env=env)
    os.close(theirs)
    text = b""
    try:
        while text.count(b"whalescale ws0") < 2:
            text += os.read(ours, 65536)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b" not in text
