"""A session with a kernel, an agent and events that are told what to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from records import sample

from whalescale import status
from whalescale.trace import session
from whalescale.trace.events import Retransmission
from whalescale.trace.flows import Flow, address_of, parse_pattern
from whalescale.trace.sockets import Sample

STATUS = json.loads((Path(__file__).parent.parent / "tui" / "status.json").read_text())


def flow(destination: str, port: int = 443) -> Flow:
    return Flow(address_of("10.77.0.1"), 40000, address_of(destination), port)


#: two of berlin's, one of the phone's, one of nobody's
FLOWS = (flow("10.77.0.2"), flow("10.77.0.2", 80), flow("10.78.1.1"), flow("192.0.2.9"))


class Kernel:
    def sample(self, wanted: Callable[[Flow], bool]) -> tuple[list[Sample], int]:
        return [sample(n, f) for n, f in enumerate(FLOWS) if wanted(f)], 3


class Events:
    def __init__(self, taken: list[Retransmission] | None, missing: str = "", lost: int = 0):
        self.taken, self.missing, self.lost = taken, missing, lost

    def take(self) -> list[Retransmission] | None:
        return self.taken


def answer(**depths: int) -> status.Status:
    """The sample agent's, with buffers of these depths by peer."""
    told = {name: {"reordering": {"depth": depth}, "paths": []} for name, depth in depths.items()}
    peers = [p | {"multipath": told.get(p["name"])} for p in STATUS["peers"]]
    return status.parse({**STATUS, "peers": peers})


def test_flows_of_peers_and_their_buffers() -> None:
    told = answer(berlin=2, phone=9)
    record = session.Session("ws0", Kernel(), lambda: told).record()
    assert [row.peer for row in record.flows] == ["berlin", "berlin", "phone"]
    assert {b.peer: b.reordering.depth for b in record.buffers} == {"berlin": 2, "phone": 9}
    assert record.missing == {}
    assert record.flows_left_out == 3


def test_one_peer_and_one_flow() -> None:
    told = answer(berlin=2, phone=9)
    of_peer = session.Session("ws0", Kernel(), lambda: told, peer="berlin").record()
    assert [row.flow[-3:] for row in of_peer.flows] == ["443", ":80"]
    assert [b.peer for b in of_peer.buffers] == ["berlin"]
    pattern = parse_pattern("*:*-*:80")
    of_flow = session.Session("ws0", Kernel(), lambda: told, pattern=pattern).record()
    assert [row.flow for row in of_flow.flows] == ["10.77.0.1:40000-10.77.0.2:80"]


def test_without_a_buffer_it_says_so() -> None:
    record = session.Session("ws0", Kernel(), answer).record()
    assert len(record.flows) == 3
    assert record.buffers == ()
    assert record.missing == {"buffer": session.NO_BUFFER}


def test_who_may_not_ask_the_agent_sees_all_flows_and_no_names() -> None:
    record = session.Session("ws0", Kernel(), None).record()
    assert [row.peer for row in record.flows] == [None] * 4
    assert record.missing == {"buffer": session.NOT_ROOT}


def test_an_agent_that_goes_away_and_comes_back() -> None:
    broken = [False]

    def fetch() -> status.Status:
        if broken[0]:
            raise OSError("it hung up")
        return answer(berlin=2)

    one = session.Session("ws0", Kernel(), fetch)
    assert len(one.record().buffers) == 1
    broken[0] = True
    away = one.record()
    assert [row.peer for row in away.flows] == ["berlin", "berlin", "phone"]
    assert away.missing["buffer"] == "it hung up"
    broken[0] = False
    assert len(one.record().buffers) == 1


def test_events_that_nobody_could_watch_and_those_that_were_too_many() -> None:
    for events, expected, why in (
        (Events([]), (), {}),
        (Events(None, "no bcc"), None, {"events": "no bcc"}),
        (Events([], "", 5), (), {"events": "5 retransmissions were too many to be told"}),
    ):
        told = answer(berlin=0)
        record = session.Session("ws0", Kernel(), lambda t=told: t, events).record()  # type: ignore[misc]
        assert {row.retransmits for row in record.flows} == {expected}
        assert record.missing == why


def test_intervals_end_when_they_shall_and_missed_ones_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(session.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    one = session.Session("ws0", Kernel(), None)
    assert len(list(one.records(0.1, 1.0))) == 11
    times = []
    for number, record in enumerate(one.records(0.1, 1.0)):
        times.append(record.interval_s)
        if number == 3:
            now[0] += 0.42  # whoever reads the records was busy
    # Those at 0.4 to 0.7 s were missed.
    assert len(times) == 7
    assert times[4] == pytest.approx(0.5)
    assert times[5:] == pytest.approx([0.1] * 2)
