"""The control socket's client against agents that answer well, badly, late or not at all."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, failure, ok, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_ws import Ws

from whalescale.cli import client
from whalescale.cli.ending import CliError


def test_request_form(agent: FakeAgent) -> None:
    status, raw = client.status("ws0")
    assert agent.requests == [{"v": 1, "method": "status", "params": {}}]
    assert raw == sample()
    assert status.peers[0].name == "berlin"
    assert status.peers[1].state == "unreachable"
    assert status.counters.drops["replay"] == 3


def test_no_agent(ws: Ws) -> None:
    for command in ("status", "peers", "down", "reload", "logs", "top"):
        done = ws(command)
        assert done.code == 3
        assert done.out == ""
        assert done.err == "ws: no agent is running for ws0; `sudo ws up`\n"


def test_an_agent_whose_socket_was_removed(
    ws: Ws, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither `ws up` nor `ws down` would be of help."""
    runtime.mkdir()
    lock = runtime / "ws0.lock"
    lock.touch()
    assert "no agent is running" in ws("status").err
    # Which device a file is on, proc_locks(5) and stat(2) do not tell alike on every file system.
    info = lock.stat()
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    locks = tmp_path / "locks"
    locks.write_text(
        f"1: POSIX  ADVISORY  WRITE 7 {place} 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 8 {place} 0 EOF\n"
        f"2: FLOCK  ADVISORY  WRITE 4711 {place} 0 EOF\n3: junk\n"
    )
    monkeypatch.setattr(client, "LOCKS", locks)
    done = ws("status")
    assert done.code == 3
    assert f"(process 4711), but {runtime / 'ws0.sock'} is not there" in done.err
    assert "`sudo kill 4711`" in done.err


def test_stale_socket(ws: Ws, runtime: Path) -> None:
    runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(runtime / "ws0.sock"))
    assert ws("status").code == 3
    assert "`sudo ws up`" in ws("status").err


def test_other_interfaces_are_named(ws: Ws, agent: FakeAgent) -> None:
    done = ws("status", "-i", "ws9")
    assert done.code == 3
    assert "`sudo ws up -i ws9`" in done.err
    assert "there is one for ws0" in done.err
    assert ws("-i", "ws9", "status").err == done.err


def test_interface_from_the_environment(
    ws: Ws, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WS_INTERFACE", "ws9")
    assert ws("status").code == 3
    assert ws("status", "-i", "ws0").code == 0
    assert ws("-i", "ws0", "status").code == 0


def test_path_too_long(ws: Ws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALESCALE_RUNTIME_DIR", "/run/" + "x" * 200)
    done = ws("status")
    assert done.code == 3
    assert "WHALESCALE_RUNTIME_DIR" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_socket_without_permission(ws: Ws, agent: FakeAgent) -> None:
    agent.path.chmod(0)
    done = ws("status")
    assert done.code == 4
    assert "sudo" in done.err


def test_permission_denied_becomes_exit_code_4(
    ws: Ws, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    done = ws("status")
    assert done.code == 4
    assert done.err.startswith("ws: you may not speak to the agent of ws0; ")
    assert "`sudo`" in done.err


@pytest.mark.parametrize(
    ("code", "expected"), [("permission", 4), ("failed", 1), ("usage", 1), ("internal", 1)]
)
def test_errors_of_the_agent(ws: Ws, agent: FakeAgent, code: str, expected: int) -> None:
    agent.answers["reload"] = [failure(code, "it is\nwrong \x1b[2J", "mend it")]
    done = ws("reload")
    assert done.code == expected
    assert done.err == "ws: it is wrong ?[2J; mend it\n"


def changed(**agent_fields: Any) -> bytes:
    status = sample()
    status["agent"].update(agent_fields)
    return ok(status)


#: far above the limits of these tests, and far below a minute: a busy machine
LONG_S = 15
GARBAGE = [
    [b""],
    [b"\n"],
    [b"not json\n"],
    [b"\xff\xfe\x00\n"],
    [b"[1]\n"],
    [b"3\n"],
    [b"null\n"],
    [b"{}\n"],
    [b'{"v": 2, "ok": true, "result": {}}\n'],
    [b'{"v": 1, "ok": "yes", "result": {}}\n'],
    [b'{"v": 1, "ok": true}\n'],
    [b'{"v": 1, "ok": true, "result": []}\n'],
    [b'{"v": 1, "ok": false}\n'],
    [b'{"v": 1, "ok": false, "error": "x"}\n'],
    [b'{"v": 1, "ok": false, "error": {"code": 1, "message": [], "fix": {}}}\n'],
    [b"[" * 100000 + b"\n"],
    [b'{"v": 1, "ok": true, "result": {'],
    [ok({})],
    [ok({"version": 2})],
    [ok({**sample(), "version": {"a": 1}})],
    [ok({**sample(), "peers": 7})],
    [ok({**sample(), "peers": [{"name": "a"}]})],
    [ok({**sample(), "peers": [{"name": "a", "state": "asleep"}]})],
    [changed(pid="x")],
    [changed(node_id=None)],
    [changed(offloads=[1])],
]


@pytest.mark.parametrize("chunks", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("words", [["status"], ["peers", "--json"], ["top", "--once"]])
def test_garbage(ws: Ws, agent: FakeAgent, chunks: list[bytes], words: list[str]) -> None:
    agent.answers["status"] = chunks
    done = ws(*words)
    assert done.code in {1, 3}
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "ws0" in done.err or "agent" in done.err
    assert len(done.err) < 500


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_end_in_an_error(agent: FakeAgent, chunks: list[bytes]) -> None:
    agent.answers["status"] = chunks
    with pytest.raises(CliError) as e:
        client.status("ws0")
    assert e.value.exit_code in {1, 3}


def test_an_answer_in_small_pieces(agent: FakeAgent) -> None:
    line = ok(sample())
    agent.answers["status"] = [line[i : i + 7] for i in range(0, len(line), 7)]
    assert client.status("ws0")[1] == sample()


def test_unknown_fields_of_a_newer_agent_pass(ws: Ws, agent: FakeAgent) -> None:
    newer = sample() | {"later": 1}
    newer["agent"]["later"] = [1]
    agent.answers["status"] = newer
    assert ws("status").code == 0
    assert json.loads(ws("status", "--json").out)["later"] == 1


def test_silence_ends_in_time(agent: FakeAgent) -> None:
    agent.answers["status"] = [None]
    start = time.monotonic()
    with client.Connection("ws0", timeout_s=0.2) as c, pytest.raises(CliError) as e:
        c.call("status")
    assert time.monotonic() - start < LONG_S
    assert e.value.exit_code == 3
    assert "gave no answer in 0.2 s" in e.value.message


def test_dripping_does_not_stretch_the_time(agent: FakeAgent) -> None:
    def drip(_: dict[str, Any]) -> Any:
        def pieces() -> Any:
            while True:
                time.sleep(0.02)
                yield b"x"

        return pieces()

    agent.answers["status"] = drip
    start = time.monotonic()
    with client.Connection("ws0", timeout_s=0.3) as c, pytest.raises(CliError) as e:
        c.call("status")
    assert time.monotonic() - start < LONG_S
    assert e.value.exit_code == 3


def test_endless_line_is_cut(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINE_BYTES_MAX", 1 << 20)
    agent.answers["status"] = [b"x" * (1 << 16)] * 64
    with pytest.raises(CliError, match="does not end"):
        client.status("ws0")
