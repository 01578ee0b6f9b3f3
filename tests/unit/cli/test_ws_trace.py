"""`ws trace` on the loopback interface: a real TCP flow there, and an agent that claims it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, failure, sample
from run_ws import Ws

from whalescale.trace import plot

PATH = {"id": 0, "remote": "192.0.2.7:51820", "state": "healthy", "new": "not known here"}
FAST = ("trace", "-i", "lo", "--no-events", "-n", "0.05", "--seconds", "0.3")


@pytest.fixture
def flow() -> Iterator[str]:
    """A connection that has carried 100 kB."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            near.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(far.recv(left))
            (host, port), (_, other) = near.getsockname(), near.getpeername()
            yield f"{host}:{port}-{host}:{other}"


@pytest.fixture
def loopback(runtime: Path) -> Iterator[FakeAgent]:
    """Its berlin owns 127.0.0.0/8, and each answer has had three gaps more."""
    fake = FakeAgent(runtime / "lo.sock")
    asked = 0

    def answer(_: object) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        raw = sample()
        raw["agent"]["interface"] = "lo"
        raw["peers"][0] |= {
            "allowed_ips": ["127.0.0.0/8"],
            "multipath": {"reordering": {"gaps": 3 * asked, "depth": 2}, "paths": [PATH]},
        }
        return raw

    fake.answers["status"] = answer
    yield fake
    fake.close()


def rows(out: str, flow: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in out.splitlines()]
    assert all(r["version"] == 1 for r in records)
    return [row for r in records for row in r["flows"] if row["flow"] == flow]


def test_lines_join_the_flow_and_its_buffer(ws: Ws, loopback: FakeAgent, flow: str) -> None:
    done = ws(*FAST, "--json", "--flow", flow)
    assert (done.code, done.err) == (0, "")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert 2 <= len(records) <= 7  # a busy machine skips intervals
    for number, record in enumerate(records):
        (row,) = record["flows"]
        assert (row["flow"], row["peer"]) == (flow, "berlin")
        assert row["tcp"]["bytes_acked"] >= 100_000
        assert row["retransmits"] is None
        (buffer,) = record["buffers"]
        assert buffer["reordering"]["depth"] == 2
        assert [p["remote"] for p in buffer["paths"]] == [PATH["remote"]]
        if number:
            assert buffer["change"]["gaps"] == 3
            assert row["change"]["bytes_acked"] == 0
    # one connection for all the questions
    assert len(loopback.requests) >= len(records)
    assert len(loopback._connections) == 1


def test_flows_that_are_nobodys_are_left_out(ws: Ws, loopback: FakeAgent, flow: str) -> None:
    assert len(rows(ws(*FAST, "--json", "--peer", "berlin").out, flow)) >= 2
    assert rows(ws(*FAST, "--json", "--peer", "phone").out, flow) == []
    done = ws(*FAST, "--json", "--peer", "paris")
    assert done.code == 1
    assert "no peer 'paris'" in done.err


def test_one_table_without_a_terminal(ws: Ws, loopback: FakeAgent, flow: str) -> None:
    done = ws(*FAST, "--flow", flow)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("→ 127.0.0.1:") == 1
    assert "RTT ms" in done.out
    assert "2/0" in done.out
    assert "\x1b" not in done.out


def test_who_may_not_speak_to_the_agent_sees_tcp_alone(
    ws: Ws, loopback: FakeAgent, flow: str
) -> None:
    loopback.answers["status"] = [failure("permission", "only root may ask", "use sudo")]
    done = ws(*FAST, "--json", "--flow", flow)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "sudo" in done.err
    found = rows(done.out, flow)
    assert found
    assert all(row["peer"] is None for row in found)
    named = ws(*FAST, "--json", "--peer", "berlin")
    assert (named.code, named.out) == (4, "")


def test_a_plot(ws: Ws, loopback: FakeAgent, flow: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "a.png"
    done = ws(*FAST, "--flow", flow, "--plot", str(target))
    assert done.code == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    nothing = ws(*FAST, "--flow", "*:*-192.0.2.1:9", "--plot", str(tmp_path / "b.png"))
    assert nothing.code == 1
    assert "nothing drawn" in nothing.err


def test_a_plot_that_cannot_be_is_refused_before_the_trace(
    ws: Ws, loopback: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, piece in ((tmp_path / "a.svg", "PNG"), (tmp_path / "no" / "a.png", "folder")):
        done = ws(*FAST, "--plot", str(path))
        assert done.code == 2
        assert piece in done.err
    monkeypatch.setattr(plot, "available", lambda: False)
    done = ws(*FAST, "--plot", str(tmp_path / "a.png"))
    assert done.code == 1
    assert "matplotlib" in done.err
    assert loopback.requests == []


@pytest.mark.parametrize(
    ("words", "code", "piece"),
    [
        (["--flow", "10.0.0.1-10.0.0.2"], 2, "no port"),
        (["--flow", "fd77::1:1-*:*"], 2, "brackets"),
        (["-n", "0.01"], 2, "0.02"),
        (["--seconds", "86401"], 2, "86400"),
        ([], 3, "no agent"),
    ],
)
def test_errors(ws: Ws, words: list[str], code: int, piece: str) -> None:
    done = ws("trace", *words)
    assert (done.code, done.out) == (code, "")
    assert piece in done.err
    assert done.err.count("\n") == 1


def test_an_agent_whose_interface_is_not_there(ws: Ws, agent: FakeAgent) -> None:
    done = ws("trace", "--no-events", "-i", "ws0")
    assert done.code == 1
    assert "no interface ws0" in done.err


def test_without_pyroute2_until_it_is_needed() -> None:
    code = (
        "import sys; from whalescale.cli.main import main; main(['trace', '--help']);"
        "sys.exit('pyroute2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("how", "code"), [("q", 0), (signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_live_in_a_terminal(
    loopback: FakeAgent, flow: str, how: str | signal.Signals, code: int
) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "whalescale.cli", *FAST[:-2], "--flow", flow]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "30"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment
    )
    try:
        seen = b""
        deadline = time.monotonic() + 20
        # It is drawn a second time: it lives.
        while len(re.findall(rb"RTT ms", seen)) < 2:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)
        if isinstance(how, str):
            os.write(master, how.encode())
        else:
            process.send_signal(how)
        while process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    seen += os.read(master, 65536)
        assert process.returncode == code
        assert b"Traceback" not in seen
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
