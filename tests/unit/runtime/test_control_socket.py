"""The control socket from outside: what is asked, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from whalescale.runtime import control_socket
from whalescale.runtime.control_socket import ControlError, ControlServer, private_directory
from whalescale.runtime.errors import AgentError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(params: dict[str, Any]) -> dict[str, Any]:
    return {"echo": params}


async def fail(params: dict[str, Any]) -> dict[str, Any]:
    errors: dict[str, Exception] = {
        "agent": AgentError("broken", "mend it"),
        "permission": AgentError("not yours", "sudo", 4),
        "control": ControlError("busy", "later", "wait"),
        "bug": KeyError("x"),
    }
    raise errors[params["how"]]


async def count(params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for i in range(params.get("n", 3)):
        yield {"i": i}


def serve(path: Path, test: Callable[[ControlServer], Awaitable[None]]) -> None:
    async def run() -> None:
        server = ControlServer(path, {"echo": echo, "fail": fail}, {"count": count})
        await server.start()
        try:
            await asyncio.wait_for(test(server), 20)
        finally:
            await server.close()

    asyncio.run(run())


async def ask(streams: Streams, line: bytes) -> dict[str, Any]:
    reader, writer = streams
    writer.write(line)
    await writer.drain()
    answer: dict[str, Any] = json.loads(await reader.readline())
    return answer


def request(method: str, **params: Any) -> bytes:
    return json.dumps({"v": 1, "method": method, "params": params}).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ws0.sock"


def test_several_requests_on_one_connection(path: Path) -> None:
    async def test(_: ControlServer) -> None:
        streams = await asyncio.open_unix_connection(path)
        for n in range(3):
            assert await ask(streams, request("echo", n=n)) == {
                "v": 1,
                "ok": True,
                "result": {"echo": {"n": n}},
            }
        streams[1].close()

    serve(path, test)


@pytest.mark.parametrize(
    ("how", "code", "message", "fix"),
    [
        ("agent", "failed", "broken", "mend it"),
        ("permission", "permission", "not yours", "sudo"),
        ("control", "busy", "later", "wait"),
        ("bug", "internal", "KeyError: 'x'", ""),
    ],
)
def test_errors_are_answers(path: Path, how: str, code: str, message: str, fix: str) -> None:
    async def test(_: ControlServer) -> None:
        streams = await asyncio.open_unix_connection(path)
        answer = await ask(streams, request("fail", how=how))
        assert answer == {
            "v": 1,
            "ok": False,
            "error": {"code": code, "message": message, "fix": fix},
        }
        assert (await ask(streams, request("echo")))["ok"] is True
        streams[1].close()

    serve(path, test)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b"[" * 40000 + b"\n",
        b'{"v": 2, "method": "echo"}\n',
        b'{"v": 1, "method": 7}\n',
        b'{"v": 1, "method": "echo", "params": []}\n',
        b'{"v": 1, "method": "nothing"}\n',
    ],
)
def test_nonsense_is_answered_and_the_connection_goes_on(path: Path, line: bytes) -> None:
    async def test(_: ControlServer) -> None:
        streams = await asyncio.open_unix_connection(path)
        answer = await ask(streams, line)
        assert (answer["ok"], answer["error"]["code"]) == (False, "usage")
        assert (await ask(streams, request("echo")))["ok"] is True
        streams[1].close()

    serve(path, test)


def test_a_line_without_end_is_cut_off(path: Path) -> None:
    async def test(_: ControlServer) -> None:
        streams = await asyncio.open_unix_connection(path)
        answer = await ask(streams, b"x" * (2 * control_socket.REQUEST_BYTES_MAX))
        assert answer["ok"] is False
        assert await streams[0].read() == b""

    serve(path, test)


def test_a_stream_ends_and_closes(path: Path) -> None:
    async def test(_: ControlServer) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("count", n=4))
        lines = (await reader.read()).splitlines()
        assert [json.loads(line)["result"]["i"] for line in lines] == [0, 1, 2, 3]

    serve(path, test)


def test_too_many_connections_are_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "CONNECTIONS_MAX", 2)

    async def test(_: ControlServer) -> None:
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for streams in held:
            assert (await ask(streams, request("echo")))["ok"] is True
        reader, _writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        held[0][1].close()
        await held[0][1].wait_closed()
        await asyncio.sleep(0.05)
        again = await asyncio.open_unix_connection(path)
        assert (await ask(again, request("echo")))["ok"] is True

    serve(path, test)


def test_an_idle_connection_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "IDLE_S", 0.05)

    async def test(_: ControlServer) -> None:
        reader, _writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""

    serve(path, test)


def test_other_users_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "peer_uid", lambda _: os.geteuid() + 1)

    async def test(_: ControlServer) -> None:
        reader, _writer = await asyncio.open_unix_connection(path)
        answer = json.loads(await reader.read())
        assert answer["error"]["code"] == "permission"

    serve(path, test)


def test_the_socket_is_private_replaces_a_stale_one_and_goes(path: Path) -> None:
    path.write_bytes(b"")  # as a killed agent's

    async def test(server: ControlServer) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        assert (await ask((reader, writer), request("echo")))["ok"] is True
        server.stop_listening()
        assert path.name not in os.listdir(path.parent)
        # Whoever waits for our end does so until `close`.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.05)
        await server.close()
        assert await reader.read() == b""

    serve(path, test)


def test_a_socket_that_is_there_answers(path: Path) -> None:
    """`wg` removes one that refuses, as a dead agent's: then it is gone for good."""
    refused = []
    done = threading.Event()

    def knock() -> None:
        while not done.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(path))
                except FileNotFoundError:
                    pass
                except OSError as e:
                    refused.append(e)

    async def start_and_end() -> None:
        for _ in range(100):
            server = await control_socket.unix_server(path, lambda *_: None, 100)
            os.unlink(path)
            server.close()

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        asyncio.run(start_and_end())
    finally:
        done.set()
        thread.join()
    assert not refused


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "run" / "whalescale"
    private_directory(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o777)
    with pytest.raises(AgentError, match="writable by others") as e:
        private_directory(made)
    assert e.value.exit_code == 4
    assert "chmod" in e.value.fix
