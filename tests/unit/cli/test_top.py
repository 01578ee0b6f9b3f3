"""`ws top` in a terminal of its own (a pty): draws, obeys keys, leaves all as it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from fake_agent import FakeAgent, sample
from run_ws import Ws

ALT_SCREEN_ON, ALT_SCREEN_OFF = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR_ON = b"\x1b[?25h"


class Terminal:
    """`ws top` with a terminal of 30 x 110 as its stdin, stdout and stderr."""

    def __init__(self, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 30, 110, 0, 0))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whalescale.cli", "top", "-n", "0.1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **env},
        )

    def wait_for(self, piece: bytes, timeout: float = 15.0) -> None:
        deadline = time.monotonic() + timeout
        at = len(self.seen)
        while piece not in self.seen[max(at - len(piece), 0) :]:
            assert time.monotonic() < deadline, f"{piece!r} did not come"
            self._read(0.1)

    def _read(self, timeout: float) -> None:
        if select.select([self.master], [], [], timeout)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> int:
        """The exit code, once it has ended; checks that the terminal is as it was."""
        deadline = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self._read(0.05)
        self._read(0.05)
        assert termios.tcgetattr(self.slave) == self.before
        assert self.seen.rfind(ALT_SCREEN_OFF) > self.seen.rfind(ALT_SCREEN_ON)
        assert self.seen.rfind(CURSOR_ON) > self.seen.rfind(b"\x1b[?25l")
        assert self.seen.find(b"Traceback") < 0
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(agent: FakeAgent) -> Iterator[Terminal]:
    t = Terminal()
    t.wait_for(b"berlin")
    yield t
    t.close()


def test_draws_and_quits(terminal: Terminal) -> None:
    assert ALT_SCREEN_ON in terminal.seen
    terminal.wait_for(b"transport 896, initiation 3")
    assert b"shield on eth0 (tc), dropped 42" in terminal.seen
    terminal.type(b"?")
    terminal.wait_for(b"any key closes it")
    terminal.type(b"x\x1b[B")
    terminal.type(b"j")
    terminal.wait_for(b"> phone")
    terminal.type(b" ")
    terminal.wait_for(b"paused")
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_leave_the_terminal_as_it_was(
    terminal: Terminal, number: signal.Signals, code: int
) -> None:
    terminal.process.send_signal(number)
    assert terminal.end() == code


def test_an_agent_that_goes_away_and_comes_back(terminal: Terminal, agent: FakeAgent) -> None:
    good = agent.answers["status"]
    agent.answers["status"] = [b"garbage\n"]
    terminal.wait_for(b"trouble: the answer of the agent")
    agent.answers["status"] = good | {"peers": []}
    terminal.wait_for(b"no peers yet")
    terminal.type(b"q")
    assert terminal.end() == 0


def test_no_color(agent: FakeAgent) -> None:
    t = Terminal(NO_COLOR="1")
    try:
        t.wait_for(b"unreachable")
        t.type(b"q")
        assert t.end() == 0
        assert t.seen.find(b"\x1b[32m") < 0
        assert t.seen.find(b"\x1b[31m") < 0
    finally:
        t.close()


def test_color(terminal: Terminal) -> None:
    terminal.wait_for(b"\x1b[")
    terminal.type(b"q")
    assert terminal.end() == 0
    assert terminal.seen.find(b"\x1b[31munreachable") > 0


def test_without_a_terminal_one_snapshot(ws: Ws, agent: FakeAgent) -> None:
    for words in (["top", "-n", "0.1"], ["top", "--once", "-n", "0.1"]):
        done = ws(*words)
        assert done.code == 0
        assert "\x1b" not in done.out
        assert "berlin" in done.out
        assert "phone" in done.out


def test_json(ws: Ws, ws_process: Ws, agent: FakeAgent) -> None:
    assert json.loads(ws("top", "--once", "--json").out) == sample()
    command = [sys.executable, "-m", "whalescale.cli", "top", "--json", "-n", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["version"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
