"""Post-quantum keys between nodes that forget, lose and are listened to (docs/wire.md)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from eventqueue import MS, SECOND
from world import Link, World

from whalescale.identity import Identity
from whalescale.protocol import tai64n
from whalescale.protocol.limits import Limits
from whalescale.protocol.parts import PARTS
from whalescale.protocol.postquantum import PostQuantumChanged, PostQuantumKeys, successor_key
from whalescale.protocol.types import (
    HandshakeCompleted,
    KeypairReady,
    PeerConfig,
    PostQuantum,
    SendControl,
)

WITH = (*PARTS, PostQuantumKeys)
QUICK = Limits(
    rekey_after_time=4 * SECOND,
    reject_after_time=24 * SECOND,
    keepalive_timeout=SECOND,
    rekey_timeout=SECOND,
    rekey_attempt_time=20 * SECOND,
)


def couple(world, *, parts=(WITH, WITH), swap=False, at_b=None, **config):
    """Two nodes; the first has the lesser ID, so it asks, unless `swap`."""
    world.control = True
    identities = sorted((Identity.generate(world.rng.randbytes) for _ in range(2)), key=node_id)
    if swap:
        identities.reverse()
    a, b = (world.host(n + 1, i, p) for n, (i, p) in enumerate(zip(identities, parts, strict=True)))
    return (
        a,
        b,
        a.add(b, endpoints=(b.at,), **config),
        b.add(a, **(config if at_b is None else at_b)),
    )


def node_id(identity):
    return identity.node_id


def keys(host):
    return host.node.guest(PostQuantumKeys)


def tags(host, peer):
    """Of the keypairs in use and before it, and of what is held."""
    return host.node._peers[peer].session_secret, [s.tag for s in keys(host)._states[peer].held]


def states(*ends):
    return [keys(host).state(peer) for host, peer in ends]


def chat(world, host, peer, seconds, every=SECOND):
    for n in range(int(seconds * SECOND) // every):
        world.later(n * every, lambda n=n: host.send(peer, b"%d" % n))


def held_back(host):
    """Keypairs that packets wait for the end of."""
    return [event.held for _, event in host.of(KeypairReady)]


@pytest.mark.parametrize("swap", [False, True])
def test_the_second_handshake_has_a_secret_and_follows_at_once(swap):
    a, b, at_a, at_b = couple(world := World(), swap=swap)
    begin = world.now
    a.send(at_a, b"hello")
    world.run(2)
    done = [when for when, _ in a.of(HandshakeCompleted)]
    assert len(done) == 2
    assert done[1] - begin < 300 * MS
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]
    used, held = tags(a, at_a)
    assert used == held[0] != held[1]
    assert tags(b, at_b) == (used, held)
    for host in (a, b):
        assert [e.on for _, e in host.of(PostQuantumChanged)] == [True]
        assert not host.node.drops
    initiations = [data for _, data in world.messages(1)]
    assert {len(data) for data in initiations} == {148}


def test_what_it_costs_on_the_wire():
    a, b, at_a, _ = couple(world := World())
    a.send(at_a, b"hello")
    world.run(30)
    spent = sum(
        len(event.frame) + -len(event.frame) % 16 + 32
        for host in (a, b)
        for _, event in host.of(SendControl)
        if event.frame[0] == 0x1A
    )
    assert spent == 2608  # one exchange for the second session; the next one is an hour off


def test_the_preshared_key_is_mixed_in_and_still_needed():
    psk = b"\7" * 32
    a, b, at_a, at_b = couple(world := World(), preshared_key=psk)
    a.send(at_a, b"hello")
    world.run(2)
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]
    config = PeerConfig(node_id=a.identity.node_id, preshared_key=b"\x08" * 32)
    b.node.update_peer(at_b, config, world.now)
    before = len(b.received)
    chat(world, a, at_a, 400)
    world.run(400)
    assert a.node.drops["handshake"] > 5  # its answers have another key in them, either way
    assert len(b.received) - before < 200


def test_an_exchange_is_made_anew_each_hour_and_secrets_follow_on_each_other_in_between():
    a, b, at_a, at_b = couple(world := World(), persistent_keepalive=25, at_b={})
    a.send(at_a, b"hello")
    world.run(30)
    frames = len([1 for _, e in a.of(SendControl) if e.frame[0] == 0x1A])
    seen = {tags(a, at_a)[0]}
    for _ in range(20):
        world.run(170)
        assert tags(a, at_a) == tags(b, at_b)
        assert len(tags(a, at_a)[1]) <= 3
        seen.add(tags(a, at_a)[0])
        assert len([1 for _, e in a.of(SendControl) if e.frame[0] == 0x1A]) == frames
    assert len(seen) >= 20
    world.run(600)
    assert len([1 for _, e in a.of(SendControl) if e.frame[0] == 0x1A]) == 2 * frames
    assert len(a.of(PostQuantumChanged)) == 1


def test_what_is_held_opens_nothing_that_was_said_before():
    """Whoever reads the memory finds the secret of the session in use, and later ones."""
    a, _, at_a, _ = couple(world := World(limits=QUICK), persistent_keepalive=1)
    a.send(at_a, b"hello")
    world.run(3)
    old = [bytes(s.key) for s in keys(a)._states[at_a].held]
    chat(world, a, at_a, 90)
    world.run(90)
    new = [bytes(s.key) for s in keys(a)._states[at_a].held]
    assert not set(old) & set(new)
    chain = set()
    for _ in range(50):
        new = [bytes(successor_key(key)) for key in new]
        chain.update(new)
    assert not chain & set(old)


def test_who_hears_no_confirmation_is_named_a_secret_a_step_ahead():
    """The initiator has a session and goes on from it; the responder has not seen it used."""
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    a.send(at_a, b"hello")
    world.run(3)
    for _ in range(5):
        world.passes = lambda s, d, data: not (s == a.at and data[0] == 4)
        a.node.want_handshake(at_a, world.now)
        a.drain()
        world.run(1.5)
        assert tags(a, at_a)[0] not in (0, tags(b, at_b)[0])
    world.passes = lambda *_: True
    a.send(at_a, b"there")
    world.run(1)
    assert b.received[-1][2] == b"there"
    assert tags(a, at_a)[0] == tags(b, at_b)[0] != 0
    assert len(a.of(PostQuantumChanged)) == len(b.of(PostQuantumChanged)) == 1


@pytest.mark.parametrize("swap", [False, True])
def test_each_session_has_a_secret_of_its_own(swap):
    a, b, at_a, at_b = couple(world := World(limits=QUICK), swap=swap)
    seen = set()
    chat(world, a, at_a, 60)
    for _ in range(60):
        world.run(1)
        seen.add(tags(a, at_a)[0])
    assert len(seen) >= (5 if swap else 10)  # who asked initiates, and it has nothing to send
    assert 0 not in seen
    assert len(a.of(PostQuantumChanged)) == 1
    assert [int(data) for _, _, data in b.received] == list(range(60))
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]
    assert len(tags(a, at_a)[1]) <= 8  # those of the last twenty seconds


def test_old_secrets_are_zeroed():
    a, _, at_a, _ = couple(world := World())
    a.send(at_a, b"hello")
    world.run(2)
    old = keys(a)._states[at_a].held[0].key
    assert any(old)
    chat(world, a, at_a, 200)
    world.run(200)
    assert not any(old)
    held = keys(a)._states[at_a].held
    a.node.remove_peer(at_a, world.now)
    assert not any(any(secret.key) for secret in held)


def lossy(rekeys, seed):
    world = World(seed, Link((5 * MS, 25 * MS), loss=0.05), QUICK)
    a, b, at_a, at_b = couple(world, at_b={"endpoints": ()}, persistent_keepalive=1)
    begun = len(a.of(HandshakeCompleted))
    a.send(at_a, b"hello")
    world.run(20)
    world.wire.clear()
    changes = []
    while begun < rekeys:
        chat(world, a, at_a, 50)
        chat(world, b, at_b, 50)
        for _ in range(10):
            world.run(5)
            for host, peer in ((a, at_a), (b, at_b)):
                secret, held = tags(host, peer)
                assert secret, "a session without an exchanged secret"
                assert len(held) <= 9
                assert len(host.of(PostQuantumChanged)) == 1
        begun += len(a.of(HandshakeCompleted))
        for host in (a, b):
            # At most one keypair, the very first, was made without.
            changes += [e for _, e in host.of(PostQuantumChanged)][1:]
            ready = host.of(KeypairReady)
            gaps = [t1 - t0 for (t0, _), (t1, _) in pairwise(ready)]
            assert max(gaps, default=0) < QUICK.reject_after_time
            host.events = [x for x in host.events if isinstance(x[1], PostQuantumChanged)]
            host.received.clear()
        world.wire.clear()
    assert not changes


def test_rekeys_with_losses():
    lossy(60, 1)


@pytest.mark.long
def test_ten_thousand_rekeys_with_losses():
    for seed in range(5):
        lossy(2000, 100 + seed)


@pytest.mark.parametrize("who", ["asker", "answerer"])
@pytest.mark.parametrize("calls", ["the new one", "the old one"])
def test_a_restart_falls_back_and_recovers(who, calls):
    a, b, at_a, at_b = couple(world := World(limits=QUICK), swap=who == "answerer")
    a.send(at_a, b"hello")
    world.run(3)
    # a is started anew; b goes on with what it had
    again = world.host(1, a.identity, WITH)
    at_again = again.add(b, endpoints=(b.at,))
    begin = world.now
    if calls == "the new one":
        again.send(at_again, b"anew")
    else:
        world.later(0, lambda: b.node.want_handshake(at_b, world.now))
        world.later(1, b.drain)
    world.run(3)
    assert states((again, at_again), (b, at_b)) == ["yes", "yes"]
    assert [e.on for when, e in b.of(PostQuantumChanged) if when >= begin] == [False, True]
    assert tags(again, at_again) == tags(b, at_b)
    b.send(at_b, b"back")
    world.run(1)
    assert again.received[-1][2] == b"back"


def test_both_forget():
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    a.send(at_a, b"hello")
    world.run(3)
    a, b = world.host(1, a.identity, WITH), world.host(2, b.identity, WITH)
    at_a, at_b = a.add(b, endpoints=(b.at,)), b.add(a)
    a.send(at_a, b"hello")
    world.run(3)
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]


def test_a_machine_put_back_to_an_earlier_state_recovers():
    """What it holds, the peer has forgotten."""
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    chat(world, a, at_a, 60)
    world.run(3)
    old = [(s.tag, bytes(s.key)) for s in keys(a)._states[at_a].held]
    world.run(57)
    now_held = keys(a)._states[at_a].held
    for secret, (tag, key) in zip(now_held[-len(old) :], old, strict=True):
        secret.tag, secret.key[:] = tag, key
    del now_held[: -len(old)]
    a.node.begin_anew(world.now)
    a.drain()
    world.run(3)
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]
    assert tags(a, at_a) == tags(b, at_b)


# who listens, holds back and sends again


def test_a_replayed_or_held_back_initiation_forces_nothing():
    """Initiations without a secret, from before the exchange, are of no use afterwards."""
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    a.send(at_a, b"hello")
    world.run(1)
    first = world.messages(1)[0][1]
    chat(world, a, at_a, 30)
    for second in range(1, 30):
        world.later(second * SECOND, lambda: world.carry(a.at, b.at, first))
    world.run(30)
    assert b.node.drops["replay"] == 29
    assert len(b.of(PostQuantumChanged)) == len(a.of(PostQuantumChanged)) == 1
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]


def test_an_initiation_held_back_over_a_change_of_secrets_forces_nothing():
    """The peer's initiation names the secret before; it arrives when a newer one is in use."""
    for hold_s in (0.5, 3, 8, 25):
        a, b, at_a, at_b = couple(world := World(limits=QUICK))
        chat(world, a, at_a, 60)
        world.run(10)
        kept = []
        world.passes = lambda s, d, data, b=b, kept=kept: (
            not (s == b.at and data[0] == 1 and not kept.append(data))
        )
        b.node.want_handshake(at_b, world.now)
        b.drain()
        assert len(kept) == 1
        world.run(hold_s)
        world.passes = lambda *_: True
        world.carry(b.at, a.at, kept[0])
        for _ in range(10):
            world.run(1)
            assert all(tags(*end)[0] for end in ((a, at_a), (b, at_b)))
        assert len(b.of(PostQuantumChanged)) == len(a.of(PostQuantumChanged)) == 1


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("swap", [False, True])
def test_who_keeps_the_frames_back_afterwards_gets_no_session_without(kind, swap):
    """Nothing of an exchange arrives any more: the secret there is goes on being used."""
    a, b, at_a, at_b = couple(world := World(limits=QUICK), swap=swap)
    a.send(at_a, b"hello")
    world.run(3)
    for host in (a, b):
        true = host.node.receive_control

        def deaf(peer, frame, now, true=true, **more):
            if not (frame[0] == 0x1A and frame[2] == kind):
                true(peer, frame, now, **more)

        host.node.receive_control = deaf
    chat(world, a, at_a, 120)
    chat(world, b, at_b, 120)
    for _ in range(120):
        world.run(1)
        assert all(tags(*end)[0] for end in ((a, at_a), (b, at_b)))
    assert len(b.of(PostQuantumChanged)) == len(a.of(PostQuantumChanged)) == 1
    assert len(b.received) >= 120


def test_an_old_or_silent_session_is_no_reason_to_forget():
    """Keys are zeroed for want of an answer; the secret that none was made of is not."""
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    a.send(at_a, b"hello")
    world.run(3)
    world.passes = lambda *_: False
    world.run(600)
    assert states((a, at_a), (b, at_b)) == ["", ""]
    world.passes = lambda *_: True
    for first, peer in ((a, at_a), (b, at_b)):
        first.send(peer, b"again")
        world.run(3)
        assert all(tags(*end)[0] for end in ((a, at_a), (b, at_b)))
    assert [e.held for _, e in a.of(KeypairReady)].count(True) == 0


# off, and required


def test_off_and_older_versions_are_sent_nothing():
    off = {"post_quantum": PostQuantum.OFF}
    for parts, at_b in (((WITH, PARTS), {}), ((PARTS, WITH), {}), ((WITH, WITH), off)):
        a, b, at_a, _ = couple(world := World(limits=QUICK), parts=parts, at_b=at_b)
        chat(world, a, at_a, 20)
        world.run(20)
        assert len(b.received) == 20
        for host in (a, b):
            assert not [e for _, e in host.of(SendControl) if e.frame[0] == 0x1A]
            assert not host.of(PostQuantumChanged)
        for _, data in world.messages(1):
            assert len(data) == 148


def test_require_holds_packets_until_the_secret_is_in():
    require = {"post_quantum": PostQuantum.REQUIRE}
    a, b, at_a, at_b = couple(world := World(), **require)
    for n in range(5):
        a.send(at_a, b"%d" % n)
    a.node.want_handshake(at_a, world.now)
    while not b.received:
        assert world.now < 10**15
        world.run(0.01)
    assert tags(a, at_a)[0]
    assert tags(b, at_b)[0]
    world.run(1)
    assert [data for _, _, data in b.received] == [b"%d" % n for n in range(5)]
    assert held_back(a) == [True, False]
    b.send(at_b, b"back")
    world.run(1)
    assert a.received[-1][2] == b"back"


@pytest.mark.parametrize("parts", [(WITH, PARTS), (WITH, WITH)])
def test_require_sends_nothing_to_who_cannot_or_will_not(parts):
    a, b, at_a, at_b = couple(
        world := World(limits=QUICK),
        parts=parts,
        post_quantum=PostQuantum.REQUIRE,
        at_b={"post_quantum": PostQuantum.OFF},
    )
    chat(world, a, at_a, 30)
    world.run(30)
    assert not b.received
    assert keys(a).state(at_a) == "no"
    # a minute of it costs no handshake more than a session that lives
    assert len(a.of(HandshakeCompleted)) < 14
    b.send(at_b, b"hi")
    world.run(1)
    assert [data for _, _, data in a.received] == [b"hi"]


def test_settings_change_while_it_runs():
    a, b, at_a, at_b = couple(world := World(limits=QUICK), post_quantum=PostQuantum.OFF)
    a.send(at_a, b"1")
    world.run(2)

    def configure(host, peer, other, mode, **more):
        config = PeerConfig(node_id=other.identity.node_id, post_quantum=mode, **more)
        host.node.update_peer(peer, config, world.now)
        host.drain()

    where = {"endpoints": (b.at,)}
    assert states((a, at_a), (b, at_b)) == ["no", "no"]
    configure(b, at_b, a, PostQuantum.AUTO)
    configure(a, at_a, b, PostQuantum.REQUIRE, **where)
    a.send(at_a, b"2")
    world.run(5)
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]
    configure(a, at_a, b, PostQuantum.OFF, **where)
    chat(world, a, at_a, 20)
    world.run(20)
    assert states((a, at_a), (b, at_b)) == ["no", "no"]
    assert len(b.received) == 22
    configure(a, at_a, b, PostQuantum.REQUIRE, **where)
    configure(b, at_b, a, PostQuantum.OFF)
    world.run(5)
    a.send(at_a, b"waits")
    world.run(5)
    assert len(b.received) == 22
    configure(a, at_a, b, PostQuantum.AUTO, **where)
    world.run(5)
    assert b.received[-1][2] == b"waits"


# hostile peers


def test_who_falls_back_each_time_does_not_keep_us_busy():
    a, b, at_a, _ = couple(world := World())
    keys(b).secret_named = lambda peer, tag: None
    keys(b).secret = lambda peer: None
    a.send(at_a, b"hello")
    world.run(60)
    assert 6 <= len(a.of(HandshakeCompleted)) <= 11


def test_hostile_frames_are_counted():
    a, b, at_a, at_b = couple(world := World())
    a.send(at_a, b"hello")
    world.run(2)
    for host, peer in ((a, at_a), (b, at_b)):
        asks = keys(host)._asks(peer)
        for kind, size in ((1, 400), (2, 400), (3, 3)):
            for number in range(3):
                head = bytes((0x1A, 1, kind, 0)) + number.to_bytes(4, "little")
                host.node.receive_control(peer, head + b"\xff" * size, world.now)
        # Of an exchange that is over and whose secret is in use DONE is a copy, whatever its tag.
        refused = {"pq_claim": 6, "pq_stale": 3} if asks else {"pq_claim": 3, "pq_stale": 1}
        assert dict(host.node.drops) == refused
    # a whole key that is none (its numbers are beyond the modulus)
    for part, size in enumerate((400, 400, 384)):
        frame = bytes((0x1A, 1, 1, part)) + bytes(4) + b"\xff" * size
        b.node.receive_control(at_b, frame, world.now)
    assert b.node.drops["pq_claim"] == 4
    b.drain()
    chat(world, a, at_a, 300)
    world.run(300)
    assert states((a, at_a), (b, at_b)) == ["yes", "yes"]


def test_a_false_tag_in_done_settles_nothing():
    a, b, at_a, at_b = couple(world := World(limits=QUICK))
    true = b.node.receive_control

    def deaf(peer, frame, now, **more):
        if frame[:3] != b"\x1a\x01\x03":
            true(peer, frame, now, **more)

    b.node.receive_control = deaf
    # Nor does it come by a handshake.
    world.passes = lambda s, d, data: not (data[0] == 1 and world.now > begin + 10 * MS)
    begin = world.now
    a.send(at_a, b"hello")
    world.run(3)
    b.node.receive_control = true
    secret = keys(b)._states[at_b].fresh()
    exchange = keys(b)._states[at_b].exchange
    secret.sure = False
    wrong = (secret.tag ^ 1).to_bytes(3, "little")
    frame = bytes((0x1A, 1, 3, 0)) + exchange.to_bytes(4, "little") + wrong
    b.node.receive_control(at_b, frame, world.now)
    assert b.node.drops == {"pq_claim": 1}
    assert not secret.sure


def test_a_tag_in_a_timestamp_keeps_the_order():
    stamps = [tai64n.encode(10**18 + n * 16_777_216) for n in range(3)]
    marked = [tai64n.mark(s, t) for s, t in zip(stamps, (0xFFFFFF, 0, 0xFFFFFF), strict=True)]
    assert marked == sorted(set(marked))
