"""Upcalls and time in, keypairs and messages out, over a fake engine and a real core."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.runtime.fakes import Host, join, until
from whalescale.dataplane.engine import Addr, UpcallType
from whalescale.endpoints import parse_endpoint
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import (
    EndpointChanged,
    ExtendedModeChanged,
    PeerConfig,
    SendControl,
    Transmit,
)
from whalescale.runtime import driver as driver_module
from whalescale.runtime.driver import tick_seconds
from whalescale.runtime.tunnel import Change, Peer, PeerSpec

SECOND = NS_PER_S


@contextmanager
def two_hosts(limits: Limits | None = None) -> Iterator[tuple[Host, Host, Peer, Peer]]:
    a, b = Host(1, "192.0.2.1", limits), Host(2, "192.0.2.2", limits)
    join(a, b)
    a.start()
    b.start()
    try:
        a.tunnel.commit(Change(add=[b.spec("b", endpoints=(parse_endpoint("192.0.2.2:51820"),))]))
        b.tunnel.commit(Change(add=[a.spec("a")]))
        yield a, b, next(iter(a.tunnel.peers.values())), next(iter(b.tunnel.peers.values()))
    finally:
        a.close()
        b.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def session(a: Host, b: Host) -> None:
    """The workers of `a` have a packet and no key; ends when both hold keys."""
    a.engine.push(UpcallType.NEED_HANDSHAKE, 0, now=a.time)
    await until(lambda: 0 in a.engine.keypairs and 0 in b.engine.keypairs)


def test_a_packet_without_a_key_makes_a_session_on_both_sides() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, peer_b, peer_a):
            await session(a, b)
            ka, kb = a.engine.keypairs[0], b.engine.keypairs[0]
            assert ka["send_key"] == kb["receive_key"] != bytes(32)
            assert ka["receive_key"] == kb["send_key"] != bytes(32)
            assert (ka["local_index"], ka["remote_index"]) == (
                kb["remote_index"],
                kb["local_index"],
            )
            assert (ka["initiator"], kb["initiator"]) == (True, False)
            assert ka["rekey_after"] == 120 * SECOND
            assert ka["reject_after"] == 180 * SECOND
            assert ka["reject_after_messages"] == 2**64 - 2**13 - 1
            # The initiator shows that it holds the key; the responder's session counts from then.
            assert a.engine.keepalives == [0]
            assert peer_b.last_handshake_ns > 0
            assert peer_a.last_handshake_ns == 0
            b.engine.push(UpcallType.CONFIRMED, 0, index=kb["local_index"], now=b.time)
            await until(lambda: peer_a.last_handshake_ns > 0)
            assert b.engine.endpoints[0] == (a.address, b.address)

    run(test)


def test_events_are_carried_out_before_messages_leave() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, _, _):
            held: list[bool] = []
            deliver = b.engine.on_send

            def sending(data: bytes, remote: Addr, local: Addr | None) -> bool:
                held.append(0 in b.engine.keypairs)
                return deliver(data, remote, local)

            b.engine.on_send = sending
            await session(a, b)
            assert held == [True]

    run(test)


def test_a_refused_send_is_tried_without_the_local_address_and_never_raises() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            tried: list[Addr | None] = []

            def refuse(_: bytes, __: Addr, local: Addr | None) -> bool:
                tried.append(local)
                return False

            a.engine.on_send = refuse
            remote, local = (a.address._replace(ip=ip) for ip in ("192.0.2.9", "192.0.2.1"))
            transmit = Transmit(b"x", remote, local)  # type: ignore[arg-type]
            a.driver._transmit(transmit)
            assert tried == [local, None]
            assert a.driver.faults["send"] == 1

            def fail(*_: Any) -> bool:
                raise OSError(errno.ENOBUFS, "send")

            a.engine.on_send = fail
            a.driver._transmit(transmit)
            assert a.driver.faults["send"] == 2

    run(test)


def test_a_flood_of_upcalls_lets_the_loop_serve_others() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            for _ in range(2000):
                a.engine.push(UpcallType.DATAGRAM, remote=Addr("192.0.2.66", 1), data=b"\x01" * 148)
            turns_of_others = 0
            while a.engine.queue:
                await asyncio.sleep(0)
                turns_of_others += 1
            assert turns_of_others >= 2000 // driver_module.UPCALLS_PER_TURN
            assert sum(a.node.drops.values()) == 2000

    run(test)


def crowd(count: int, keepalive: int = 0) -> list[PeerSpec]:
    """Peers that are somewhere, and never answer."""
    return [
        PeerSpec(
            f"p{n}",
            static_public=n.to_bytes(4, "little") + bytes(27) + b"\x42",
            endpoints=(parse_endpoint(f"198.51.100.7:{n + 1}"),),
            persistent_keepalive=keepalive,
        )
        for n in range(9, 9 + count)
    ]


async def sent_per_turn(a: Host, count: int) -> list[int]:
    """How many messages left between two turns of the loop, until `count` have."""
    before, turns = len(a.engine.sent), []
    end = asyncio.get_running_loop().time() + 10
    while sum(turns) < count:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0)
        turns.append(len(a.engine.sent) - before)
        before = len(a.engine.sent)
    return turns


def test_a_greeting_of_thousands_lets_the_loop_serve_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            monkeypatch.setattr(driver_module, "TURN_S", -1.0)  # every turn is over at once
            a.tunnel.commit(Change(add=crowd(100)))
            a.tunnel.greet()
            assert not a.engine.sent
            assert max(await sent_per_turn(a, 101)) == 1

    run(test)


def test_timers_of_thousands_let_the_loop_serve_others() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            few = driver_module.DUE_PER_TURN
            a.tunnel.commit(Change(add=crowd(5 * few, keepalive=25)))
            assert not a.engine.sent  # the first handshakes, too, are the timer's
            # The tick looks at as many, and may fall into a timer's turn on a busy machine.
            assert few <= max(await sent_per_turn(a, 5 * few)) <= 2 * few
            a.time += 6 * SECOND
            a.driver._on_tick()
            assert few <= max(await sent_per_turn(a, 4 * few)) <= 2 * few
            assert sorted(r.port for _, r, _ in a.engine.sent) == sorted(
                2 * [n + 1 for n in range(9, 9 + 5 * few)]
            )

    run(test)


def test_a_fault_in_the_core_is_counted_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        with two_hosts() as (a, b, _, _):
            original = a.node.receive_datagram

            def broken(*_: Any) -> None:
                raise RuntimeError("unexpected")

            monkeypatch.setattr(a.node, "receive_datagram", broken)
            a.engine.push(UpcallType.DATAGRAM, remote=b.address, data=b"x")
            await until(lambda: a.driver.faults["upcall datagram"] == 1)
            monkeypatch.setattr(a.node, "receive_datagram", original)
            await session(a, b)

    run(test)


def test_upcalls_of_a_removed_peer_are_ignored() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, peer, _):
            a.tunnel.commit(Change(remove=[peer]))
            for kind in (UpcallType.NEED_HANDSHAKE, UpcallType.CONFIRMED, UpcallType.ROAMED):
                a.engine.push(kind, 0, remote=Addr("192.0.2.7", 7))
            await until(lambda: not a.engine.queue)
            assert not a.engine.sent
            assert not a.driver.faults
            assert a.engine.cleared == [0]
            assert not a.engine.seen

    run(test)


def test_upcalls_of_a_removed_peer_are_not_taken_for_the_next_one() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, peer, _):
            old = a.time
            a.tunnel.commit(Change(remove=[peer]))
            a.engine._next = 0  # the lowest number that is free, as the engine gives it
            a.time += 1
            spec = b.spec("b", endpoints=(parse_endpoint("192.0.2.2:51820"),))
            a.tunnel.commit(Change(add=[spec]))
            assert 0 in a.engine.seen
            a.engine.push(UpcallType.ROAMED, 0, remote=Addr("192.0.2.7", 7), now=old)
            a.engine.push(UpcallType.NEED_HANDSHAKE, 0, now=old)
            await until(lambda: not a.engine.queue)
            assert not a.engine.sent
            assert a.engine.endpoints[0][0] == Addr("192.0.2.2", 51820)
            await session(a, b)

    run(test)


def test_a_fatal_upcall_is_handed_on() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            a.engine.push(UpcallType.FATAL, reason=errno.EBADFD)
            await until(lambda: a.fatal == [errno.EBADFD])

    run(test)


def test_roaming_reaches_the_core() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, peer, _):
            await session(a, b)
            remote, local = Addr("198.51.100.9", 4444), Addr("192.0.2.1", 51820)
            a.engine.push(UpcallType.ROAMED, 0, remote=remote, local=local, now=a.time)
            await until(lambda: a.node.peer_status(peer.handle).endpoint == remote)

    run(test)


def test_at_the_start_peers_are_asked_for_a_session_also_by_name() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, peer, _):
            a.tunnel.commit(Change(remove=[peer]))
            named = b.spec("b", endpoints=(parse_endpoint("b.example:51820"),))
            release = asyncio.Event()

            def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
                asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)
                return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.2", 51820))]

            loop = asyncio.get_running_loop()
            with pytest.MonkeyPatch.context() as m:
                m.setattr(socket, "getaddrinfo", getaddrinfo)
                a.tunnel.commit(Change(add=[named]))
                a.tunnel.greet()
                b.tunnel.greet()  # knows no endpoint and no name: says nothing
                await asyncio.sleep(0.02)
                assert not a.engine.sent
                assert not b.engine.sent
                release.set()
                await until(lambda: bool(a.engine.keypairs) and bool(b.engine.keypairs))

    run(test)


SHORT = replace(
    Limits(),
    keepalive_timeout=200_000_000,
    rekey_timeout=200_000_000,
    rekey_attempt_time=600_000_000,
    rekey_timeout_jitter_max=1_000_000,
)


def test_the_passive_keepalive_counts_from_what_the_workers_saw() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, b, _, _):
            await session(a, b)
            a.engine.keepalives.clear()
            a.time += SECOND
            # Data came in and nothing has gone out since.
            a.engine.seen[0] = (a.time - 10, a.time, a.time, 0)
            await asyncio.sleep(5 * tick_seconds(SHORT))
            assert a.engine.keepalives == []
            a.time += SHORT.keepalive_timeout
            await until(lambda: a.engine.keepalives == [0])

    run(test)


def test_a_timer_looks_at_fresh_facts_before_it_fires() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, b, _, _):
            await session(a, b)
            a.engine.keepalives.clear()
            a.time += SECOND
            a.engine.seen[0] = (a.time - 10, a.time, a.time, 0)
            a.driver._on_tick()
            # Meanwhile the worker has sent: the keepalive is not needed any more.
            a.time += SHORT.keepalive_timeout
            a.engine.seen[0] = (a.time, a.time - 10, 0, 0)
            a.driver._on_timer()
            assert a.engine.keepalives == []

    run(test)


def test_a_jump_of_the_clock_is_caught_up_with() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, b, _, _):
            await session(a, b)
            # Suspended for a day: the keys are past REJECT_AFTER_TIME * 3 and go.
            a.time += 86_400 * SECOND
            await until(lambda: 0 in a.engine.cleared)
            # The next packet makes a new session.
            b.time += 86_400 * SECOND
            a.engine.keypairs.clear()
            await session(a, b)

    run(test)


def test_after_a_suspend_a_session_that_is_kept_open_is_proved() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, b, peer, _):
            config = replace(peer.spec, persistent_keepalive=25)
            a.tunnel.commit(Change(update=[(peer, config)]))
            await session(a, b)
            before = a.engine.keypairs[0]["local_index"]
            # A second in which nothing happens is no suspend.
            a.time += SECOND
            a.driver._on_tick()
            assert a.engine.keypairs[0]["local_index"] == before
            a.time += 10 * SECOND
            a.slept += 10 * SECOND
            b.time += 11 * SECOND
            a.driver._on_tick()
            await until(lambda: a.engine.keypairs[0]["local_index"] != before)

    run(test)


def test_a_roam_without_an_upcall_is_found_all_the_same() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, b, peer, _):
            await session(a, b)
            elsewhere = Addr("203.0.113.9", 4242)
            a.engine.endpoints[a.driver.number(peer.handle)] = (elsewhere, None)
            await until(lambda: a.node.peer_status(peer.handle).endpoint == Endpoint(*elsewhere))

    run(test)


def test_a_clock_that_goes_back_does_not() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            before = a.driver.now()
            a.time -= 5 * SECOND
            assert a.driver.now() == before

    run(test)


def test_giving_up_drops_what_waits_and_is_noted() -> None:
    async def test() -> None:
        with two_hosts(SHORT) as (a, _, peer, _):
            a.engine.on_send = lambda *_: True  # into the void
            a.engine.push(UpcallType.NEED_HANDSHAKE, 0, now=a.time)
            for _ in range(20):
                await asyncio.sleep(tick_seconds(SHORT))
                a.time += SHORT.rekey_timeout + 2_000_000
            await until(lambda: a.engine.dropped == [0])
            assert peer.unreachable
            kinds = [data[0] for data, _, _ in a.engine.sent]
            assert kinds.count(1) == SHORT.max_handshake_attempts
            assert kinds.count(0x57) == 1, "asked once whether it is there"
            assert any("unreachable" in e["event"] for e in a.tunnel.events)

    run(test)


def test_one_peer_that_moves_all_the_time_leaves_the_others_their_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        with two_hosts() as (a, b, peer, _):
            await session(a, b)
            third = Host(3, "192.0.2.3")
            a.tunnel.commit(Change(add=[third.spec("c")]))
            others = [e for e in a.tunnel.events if e["peer"] != "b"]
            with caplog.at_level("INFO"):
                for port in range(1, 1000):
                    a.tunnel.on_event(EndpointChanged(peer.handle, Endpoint("192.0.2.9", port)))
            events = list(a.tunnel.events)
            assert [e for e in events if e["peer"] != "b"] == others != []
            moves = [e["event"] for e in events if e["peer"] == "b"]
            assert moves == [f"endpoint 192.0.2.9:{p}" for p in range(980, 1000)]
            # The log's limit counts each peer by itself.
            assert {getattr(r, "subject", None) for r in caplog.records} == {"b"}
            third.engine.close()

    run(test)


def test_idle_peers_are_not_sampled() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, _, _):
            a.driver._on_tick()
            assert a.engine.activity_reads == 0
            await session(a, b)
            a.driver._on_tick()
            assert a.engine.activity_reads == 1

    run(test)


def test_an_event_that_cannot_be_carried_out_is_counted() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, peer, _):

            def fault(*_: object) -> bool:
                raise ValueError("a fault")

            a.engine.send_control = fault  # type: ignore[method-assign]
            a.driver._event(SendControl(peer.handle, b"\x10\x01"))
            assert a.driver.faults["SendControl"] == 1

    run(test)


def test_another_mtu_is_told_to_peers_in_extended_mode() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, peer, _):
            a.engine.endpoints[0] = (Addr("2001:db8::2", 51820), None)
            a.driver._event(ExtendedModeChanged(peer.handle, True))
            assert a.engine.frames[0] == (True, 1412)
            assert not a.engine.bundles[0]
            a.driver._event(ExtendedModeChanged(peer.handle, True, bundles=True))
            assert a.engine.bundles[0]
            # What paths allow for a while is not what is configured.
            a.engine.set_mtu(1300)
            a.driver.set_multipath(a.driver.multipath, 1380)
            assert a.engine.frames[0] == (True, 1372)

    run(test)


def test_no_room_in_the_engine_leaves_no_peer_in_the_core() -> None:
    async def test() -> None:
        with two_hosts() as (a, _, _, _):
            a.engine.room = 1
            third = Host(3, "192.0.2.3")
            with pytest.raises(OSError, match="new peer"):
                a.driver.add_peer(PeerConfig(node_id=third.identity.node_id))
            assert len(a.node.peers) == 1
            third.engine.close()

    run(test)


def test_the_tick_follows_the_shortest_timer() -> None:
    assert tick_seconds(Limits()) == 1.0
    assert tick_seconds(replace(Limits(), keepalive_timeout=1_000_000)) == 0.02
    assert tick_seconds(SHORT) == pytest.approx(0.04)


def test_every_address_of_a_peer_is_known() -> None:
    """Configured, each of them; authenticated, by handshake or by data; and none for ever."""

    async def test() -> None:
        with two_hosts() as (a, b, peer, _):
            assert a.engine.known == {"192.0.2.2"}
            await session(a, b)
            assert b.engine.known == {"192.0.2.1"}
            roamed = Addr("198.51.100.7", 4000)
            a.engine.push(UpcallType.ROAMED, 0, now=a.time, remote=roamed)
            await until(lambda: "198.51.100.7" in a.engine.known)
            # The upcall of this one was lost; the look at the statistics finds it.
            a.engine.endpoints[0] = (Addr("2001:db8::9", 1), None)
            await until(lambda: "2001:db8::9" in a.engine.known)
            config = PeerConfig(
                static_public=b.identity.static_public,
                endpoints=(Endpoint("192.0.2.2", 1), Endpoint("203.0.113.1", 1)),
            )
            a.driver.update_peer(peer.handle, config)
            assert {"192.0.2.2", "203.0.113.1"} <= a.engine.known
            a.driver.remove_peer(peer.handle)
            assert not a.engine.known

    run(test)


def test_an_initiation_that_is_a_peers_gives_its_token_back() -> None:
    async def test() -> None:
        with two_hosts() as (a, b, _, _):
            await session(a, b)
            await until(lambda: b.engine.proved)
            proved = len(b.engine.proved)
            for data in (bytes([1, 0, 0, 0]) + bytes(144), b"\x57" + bytes(127)):
                b.engine.push(
                    UpcallType.DATAGRAM, now=b.time, remote=Addr("192.0.2.9", 1), data=data
                )
            await until(lambda: not b.engine.queue)
            assert len(b.engine.proved) == proved

    run(test)
