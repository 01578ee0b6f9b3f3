"""`ws bench --serve` over loopback: what it answers, and to whom."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from whalescale.bench import blast, measure, remote
from whalescale.bench.remote import IPERF_PORTS, BenchError, Remote, Server, listeners
from whalescale.bench.session import FIGURES, Row, Session, make_row

LOCAL = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[Server]:
    """Serves one client, on a free port."""
    with Server([LOCAL], 0) as server:
        thread = threading.Thread(target=server.serve, args=(lambda _: None, 1), daemon=True)
        thread.start()
        yield server
        if thread.is_alive():  # no client came, or it is still there
            socket.create_connection((LOCAL, server.port), 5).close()
        thread.join(10)
        assert not thread.is_alive()


def test_cost_of_the_same_machine(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        busy, boot = near.cost()
        assert boot == measure.boot_id()
        assert 0 < busy <= measure.busy_seconds()


def test_iperf_is_started_and_ended(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        first = near.iperf(LOCAL)
        its_socket = listeners(first)
        assert its_socket
        second = near.iperf(LOCAL)
        assert second != first
        assert not its_socket & listeners(first), "one at a time"
    # The server ends it when its client is gone; the fixture waits for that.


@pytest.mark.parametrize("address", ["::", "192.0.2.1", "; reboot", "", None, 7])
def test_only_served_addresses(server: Server, address: object) -> None:
    with Remote(LOCAL, server.port) as near, pytest.raises(BenchError, match="not an address"):
        near.call("iperf", address=address)


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b'{"v": 2, "do": "cost"}', b'{"v": 1}', b'{"v": 1, "do": ["cost"]}',
     b"[" * 4000],
)  # fmt: skip
def test_garbage_is_refused_and_does_no_harm(server: Server, line: bytes) -> None:
    with socket.create_connection((LOCAL, server.port), 5) as sock:
        stream = sock.makefile("rwb")
        stream.write(line + b"\n")
        stream.flush()
        assert json.loads(stream.readline())["ok"] is False
        stream.write(b'{"v": 1, "do": "hello"}\n')
        stream.flush()
        assert json.loads(stream.readline())["ok"] is True


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))  # bound, not listening: refuses
        with pytest.raises(BenchError, match="no answer") as caught:
            Remote(LOCAL, taken.getsockname()[1])
    assert "ws bench --serve" in caught.value.fix


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[]\n", b'{"ok": 1}\n'])
def test_a_server_that_is_none(answer: bytes) -> None:
    with socket.create_server((LOCAL, 0)) as other:

        def speak() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(BenchError):
            Remote(LOCAL, other.getsockname()[1])
        thread.join(5)


def test_an_address_of_another_host() -> None:
    with pytest.raises(BenchError, match=r"cannot listen on 192\.0\.2\.1"):
        Server([LOCAL, "192.0.2.1"], 0)


def test_listening_ports_of_proc(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st queues tr tm->when retrnsmt uid timeout inode\n"
    rest = "0:0 0:0 00000000 0 0"
    (tmp_path / "tcp").write_text(head + f"   0: 0100007F:1451 00000000:0000 0A {rest} 77\n")
    (tmp_path / "tcp6").write_text(head + f"   0: {'0' * 32}:1452 {'0' * 32}:0000 01 {rest} 78\n")
    assert listeners(5201, tmp_path) == {77}
    assert not listeners(5202, tmp_path), "connected, not listening"
    assert not listeners(5203, tmp_path)


def test_a_port_that_another_takes_in_between(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that measure on one host choose the same port: the later one takes the next."""
    with socket.create_server((LOCAL, 0)) as quicker, Remote(LOCAL, server.port) as near:
        taken = quicker.getsockname()[1]
        free = [port for port in IPERF_PORTS if not listeners(port)]
        monkeypatch.setattr(server, "_free_ports", lambda: [taken, *free])
        assert near.iperf(LOCAL) in free


def test_a_session_over_loopback(server: Server) -> None:
    """Both ways are the same here, so the ratio has to be there; a busy machine draws it far."""
    with Remote(LOCAL, server.port) as near:
        session = Session(near, {"tunnel": LOCAL, "bare": LOCAL}, 1, 1.0)
        session._loads = {"tcp1": session._loads["tcp1"]}
        session.run(lambda _: None)
    table = {f["name"]: f for f in session.as_json()["figures"]}
    assert all(not row.errors for row in session.rows)
    assert 0.01 < table["tcp1"]["ratio"] < 100
    assert table["cpu"]["tunnel"]["median"] > 0
    assert table["ping"]["bare"]["median"] > 0


def test_a_way_that_fails_is_an_error_not_a_figure(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        session = Session(near, {"tunnel": "192.0.2.1"}, 1, 1.0)
        session._loads = {"tcp1": session._loads["tcp1"]}
        session._pinged = lambda _: 1.0  # type: ignore[method-assign]
        session.run(lambda _: None)
    row = session._by_load["tcp1"]
    assert row.median("tunnel") is None
    assert "not an address that is served" in row.errors["tunnel"]
    assert session._cpu.median("tunnel") is None


def test_the_cpu_figure_alone_says_why_it_failed(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        session = Session(near, {"tunnel": "192.0.2.1"}, 1, 1.0, only=["cpu"])
        session.run(lambda _: None)
    (row,) = session.rows
    assert row.values == {"tunnel": [None]}
    assert "not an address that is served" in row.errors["tunnel"]


def test_small_packets_are_counted(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        port = near.sink(LOCAL, 64)
        sent = blast.send(LOCAL, port, 64, 1e-9)
        assert near.counted().datagrams == sent.datagrams > 0
        with pytest.raises(BenchError, match="nothing is being counted"):
            near.counted()
        near.sink(LOCAL, 64)
        near.iperf(LOCAL)
        with pytest.raises(BenchError, match="nothing is being counted"):
            near.counted()


@pytest.mark.parametrize(
    ("address", "size"),
    [("192.0.2.1", 64), (None, 64), (LOCAL, 7), (LOCAL, 1473), (LOCAL, "64"), (LOCAL, True)],
)
def test_only_served_sinks(server: Server, address: object, size: object) -> None:
    with Remote(LOCAL, server.port) as near, pytest.raises(BenchError, match="not a"):
        near.call("sink", address=address, size=size)


def test_a_sink_ends_with_its_client(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        port = near.sink(LOCAL, 64)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.bind((LOCAL, port))
            return
        time.sleep(0.05)
    pytest.fail("the sink is still there")


def without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else real(name))


def test_what_cannot_run_is_skipped_with_a_reason(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "iperf3", "ping")
    with Remote(LOCAL, server.port) as near:
        assert "iperf" not in near.does
        session = Session(near, {"tunnel": LOCAL}, 1, 1.0)
        doing: list[str] = []
        session.run(doing.append)
        with pytest.raises(BenchError, match="no `iperf3` on that machine"):
            near.iperf(LOCAL)
    table = {f["name"]: f for f in session.as_json()["figures"]}
    assert set(table) == set(FIGURES)
    for name, figure in table.items():
        if name != "udp64":
            assert "on this machine" in figure["skipped"]
            assert "tunnel" not in figure
    assert table["udp64"]["skipped"] == ""
    assert table["udp64"]["tunnel"]["median"] > 0
    assert len(doing) == 1
    assert session.estimate < 2


def test_what_the_other_end_lacks(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        near.does = frozenset({"cost"})
        rows = {row.name: row for row in Session(near, {"tunnel": LOCAL}, 1, 1.0).rows}
    assert "on the other machine" in rows["tcp16"].skipped
    assert "older" in rows["udp64"].skipped
    assert rows["ping"].skipped == ""


def test_only_some_figures(server: Server) -> None:
    with Remote(LOCAL, server.port) as near:
        session = Session(near, {"tunnel": LOCAL}, 1, 1.0, only=["cpu", "ping"])
        session.run(lambda _: None)
    assert [row.name for row in session.rows] == ["ping", "cpu"]
    assert all(row.median("tunnel") for row in session.rows), "the CPU figure has its run"


def test_a_row_survives_json() -> None:
    row = make_row("udp64")
    row.values = {"tunnel": [1.0, None], "bare": [2.0, 3.0]}
    row.errors, row.notes = {"tunnel": "once"}, {"bare": "the generator is the limit"}
    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row


def test_protocol_is_small() -> None:
    assert remote.LINE_BYTES_MAX <= 4096


def test_an_address_that_is_not_served_names_the_command(server: Server) -> None:
    with Remote(LOCAL, server.port) as near, pytest.raises(BenchError) as caught:
        near.iperf("192.0.2.1")
    assert f"`ws bench --serve --listen {LOCAL} --listen 192.0.2.1`" in str(caught.value)
