"""The generator of `ws bench` against its own sink, over loopback."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

import pytest

from whalescale.bench import blast
from whalescale.bench.blast import Counted, Sent, Sink
from whalescale.bench.measure import MeasureError

#: one look at the clock: sends that any socket buffer holds
MOMENT = 1e-9


@pytest.fixture(params=["127.0.0.1", "::1"])
def sink(request: pytest.FixtureRequest) -> Iterator[tuple[str, Sink]]:
    made = Sink(request.param, 64)
    yield request.param, made
    made.close()


def test_everything_that_is_sent_is_counted_once(sink: tuple[str, Sink]) -> None:
    address, counter = sink
    sent = blast.send(address, counter.port, 64, MOMENT)
    counted = counter.finish()
    assert sent.datagrams == blast.SENDS_PER_LOOK * (blast.SEGMENTS if sent.in_runs else 1)
    assert counted.datagrams == sent.datagrams
    assert counted.dropped == 0
    assert 0 <= counted.seconds < 1


def test_what_is_not_ours_is_not_counted(sink: tuple[str, Sink]) -> None:
    address, counter = sink
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        for data in (b"", bytes(64), blast.MARK, blast.MARK.ljust(65, b"\0")):
            other.sendto(data, (address, counter.port))
    assert counter.finish() == Counted(0, 0.0, 0)


def test_it_ends_by_itself_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blast, "SINK_S", 0.1)
    counter = Sink("127.0.0.1", 64)
    deadline = time.monotonic() + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        while counter._thread.is_alive() and time.monotonic() < deadline:
            other.sendto(bytes(64), ("127.0.0.1", counter.port))
    ended = not counter._thread.is_alive()
    counter.close()
    assert ended


class Starved(socket.socket):
    """Gets a CPU seldom."""

    def recv_into(self, buffer: bytearray) -> int:  # type: ignore[override]
        time.sleep(0.1)
        return super().recv_into(buffer)


def test_what_is_queued_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blast, "QUIET_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(blast, "_socket", lambda _: Starved(socket.AF_INET, socket.SOCK_DGRAM))
        counter = Sink("127.0.0.1", 64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for _ in range(6):
            other.sendto(blast.MARK.ljust(64, b"\0"), ("127.0.0.1", counter.port))
    assert counter.finish().datagrams == 6


class WithoutRuns(socket.socket):
    """A kernel, or a device, that takes no runs."""

    refuses = ""

    def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
        if (option, self.refuses) == (blast.UDP_SEGMENT, "option"):
            raise OSError(errno.ENOPROTOOPT, "no such option")
        super().setsockopt(level, option, value)  # type: ignore[call-overload]

    def send(self, data: bytes) -> int:  # type: ignore[override]
        if len(data) > 64:
            raise OSError(errno.EIO, "no checksum offload")
        return super().send(data)


@pytest.mark.parametrize("refuses", ["option", "run"])
def test_without_runs_they_go_one_by_one(monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    counter = Sink("127.0.0.1", 64)
    monkeypatch.setattr(WithoutRuns, "refuses", refuses)
    monkeypatch.setattr(blast, "_socket", lambda _: WithoutRuns(socket.AF_INET, socket.SOCK_DGRAM))
    sent = blast.send("127.0.0.1", counter.port, 64, MOMENT)
    counted = counter.finish()
    assert (sent.datagrams, sent.in_runs) == (blast.SENDS_PER_LOOK, False)
    assert counted.datagrams == sent.datagrams
    assert "one a system call" in blast.limit(sent, counted)


def test_no_way_there() -> None:
    with pytest.raises(MeasureError, match="cannot send to 255"):
        blast.send("255.255.255.255", 9, 64, MOMENT)


def test_a_stall_must_not_look_fast() -> None:
    assert blast.rate(Sent(100, 2.0, True), Counted(10, 0.001, 0)) == 5
    assert blast.rate(Sent(100, 2.0, True), Counted(100, 4.0, 0)) == 25
    with pytest.raises(MeasureError, match="none arrived"):
        blast.rate(Sent(100, 2.0, True), Counted(0, 0.0, 0))


@pytest.mark.parametrize(
    ("got", "dropped", "words"),
    [(1000, 0, "the generator"), (990, 0, "the generator"), (500, 0, ""),
     (500, 100, "counting program"), (500, 1, "")],
)  # fmt: skip
def test_what_was_the_limit(got: int, dropped: int, words: str) -> None:
    said = blast.limit(Sent(1000, 1.0, True), Counted(got, 1.0, dropped))
    assert words in said
    assert bool(said) == bool(words)
