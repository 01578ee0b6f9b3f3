"""A port asked for at a gateway: RFC 6887 and 6886 to the byte, and gateways of all kinds."""

from __future__ import annotations

import random

import pytest

from tests.unit.protocol.nat.gateway import GATEWAY, HERE, OUTSIDE, PORT, Gateway
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.nat import portmap_codec as codec
from whalescale.protocol.nat.portmap import DEAD_FIRST, LOOK, Mapping, Protocol, State
from whalescale.protocol.places import Endpoint

NONCE = bytes(range(12))
DATAGRAMS = (Protocol.PCP, Protocol.NATPMP)
S, H = NS_PER_S, 3600 * NS_PER_S


def mapping(nonce: bytes = NONCE) -> Mapping:
    return Mapping(GATEWAY.ip, HERE, PORT, nonce)


def run(m: Mapping, gateway: Gateway, now: int, until: int, source: Endpoint = GATEWAY) -> int:
    """Timers and a gateway that answers in 5 ms, as far as `until`."""
    while True:
        while (request := m.poll_transmit()) is not None:
            answer = gateway.answer(request, now)
            if answer is not None:
                m.receive(answer, source, now + 5 * NS_PER_MS)
        at = m.deadline()
        if at is None or at > until:
            return until
        now = max(at, now)
        m.handle_timeout(now)
        after = m.deadline()
        assert after is None or after > now


def started(gateway: Gateway) -> Mapping:
    m = mapping()
    m.begin(0)
    run(m, gateway, 0, 10 * S)
    return m


def test_requests_are_as_the_rfcs_have_them() -> None:
    """Bytes written down from RFC 6887 sections 7.1 and 11.1, and RFC 6886 sections 3.2 and 3.3."""
    assert codec.pcp_map(NONCE, HERE, PORT, 7200, (OUTSIDE, 4000)).hex() == (
        "02010000" "00001c20" "00000000000000000000ffffc0a80107"
        "000102030405060708090a0b" "11000000" "ca6c" "0fa0" "00000000000000000000ffff05060708"
    )  # fmt: skip
    announce = codec.pcp_announce(HERE).hex()
    assert announce == "020000000000000000000000000000000000ffffc0a80107"
    assert codec.natpmp_address().hex() == "0000"
    assert codec.natpmp_map(PORT, 7200, 4000).hex() == "00010000ca6c0fa000001c20"
    assert codec.natpmp_map(PORT, 0, 4000).hex() == "00010000ca6c000000000000"


def test_answers_are_read_as_the_rfcs_have_them() -> None:
    pcp = bytes.fromhex(
        "02810000" "00000e10" "00000064" "000000000000000000000000"
        "000102030405060708090a0b" "11000000" "ca6c" "0fa0" "00000000000000000000ffff05060708"
    )  # fmt: skip
    assert codec.decode(pcp) == codec.Pcp(1, 0, 3600, 100, NONCE, PORT, 4000, OUTSIDE)
    address = bytes.fromhex("008000000000006405060708")
    assert codec.decode(address) == codec.NatPmp(0, 0, 100, OUTSIDE)
    mapped = bytes.fromhex("0081000000000064ca6c0fa000000e10")
    assert codec.decode(mapped) == codec.NatPmp(1, 0, 100, "", PORT, 4000, 3600)
    for whole, least in ((pcp, 8), (address, 8), (mapped, 8)):
        for size in range(len(whole)):
            with pytest.raises(codec.AnswerError, match="length"):
                codec.decode(whole[:size])
        assert least <= len(whole)
    with pytest.raises(codec.AnswerError, match="opcode"):
        codec.decode(codec.pcp_map(NONCE, HERE, PORT, 7200))  # our own request come back
    with pytest.raises(codec.AnswerError, match="version"):
        codec.decode(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_gateway_maps(protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    m = started(gateway)
    assert (m.state, m.protocol) == (State.MAPPED, protocol)
    assert m.external == Endpoint(OUTSIDE, PORT)
    assert not m.problem
    assert len(gateway.asked) <= 3
    asked = len(gateway.asked)
    run(m, gateway, 10 * S, 59 * 60 * S)
    looks = gateway.asked[asked:]
    assert 10 <= len(looks) <= 12  # at the epoch, each five minutes
    assert {len(look) for look in looks} == {24 if protocol is Protocol.PCP else 2}
    run(m, gateway, 59 * 60 * S, 61 * 60 * S)
    assert m.lease_ends > 2 * H + 1800 * S  # renewed at half the lease
    m.end()
    assert (m.external, m.deadline()) == (None, None)
    last = m.poll_transmit()
    assert last is not None
    if protocol is Protocol.PCP:
        assert last == codec.pcp_map(NONCE, HERE, PORT, 0)
        assert {r[24:36] for r in gateway.asked if r[1] == codec.PCP_MAP and r[0]} == {NONCE}
    else:
        assert last == codec.natpmp_map(PORT, 0)


def test_nat_pmp_is_asked_250_ms_after_pcp_and_both_again() -> None:
    gateway = Gateway()
    m = mapping()
    m.begin(0)
    assert m.poll_transmit()[0] == 2  # type: ignore[index]
    assert m.deadline() == 250 * NS_PER_MS
    m.handle_timeout(250 * NS_PER_MS)
    assert [m.poll_transmit()[0], m.poll_transmit()[0]] == [0, 0]  # type: ignore[index]
    run(m, gateway, 250 * NS_PER_MS, 24 * H)
    assert (m.state, m.external) == (State.SILENT, None)
    assert "no answer" in m.problem
    assert len(gateway.asked) < 9 * 30  # after five minutes each hour once


def test_nobody_listens_there() -> None:
    m = mapping()
    m.begin(0)
    m.poll_transmit()
    m.unreachable(1)
    assert m.state is State.SILENT
    assert "nobody listens" in m.problem
    assert m.deadline() > 60 * S  # type: ignore[operator]


def test_another_address_and_another_nonce_are_no_answer() -> None:
    m = mapping()
    m.begin(0)
    gateway = Gateway(Protocol.PCP)
    run(m, gateway, 0, S // 10, source=Endpoint("192.168.1.2", 5351))
    run(m, gateway, 0, S // 10, source=Endpoint(GATEWAY.ip, 53))
    assert (m.external, m.drops["source"]) == (None, 1)
    answer = bytearray(gateway.answer(codec.pcp_map(NONCE, HERE, PORT, 7200), 0) or b"")
    answer[24] ^= 1
    m.receive(bytes(answer), GATEWAY, 0)
    assert (m.external, m.drops["nonce"]) == (None, 1)
    answer[24] ^= 1
    answer[41] ^= 1
    m.receive(bytes(answer), GATEWAY, 0)
    assert (m.external, m.drops["port"]) == (None, 1)
    answer[41] ^= 1
    m.receive(bytes(answer), GATEWAY, 0)
    assert m.external is not None
    m.receive(bytes(answer), GATEWAY, 0)
    assert m.drops["unasked"] == 1


BAD = ("10.0.0.1", "192.168.0.2", "100.64.3.4", "172.16.0.9", "127.0.0.1", "169.254.1.1")
MORE_BAD = ("224.0.0.5", "255.255.255.255", "0.0.0.0", "240.0.0.1", "192.0.2.1", "198.18.0.1")  # noqa: S104


@pytest.mark.parametrize("protocol", DATAGRAMS)
@pytest.mark.parametrize("ip", BAD + MORE_BAD)
def test_an_external_address_that_nobody_reaches_is_no_mapping(ip: str, protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    gateway.external = (ip, PORT)
    m = started(gateway)
    assert (m.state, m.external) == (State.REFUSED, None)
    assert "outside" in m.problem
    assert int.from_bytes(gateway.asked[-1][4 if protocol is Protocol.PCP else 8 :][:4], "big") == 0
    # The carrier's NAT goes away.
    gateway.external = (OUTSIDE, PORT)
    run(m, gateway, 10 * S, 11 * 60 * S)
    assert m.external == Endpoint(OUTSIDE, PORT)


@pytest.mark.parametrize("protocol", DATAGRAMS)
@pytest.mark.parametrize("lifetime", [0, 1, 9])
def test_a_lease_that_is_none(lifetime: int, protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    gateway.lifetime = lifetime
    m = started(gateway)
    assert (m.state, m.external) == (State.REFUSED, None)
    asked = len(gateway.asked)
    run(m, gateway, 10 * S, 9 * 60 * S)
    assert len(gateway.asked) == asked


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_lease_for_ever_is_looked_at_again_after_an_hour(protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    m = mapping()
    m.begin(0)
    gateway.lifetime = 0xFFFFFFFF
    answer = gateway.answer(codec.pcp_map(NONCE, HERE, PORT, 0xFFFFFFFF), 0)
    if protocol is Protocol.PCP and answer is not None:
        m.receive(answer, GATEWAY, 0)
        assert m.lease_ends == 86_400 * S
    gateway.lifetime = 20
    run(m, gateway, 0, 5 * 60 * S)
    assert m.external is not None


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_gateway_that_began_anew_is_asked_again(protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    m = started(gateway)
    gateway.started = 30 * S  # it forgot all
    gateway.external = ("5.6.7.9", 40001)
    run(m, gateway, 10 * S, LOOK + 15 * S)
    assert m.restarts == 1
    assert m.external == Endpoint("5.6.7.9", 40001)


def test_a_clock_that_is_a_little_off_is_no_restart() -> None:
    gateway = Gateway(Protocol.PCP)
    m = started(gateway)
    for n in range(1, 20):
        gateway.started += 10 * S * (-1) ** n
        run(m, gateway, (n - 1) * LOOK + 11 * S, n * LOOK + 11 * S)
    assert m.restarts == 0


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_gateway_that_falls_silent_keeps_the_mapping_until_its_lease_ends(
    protocol: Protocol,
) -> None:
    gateway = Gateway(protocol)
    m = started(gateway)
    quiet = Gateway()
    run(m, quiet, 10 * S, 2 * H - 10 * S)
    assert m.external is not None
    assert len(quiet.asked) < 200
    run(m, quiet, 2 * H - 10 * S, 2 * H + 10 * S)
    assert (m.state, m.external) == (State.SILENT, None)
    run(m, gateway, 2 * H + 10 * S, 4 * H)
    assert m.external is not None


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_refused_is_said_and_tried_later(protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    gateway.result = 2
    m = started(gateway)
    assert (m.state, m.external) == (State.REFUSED, None)
    assert "does not let us" in m.problem
    asked = len(gateway.asked)
    run(m, gateway, 10 * S, 60 * S)
    assert len(gateway.asked) == asked
    gateway.result = 0
    run(m, gateway, 60 * S, 1800 * S)
    assert m.external is not None


def test_a_renewal_that_is_refused_ends_the_mapping() -> None:
    gateway = Gateway(Protocol.PCP)
    m = started(gateway)
    gateway.result = 8
    run(m, gateway, 10 * S, H + 60 * S)
    assert (m.state, m.external) == (State.REFUSED, None)


def test_it_is_asked_for_what_it_gave_before() -> None:
    gateway = Gateway(Protocol.PCP)
    gateway.external = (OUTSIDE, 40123)
    m = started(gateway)
    run(m, gateway, 10 * S, H + 60 * S)
    last = [r for r in gateway.asked if r[0] == 2 and r[1] == 1][-1]
    assert last == codec.pcp_map(NONCE, HERE, PORT, 7200, (OUTSIDE, 40123))


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_gateway_that_tells_all_that_it_began_anew_is_asked_at_once(protocol: Protocol) -> None:
    gateway = Gateway(protocol)
    m = started(gateway)
    gateway.started = 30 * S
    gateway.external = ("5.6.7.9", 40001)
    m.word(gateway.word(protocol, 40 * S), GATEWAY, 40 * S)
    run(m, gateway, 40 * S, 43 * S)
    assert m.restarts == 1
    assert m.external == Endpoint("5.6.7.9", 40001)


def test_a_word_to_all_is_a_reason_to_look_and_no_more() -> None:
    """Anybody on the link can say it, as often as they like and with any epoch."""
    gateway = Gateway(Protocol.PCP)
    m = started(gateway)
    forged = Gateway(Protocol.PCP)
    asked = len(gateway.asked)
    now = 10 * S
    for n in range(600):
        forged.started = now - n * S
        m.word(forged.word(Protocol.PCP, now), GATEWAY, now)
        m.word(forged.word(Protocol.PCP, now), Endpoint("192.168.1.66", 5351), now)
        m.word(b"\x02\x81" + bytes(58), GATEWAY, now)  # the answer to a MAP that nobody sent
        m.word(b"\x09" * 24, GATEWAY, now)
        run(m, gateway, now, now + S // 10)
        now += S // 10
    assert len(gateway.asked) - asked <= 3
    assert (m.restarts, m.external) == (0, Endpoint(OUTSIDE, PORT))
    assert m.drops["word_opcode"] == m.drops["word_version"] == 600
    assert m.drops["word_rate"] > 500


def test_where_nobody_answered_a_word_is_a_reason_to_ask_again() -> None:
    m = started(quiet := Gateway())
    assert m.state is State.SILENT
    gateway = Gateway(Protocol.NATPMP)
    m.word(gateway.word(Protocol.NATPMP, 20 * S), GATEWAY, 20 * S)
    run(m, gateway, 20 * S, 25 * S)
    assert m.external is not None
    assert len(quiet.asked) <= 9


HERE6, GATEWAY6 = "2a00:1450::7", Endpoint("fe80::1", 5351)


def walled(gateway: Gateway) -> Mapping:
    m = Mapping(GATEWAY6.ip, HERE6, PORT, NONCE)
    m.begin(0)
    run(m, gateway, 0, 10 * S, source=GATEWAY6)
    return m


def test_a_hole_in_the_firewall_of_an_ipv6_router() -> None:
    """RFC 6887 section 11: MAP with the host's own address, by PCP alone."""
    gateway = Gateway(Protocol.PCP)
    gateway.external = (HERE6, PORT)
    m = walled(gateway)
    assert (m.state, m.protocol) == (State.MAPPED, Protocol.PCP)
    assert m.external == m.local == Endpoint(HERE6, PORT)
    packed = "2a001450000000000000000000000007"
    assert gateway.asked[0].hex() == (
        "02010000" "00001c20" + packed + NONCE.hex() + "11000000" "ca6c" "ca6c" + packed
    )  # fmt: skip
    assert all(request[0] == codec.PCP_VERSION for request in gateway.asked)
    gateway.started = 30 * S  # it forgot all
    run(m, gateway, 10 * S, LOOK + 15 * S, source=GATEWAY6)
    assert m.restarts == 1
    m.end()
    last = m.poll_transmit()
    assert last == codec.pcp_map(NONCE, HERE6, PORT, 0)


@pytest.mark.parametrize("external", ["5.6.7.8", "::", "fd00::1", "ff02::1", "::1", "fe80::7"])
def test_a_hole_that_leads_elsewhere_is_none(external: str) -> None:
    gateway = Gateway(Protocol.PCP)
    gateway.external = (external, PORT)
    m = walled(gateway)
    assert (m.state, m.external) == (State.REFUSED, None)


def test_an_ipv6_router_that_speaks_nat_pmp_alone_has_no_holes() -> None:
    m = walled(Gateway(Protocol.NATPMP))
    assert (m.state, m.problem) == (State.REFUSED, "it does not speak this version")
    m = walled(Gateway())
    assert (m.state, m.problem) == (State.SILENT, "no answer to PCP")


@pytest.mark.parametrize("protocol", DATAGRAMS)
def test_a_mapping_where_nobody_gets_in_is_given_back_and_tried_ever_later(
    protocol: Protocol,
) -> None:
    gateway = Gateway(protocol)
    m = started(gateway)
    now, waits = 10 * S, []
    for _ in range(5):
        asked = len(gateway.asked)
        m.reached(reached=False, now=now)
        assert (m.state, m.external, m.dialled) == (State.REFUSED, None, False)
        assert "nobody gets in" in m.problem
        begun = now
        while m.external is None:
            now = run(m, gateway, now, now + 30 * S)
        waits.append(now - begun)
        given_back = gateway.asked[asked][4 if protocol is Protocol.PCP else 8 :][:4]
        assert given_back == bytes(4)
    assert waits[0] <= DEAD_FIRST + 60 * S
    assert waits[3] == pytest.approx(waits[4], abs=60 * S)
    assert waits[3] > 3 * DEAD_FIRST
    m.reached(reached=True, now=now)
    assert m.dialled
    run(m, gateway, now, now + 2 * H)
    assert m.dialled  # through a renewal


def test_nonsense_does_nothing_but_count() -> None:
    rng = random.Random(6887)  # noqa: S311
    m = started(Gateway(Protocol.PCP))
    before = m.external
    for n in range(3000):
        m.receive(rng.randbytes(rng.choice((0, 2, 8, 12, 16, 24, 60, 61, 1100, 2000))), GATEWAY, n)
    assert m.external == before
    assert sum(m.drops.values()) == 3000
    assert m.poll_transmit() is None
