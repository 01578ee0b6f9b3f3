"""When a gateway's UPnP is asked, and what becomes of its answers (pure)."""

from __future__ import annotations

import pytest

from tests.unit.protocol.nat.gateway import GATEWAY, HERE, OUTSIDE, PORT, Gateway
from whalescale.protocol.limits import NS_PER_S as S
from whalescale.protocol.nat.portmap import (
    LOOK,
    UPNP_AFTER,
    UPNP_ROUND,
    Mapping,
    Protocol,
    State,
    Wish,
)
from whalescale.protocol.places import Endpoint

AT = Endpoint(OUTSIDE, PORT)


class Bench:
    """A mapping, and a gateway that speaks what it is told to."""

    def __init__(self, *speaks: Protocol) -> None:
        self.mapping = Mapping(GATEWAY.ip, HERE, PORT, bytes(12), upnp=True)
        self.gateway = Gateway(*speaks)
        self.now = 0
        self.wishes: list[tuple[int, Wish]] = []
        self.mapping.begin(0)
        self.until(0)

    def until(self, end: int) -> None:
        m = self.mapping
        while True:
            while (request := m.poll_transmit()) is not None:
                if (answer := self.gateway.answer(request, self.now)) is not None:
                    m.receive(answer, GATEWAY, self.now)
            while (wish := m.poll_wish()) is not None:
                self.wishes.append((self.now, wish))
            at = m.deadline()
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            m.handle_timeout(self.now)
            after = m.deadline()
            assert after is None or after > self.now, "a timer that would spin"

    @property
    def wished(self) -> list[Wish]:
        return [wish for _, wish in self.wishes]

    def mapped(self, lifetime: int = 7200) -> None:
        self.mapping.upnp_mapped(AT, lifetime, self.now)
        self.until(self.now)


def test_it_is_asked_where_nobody_answered_and_mapped() -> None:
    b = Bench()
    b.until(2 * S)
    assert b.wishes == [(UPNP_AFTER, Wish.MAP)]
    b.mapped()
    m = b.mapping
    assert (m.state, m.external, m.protocol) == (State.MAPPED, AT, Protocol.UPNP)
    sent = len(b.gateway.asked)
    b.until(b.now + LOOK + S)
    assert b.wished == [Wish.MAP, Wish.LOOK]
    m.upnp_looked(True, b.now)
    b.until(2 * S + 3600 * S)
    while b.wished[-1] is not Wish.MAP:
        m.upnp_looked(True, b.now)
        b.until(b.now + LOOK)
    b.mapped()
    assert m.lease_ends == b.now + 7200 * S
    assert len(b.gateway.asked) == sent  # the others are asked no more
    m.end()
    assert m.poll_wish() is Wish.GIVE_BACK
    assert m.deadline() is None


def test_it_is_not_asked_where_another_protocol_has_an_answer() -> None:
    for speaks in (Protocol.PCP, Protocol.NATPMP):
        b = Bench(speaks)
        b.until(600 * S)
        assert b.wished == []
        assert b.mapping.state is State.MAPPED
    b = Bench()
    b.gateway.speaks, b.gateway.result = (Protocol.PCP,), 2
    b.mapping.begin(0)
    b.until(60 * S)  # it will not: by no protocol
    assert b.wished == []
    assert b.mapping.state is State.REFUSED


def test_an_unreachable_port_is_an_answer_at_once() -> None:
    b = Bench()
    b.mapping.unreachable(0)
    b.until(0)
    assert b.wishes == [(0, Wish.MAP)]
    b.mapping.unreachable(0)
    b.mapping.upnp_silent(0)
    assert b.mapping.state is State.SILENT
    assert b.mapping.problem == "no answer to PCP, NAT-PMP and UPnP"


def test_who_answers_late_by_the_other_protocol_wins_and_upnps_goes_back() -> None:
    b = Bench()
    b.until(2 * S)
    b.gateway.speaks = (Protocol.NATPMP,)
    b.until(4 * S)
    assert b.mapping.protocol is Protocol.NATPMP
    b.mapped()
    assert b.wished == [Wish.MAP, Wish.GIVE_BACK]
    assert b.mapping.protocol is Protocol.NATPMP


def test_a_gateway_that_forgot_the_mapping_is_asked_again() -> None:
    b = Bench()
    b.until(2 * S)
    b.mapped()
    b.until(b.now + LOOK)
    b.mapping.upnp_looked(False, b.now)
    b.until(b.now)
    assert b.wished == [Wish.MAP, Wish.LOOK, Wish.MAP]
    assert b.mapping.restarts == 1


@pytest.mark.parametrize("looks", [True, False])
def test_no_answer_costs_the_mapping_when_its_lease_ends(looks: bool) -> None:
    """Nobody says anything: no timer spins, and what is out ends."""
    b = Bench()
    b.until(2 * S)
    b.mapped()
    end = b.now + 7300 * S
    while b.now < end:
        b.until(b.now + UPNP_ROUND)
        if looks:
            b.mapping.upnp_silent(b.now)
    assert b.mapping.external is None
    assert len(b.wishes) < 60


def test_refused_unasked_and_no_good() -> None:
    b = Bench()
    b.mapping.upnp_mapped(AT, 7200, 0)
    b.mapping.upnp_refused("x", 0)
    b.mapping.upnp_looked(False, 0)
    b.mapping.upnp_silent(0)
    assert b.mapping.state is State.ASKING
    b.until(2 * S)
    b.mapping.upnp_refused("it has no room", b.now)
    b.until(6 * S)
    assert (b.mapping.state, b.mapping.problem) == (State.REFUSED, "it has no room")
    b = Bench()
    b.until(2 * S)
    b.mapping.upnp_mapped(Endpoint("10.0.0.1", 1), 7200, b.now)
    b.until(b.now)
    assert b.wished[-1] is Wish.GIVE_BACK
    assert b.mapping.external is None
    b.mapping.end()
    b.mapping.upnp_mapped(AT, 7200, b.now)
    assert b.mapping.external is None
