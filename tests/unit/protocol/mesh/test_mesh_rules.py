"""Merge rules, joining, limits, whom to call: docs/mesh.md sections 3 to 8."""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest

from whalescale.identity import Identity
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import frames, gossip, invite, records, recovery
from whalescale.protocol.mesh.anchors import Advice
from whalescale.protocol.mesh.dialback import Proof, Prover
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.membership import Membership, Outcome
from whalescale.protocol.mesh.network import (
    GuestAdmitted,
    GuestGone,
    MemberChanged,
    Mesh,
    MeshError,
    MeshSettings,
    Notice,
    RecordStored,
    SendFrame,
    TicketKept,
    WantSession,
    Word,
)
from whalescale.protocol.mesh.records import (
    ROOT,
    AdminRecord,
    EndpointRecord,
    MemberRecord,
    NetworkRecord,
    Place,
    PlaceKind,
    RecordError,
    Status,
)
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint

S = NS_PER_S
NOW = 1_000 * S
KEY, ADMIN, SECOND, LAPTOP, PHONE = (Identity(bytes([n]) * 32) for n in range(21, 26))
NET = records.network_id(KEY.node_id)
NETWORK = records.encode(
    NetworkRecord(NET, KEY.node_id, 1, "hearth", IPv4Network("10.9.0.0/29")), KEY.seed
)


def admin(who, generation=1, status=Status.ACTIVE):
    return records.encode(AdminRecord(NET, who.node_id, generation, status), KEY.seed)


def member(who, name, issuer=ADMIN, generation=1, status=Status.ACTIVE, address=None):
    by = ROOT if issuer is KEY else issuer.node_id
    record = MemberRecord(NET, who.node_id, by, generation, status, name, True, address)
    return records.encode(record, issuer.seed)


def where(who, seq, *places, anchor=False):
    record = EndpointRecord(NET, who.node_id, seq, tuple(places), anchor)
    return records.encode(record, who.seed)


def broken(raw):
    """Its signature is of something else."""
    return raw[:-40] + bytes((raw[-40] ^ 1,)) + raw[-39:]


def place(host, port=51820, kind=PlaceKind.INTERFACE):
    return Place(Endpoint(host, port), kind)


BEGIN = [NETWORK, admin(ADMIN), member(ADMIN, "home")]


def merge_all(raws):
    """A table after these, in this order; what waits is offered again, as others do."""
    table = Table()
    rules = Membership(NET, table)
    for _ in range(3):
        for raw in raws:
            rules.merge(raw, records.decode(raw))
    return rules, table


def state(table):
    return sorted(e.raw for e in table.entries())


CONTESTS = {
    "the higher generation": ([member(LAPTOP, "a"), member(LAPTOP, "b", generation=2)], 1),
    "a revocation, whatever the generation": (
        [member(LAPTOP, "a", generation=9), member(LAPTOP, "a", status=Status.REVOKED)],
        1,
    ),
    "the network key at a tie": ([member(LAPTOP, "a", KEY), member(LAPTOP, "z")], 0),
    "a generation over the network key": (
        [member(LAPTOP, "a", KEY), member(LAPTOP, "b", generation=2)],
        1,
    ),
    "no admin, at a tie": ([admin(SECOND, 1), admin(SECOND, 1, Status.REVOKED)], 1),
    "an admin again": ([admin(SECOND, 2), admin(SECOND, 1, Status.REVOKED)], 0),
}


@pytest.mark.parametrize("name", CONTESTS)
def test_which_of_two_records_holds_in_any_order(name):
    contest, winner = CONTESTS[name]
    for raws in itertools.permutations([*BEGIN, *contest]):
        _, table = merge_all(raws)
        assert contest[winner] in state(table)
        assert contest[1 - winner] not in state(table)


def test_equal_ranks_are_decided_by_the_bytes():
    two = [member(LAPTOP, "a"), member(LAPTOP, "b")]
    for raws in itertools.permutations([*BEGIN, *two]):
        assert max(two) in state(merge_all(raws)[1])


def test_what_a_former_admin_signed_goes_in_any_order():
    """But what the network key signed anew before stays."""
    gone = [member(LAPTOP, "laptop", SECOND), member(PHONE, "phone", SECOND)]
    kept = member(PHONE, "phone", KEY, generation=2)
    raws = [*BEGIN, admin(SECOND), *gone, kept, admin(SECOND, 2, Status.REVOKED)]
    for order in itertools.permutations(raws[3:]):
        rules, table = merge_all([*BEGIN, *order])
        assert rules.active(LAPTOP.node_id) is None
        assert kept in state(table)
        assert not set(gone) & set(state(table))


def test_two_admins_that_revoke_each_other_are_both_out_in_any_order():
    """Both stay admins, what else they signed holds, and the network key sorts them out."""
    begin = [NETWORK, admin(ADMIN), admin(SECOND)]
    orders = [
        member(ADMIN, "home", SECOND, 2, Status.REVOKED),
        member(SECOND, "second", ADMIN, 2, Status.REVOKED),
        member(LAPTOP, "laptop", SECOND),
    ]
    states = []
    for order in itertools.permutations([member(ADMIN, "home"), member(SECOND, "second"), *orders]):
        rules, table = merge_all([*begin, *order])
        assert {m.node_id for m in rules.actives()} == {LAPTOP.node_id}
        states.append(state(table))
    assert all(s == states[0] for s in states)
    anew = member(LAPTOP, "laptop", KEY, 2)
    rules, _ = merge_all([*begin, *orders, anew, admin(SECOND, 2, Status.REVOKED)])
    assert not rules.is_admin(SECOND.node_id)
    assert rules.active(LAPTOP.node_id) is not None


def test_who_may_not_sign():
    rules, _ = merge_all(BEGIN)
    raw = member(LAPTOP, "laptop", SECOND)
    assert rules.merge(raw, records.decode(raw)).outcome is Outcome.WAITING
    for forged in (
        admin(SECOND)[:-64]
        + records.sign(ADMIN.seed, b"whalescale record v1", admin(SECOND)[:-64]),
        broken(member(LAPTOP, "laptop")),
    ):
        with pytest.raises(RecordError, match="record_signature"):
            rules.merge(forged, records.decode(forged))
    other = Identity(b"\x77" * 32)
    net = records.network_id(other.node_id)
    raw = records.encode(NetworkRecord(net, other.node_id, 9, "evil", None), other.seed)
    with pytest.raises(RecordError, match="record_network"):
        rules.merge(raw, records.decode(raw))


def test_one_address_or_name_given_twice():
    first, second = sorted((LAPTOP, PHONE), key=lambda i: i.node_id)
    address = IPv4Address("10.9.0.3")
    rules, _ = merge_all(
        [*BEGIN, member(first, "x", address=address), member(second, "x", address=address)]
    )
    has, lacks = rules.active(first.node_id), rules.active(second.node_id)
    assert has is not None
    assert lacks is not None
    assert (rules.address_of(has), rules.address_of(lacks)) == (address, None)
    found = rules.named("x")
    assert found is not None
    assert found.node_id == first.node_id


def test_addresses_are_never_given_twice_and_end():
    raws = [*BEGIN, member(LAPTOP, "x", status=Status.REVOKED, address=IPv4Address("10.9.0.1"))]
    rules, _ = merge_all(raws)
    assert rules.free_address() == IPv4Address("10.9.0.2")
    more = [
        member(Identity(bytes([40 + n]) * 32), f"n{n}", address=IPv4Address(f"10.9.0.{n}"))
        for n in range(2, 7)
    ]
    assert merge_all([*raws, *more])[0].free_address() is None


# a mesh


def mesh_of(who, raws=(), **settings):
    mesh = Mesh(who, NET, random=numbers(), now=NOW, settings=MeshSettings(**settings))
    mesh.restore(raws, NOW)
    return mesh


def numbers():
    count = itertools.count(1)
    return lambda size: next(count).to_bytes(8, "little").ljust(size, b"\5")[:size]


def drain(mesh, kind=None):
    found = []
    while (event := mesh.poll_event()) is not None:
        found.append(event)
    return [e for e in found if kind is None or isinstance(e, kind)]


def ticket_for(mesh, secret):
    return invite.Ticket(NET, mesh.node_id, secret, 0, ())


def test_invite_and_join():
    home = mesh_of(ADMIN, BEGIN)
    home.set_places([place("192.0.2.1")], NOW)
    drain(home)
    made, secret = home.admission.invite("laptop", NOW)
    assert drain(home) == [TicketKept(made), GuestAdmitted(made.one_time)]
    join = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket_for(home, secret))
    home.receive(made.one_time, join, NOW)
    events = drain(home)
    assert [type(e) for e in events[:3]] == [TicketKept, RecordStored, MemberChanged]
    assert Notice(Word.TICKET_USED, LAPTOP.node_id, "laptop") in events
    told = [e for e in events if isinstance(e, SendFrame)]
    assert {e.node_id for e in told} == {made.one_time}
    raws = [r for e in told for r in frames.decode(e.frame).records]
    laptop = mesh_of(LAPTOP, raws)
    assert not laptop.drops
    assert laptop.belongs
    record = laptop.membership.active(LAPTOP.node_id)
    assert (record.name, record.address) == ("laptop", IPv4Address("10.9.0.1"))
    assert laptop.places(ADMIN.node_id, NOW) == (Endpoint("192.0.2.1", 51820),)
    # The answer was lost: the same again, and nothing new.
    count = home.table.count
    home.receive(made.one_time, join, NOW)
    assert [r for e in drain(home, SendFrame) for r in frames.decode(e.frame).records] == raws
    assert home.table.count == count


def refusal(mesh, one_time, frame, now=NOW):
    drain(mesh)
    mesh.receive(one_time, frame, now)
    sent = drain(mesh, SendFrame)
    return invite.decode_refused(sent[0].frame) if sent else None


def test_a_ticket_lets_one_machine_in_once():
    home = mesh_of(ADMIN, BEGIN)
    made, secret = home.admission.invite("laptop", NOW)
    ticket = ticket_for(home, secret)
    with pytest.raises(MeshError, match="out already"):
        home.admission.invite("laptop", NOW)
    wrong = invite.encode_join(PHONE.seed, LAPTOP.node_id, ticket)
    assert refusal(home, made.one_time, wrong) is invite.Refusal.PROOF
    late = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket)
    assert refusal(home, made.one_time, late, made.until) is invite.Refusal.EXPIRED
    home.receive(made.one_time, late, NOW)
    other = invite.encode_join(PHONE.seed, PHONE.node_id, ticket)
    assert refusal(home, made.one_time, other) is invite.Refusal.UNKNOWN
    assert home.membership.active(PHONE.node_id) is None
    # Anything but JOIN from that key is nothing.
    home.receive(made.one_time, frames.update_frames(BEGIN)[0], NOW)
    assert home.drops["mesh_guest"] == 1
    home.handle_timeout(made.until)
    assert drain(home, GuestGone) == [GuestGone(made.one_time)]
    home.receive(made.one_time, other, made.until)
    assert home.drops["mesh_member"] == 1


def test_a_ticket_of_another_network_lets_nobody_in():
    """Its network's ID was changed, or it came to the admin of another network."""
    home = mesh_of(ADMIN, BEGIN)
    made, secret = home.admission.invite("laptop", NOW)
    ticket = replace(ticket_for(home, secret), network=bytes(16))
    join = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket)
    assert refusal(home, made.one_time, join) is invite.Refusal.PROOF
    assert home.membership.active(LAPTOP.node_id) is None
    assert home.drops["join_proof"] == 1
    # What that admin could tell makes nobody a member of the ticket's network either.
    laptop = Mesh(LAPTOP, bytes(16), random=bytes, now=NOW)
    laptop.restore([*BEGIN, member(LAPTOP, "laptop")], NOW)
    assert not laptop.belongs
    assert laptop.drops["record_network"] == len(BEGIN) + 1


def test_a_ticket_outlives_the_agent_and_a_kill_at_any_moment():
    """What is on the disk after each event: the same machine is let in, or nobody, never two."""
    home = mesh_of(ADMIN, BEGIN)
    made, secret = home.admission.invite("laptop", NOW)
    ticket = ticket_for(home, secret)
    laptop = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket)
    phone = invite.encode_join(PHONE.seed, PHONE.node_id, ticket)
    before = [e.invite for e in drain(home, TicketKept)]
    home.receive(made.one_time, laptop, NOW)
    events = drain(home)
    assert [type(e) for e in events[:2]] == [TicketKept, RecordStored]
    for killed_after in range(len(events) + 1):
        tickets, raws = {i.one_time: replace(i) for i in before}, {}
        for event in events[:killed_after]:
            if isinstance(event, TicketKept):
                tickets[event.invite.one_time] = replace(event.invite)
            elif isinstance(event, RecordStored):
                raws[event.key] = event.raw
        again = mesh_of(ADMIN, [*BEGIN, *raws.values()])
        again.admission.restore_tickets(tickets.values())
        assert GuestAdmitted(made.one_time) in drain(again)
        again.receive(made.one_time, laptop, NOW)
        assert again.membership.active(LAPTOP.node_id) is not None
        assert refusal(again, made.one_time, phone) is invite.Refusal.UNKNOWN
        assert again.membership.active(PHONE.node_id) is None
        assert sum(r.name == "laptop" for r in again.membership.actives()) == 1


def test_a_ticket_whose_time_was_over_while_the_agent_was_down_is_gone():
    home = mesh_of(ADMIN, BEGIN)
    made, _ = home.admission.invite("laptop", NOW, lifetime=60 * S)
    again = mesh_of(ADMIN, BEGIN)
    again.admission.restore_tickets([made])
    assert again.deadline() <= made.until
    again.handle_timeout(NOW + 60 * S)
    assert drain(again, GuestGone) == [GuestGone(made.one_time)]
    assert not again.admission.invites.by_key


def test_a_ticket_is_called_back():
    home = mesh_of(ADMIN, BEGIN)
    made, secret = home.admission.invite("laptop", NOW)
    home.admission.withdraw("laptop")
    assert drain(home, GuestGone) == [GuestGone(made.one_time)]
    join = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket_for(home, secret))
    home.receive(made.one_time, join, NOW)
    assert home.membership.active(LAPTOP.node_id) is None
    with pytest.raises(MeshError, match="no ticket"):
        home.admission.withdraw("laptop")
    home.admission.invite("laptop", NOW)


def test_a_revoked_key_does_not_join_again():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop", status=Status.REVOKED)])
    made, secret = home.admission.invite("laptop", NOW)
    join = invite.encode_join(LAPTOP.seed, LAPTOP.node_id, ticket_for(home, secret))
    assert refusal(home, made.one_time, join) is invite.Refusal.REVOKED


def test_who_is_no_admin_is_told_what_to_do():
    laptop = mesh_of(LAPTOP, [*BEGIN, member(LAPTOP, "laptop")])
    for act in (
        lambda: laptop.admission.invite("phone", NOW),
        lambda: laptop.admission.revoke("home", NOW),
        lambda: laptop.admission.rename("home", "house", NOW),
    ):
        with pytest.raises(MeshError, match="no admin"):
            act()
    home = mesh_of(ADMIN, BEGIN)
    with pytest.raises(MeshError, match="no member is called"):
        home.admission.revoke("laptop", NOW)
    for name in ("Laptop", "-", "", "a.b", "x" * 64):
        with pytest.raises(MeshError, match="no name"):
            home.admission.invite(name, NOW)
    with pytest.raises(MeshError, match="already"):
        home.admission.invite("home", NOW)


def test_what_is_behind_a_member_is_signed_anew():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop")])
    lan, other, everywhere = (ip_network(n) for n in ("10.9.0.0/24", "fd01::/64", "0.0.0.0/0"))
    home.admission.set_routes("laptop", (lan, other, lan), (), NOW)
    record = home.admission.set_routes("laptop", (everywhere,), (other,), NOW)
    assert record.routes == (lan, everywhere)
    assert home.membership.active(LAPTOP.node_id) == record
    many = [ip_network(f"10.9.{n}.0/24") for n in range(9)]
    with pytest.raises(MeshError):
        home.admission.set_routes("laptop", many, (), NOW)
    assert home.membership.active(LAPTOP.node_id) == record
    laptop = mesh_of(LAPTOP, [*BEGIN, member(LAPTOP, "laptop")])
    with pytest.raises(MeshError, match="no admin"):
        laptop.admission.set_routes("laptop", (lan,), (), NOW)


def test_a_revocation_ends_the_session_and_is_the_last_word():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop"), member(PHONE, "phone")])
    for who in (LAPTOP, PHONE):
        home.session_up(who.node_id, NOW)
    drain(home)
    home.admission.revoke("laptop", NOW)
    assert LAPTOP.node_id not in home.sessions
    events = drain(home)
    last = [n for n, e in enumerate(events) if isinstance(e, SendFrame)]
    gone = events.index(MemberChanged(LAPTOP.node_id))
    assert [events[n].node_id for n in last if n < gone] == [LAPTOP.node_id]
    home.handle_timeout(NOW)
    told = [e for e in drain(home, SendFrame) if e.node_id == PHONE.node_id]
    phone = mesh_of(PHONE, [*BEGIN, member(PHONE, "phone"), member(LAPTOP, "laptop")])
    phone.session_up(LAPTOP.node_id, NOW)
    for event in told:
        phone.receive(ADMIN.node_id, event.frame, NOW)
    assert phone.membership.is_revoked(LAPTOP.node_id)
    assert LAPTOP.node_id not in phone.sessions
    phone.receive(LAPTOP.node_id, frames.update_frames(BEGIN)[0], NOW)
    assert phone.drops["mesh_member"] == 1


def test_a_restored_disk_goes_on_above_its_own_seq():
    raws = [*BEGIN, member(LAPTOP, "laptop")]
    laptop = mesh_of(LAPTOP, raws)
    laptop.set_places([place("192.0.2.9")], NOW)
    assert laptop.directory.seq == 1
    newer = where(LAPTOP, 7, place("192.0.2.8"))
    laptop.receive(ADMIN.node_id, frames.update_frames([newer])[0], NOW)
    assert laptop.directory.seq == 8
    assert laptop.table.endpoints(LAPTOP.node_id).places == (place("192.0.2.9"),)
    # Once more what it said before is no news.
    laptop.receive(ADMIN.node_id, frames.update_frames([newer])[0], NOW)
    assert laptop.directory.seq == 8


def test_two_agents_of_one_key_are_told():
    laptop = mesh_of(LAPTOP, [*BEGIN, member(LAPTOP, "laptop")])
    laptop.set_places([place("192.0.2.9")], NOW)
    for n in range(5):
        clone = where(LAPTOP, 10 * n + 10, place("192.0.2.8"))
        laptop.receive(ADMIN.node_id, frames.update_frames([clone])[0], NOW + n * S)
    assert Notice(Word.CLONED, LAPTOP.node_id) in drain(laptop)


def test_places_by_how_they_are_known():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop")])
    told, dialled, seen = (Endpoint(f"192.0.2.{n}", 1000 + n) for n in (1, 2, 3))
    raw = where(LAPTOP, 1, Place(told))
    home.receive(LAPTOP.node_id, frames.update_frames([raw])[0], NOW)
    home.met(LAPTOP.node_id, seen, How.SEEN, NOW)
    home.met(LAPTOP.node_id, dialled, How.DIALLED, NOW - S)
    assert home.places(LAPTOP.node_id, NOW) == (dialled, told, seen)
    for n in range(20):
        home.met(LAPTOP.node_id, Endpoint("192.0.2.3", 2000 + n), How.SEEN, NOW + n)
    places = home.places(LAPTOP.node_id, NOW)
    assert len(places) == 7
    assert places[0] == dialled


def test_a_hint_is_passed_on_and_forgotten():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop"), member(PHONE, "phone")])
    home.session_up(PHONE.node_id, NOW)
    seen = Endpoint("198.51.100.7", 4000)
    home.met(LAPTOP.node_id, seen, How.SEEN, NOW)
    home.handle_timeout(NOW + S)
    raws = [
        r for e in drain(home, SendFrame) for r in getattr(frames.decode(e.frame), "records", ())
    ]
    phone = mesh_of(PHONE, [*BEGIN, member(LAPTOP, "laptop"), member(PHONE, "phone")])
    root = phone.table.root
    for update in frames.update_frames(raws):
        phone.receive(ADMIN.node_id, update, NOW)
    assert phone.places(LAPTOP.node_id, NOW) == (seen,)
    assert phone.table.root == root
    assert phone.places(LAPTOP.node_id, NOW + 601 * S) == ()


# limits


def test_a_flood_of_forged_records_is_cut_off():
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop")])
    forged = broken(member(PHONE, "phone"))
    update = frames.update_frames([forged, forged])[0]
    for n in range(1_000):
        home.receive(LAPTOP.node_id, update, NOW + n * S // 1000)
    assert home.drops["record_signature"] <= 25
    assert home.drops["mesh_rate"] > 500
    good = frames.update_frames([member(PHONE, "phone")])[0]
    home.receive(LAPTOP.node_id, good, NOW + 20 * S)
    assert home.membership.active(PHONE.node_id) is not None


def test_trees_that_never_match_cost_a_bounded_rate():
    home = mesh_of(
        ADMIN, [*BEGIN, *(member(Identity(bytes([n]) * 32), f"n{n}") for n in range(60, 99))]
    )
    hostile = Identity(bytes([60]) * 32).node_id
    tree = frames.encode(frames.Tree(0, (frames.Branch(0, tuple(range(1, 17))),)))
    sent = 0
    for n in range(3_000):
        now = NOW + n * S // 100
        home.receive(hostile, tree, now)
        home.handle_timeout(now)
        sent += sum(len(e.frame) for e in drain(home, SendFrame))
    assert sent <= gossip.OUT_BURST + 30 * gossip.OUT_PER_SECOND


def test_calls_are_made_ever_less_often_and_anew_after_a_change():
    laptop = mesh_of(
        LAPTOP, [*BEGIN, member(LAPTOP, "laptop"), where(ADMIN, 1, place("192.0.2.1"))]
    )
    calls, now = [], NOW
    while now < NOW + 300 * S:
        now = max(now + 1, min(laptop.deadline(), NOW + 300 * S))
        laptop.handle_timeout(now)
        calls += [now for _ in drain(laptop, WantSession)]
    gaps = [(b - a) / S for a, b in itertools.pairwise(calls)]
    assert gaps[0] <= 1.25
    assert gaps[-1] <= 75
    assert all(b > a for a, b in itertools.pairwise(gaps[:5]))
    assert len(calls) <= 12
    laptop.host_changed(now)
    laptop.handle_timeout(now)
    assert drain(laptop, WantSession) == [
        WantSession(ADMIN.node_id, (Endpoint("192.0.2.1", 51820),))
    ]
    laptop.session_up(ADMIN.node_id, now)
    laptop.handle_timeout(now + 2 * S)
    drain(laptop)
    laptop.handle_timeout(now + 100 * S)
    assert not drain(laptop, WantSession)


def test_neighbours_are_spread_and_anchors_come_first():
    nodes = [bytes([n]) * 32 for n in range(40)]
    chosen = {n: recovery.wanted(n, nodes, nodes[:3], 4) for n in nodes}
    for n, four in chosen.items():
        assert len(four) == 4
        assert n not in four
        assert set(four[:2]) <= set(nodes[:3])
    often = [sum(n in four for four in chosen.values()) for n in nodes[3:]]
    assert max(often) <= 10


def test_anchors_and_what_they_lack():
    def advice(*raws, sessions=()):
        mesh = mesh_of(LAPTOP, [*BEGIN, member(LAPTOP, "l"), member(PHONE, "p"), *raws])
        for who in sessions:
            mesh.session_up(who.node_id, NOW)
        return mesh.anchors().advice

    home = where(ADMIN, 1, place("11.0.0.1"), anchor=True)
    near = where(PHONE, 1, place("11.0.0.9"), anchor=True)
    far = where(PHONE, 1, place("12.0.0.9"), anchor=True)
    assert advice() is Advice.NONE
    assert advice(home) is Advice.NONE
    assert advice(home, sessions=[ADMIN]) is Advice.LAST
    assert advice(home, near, sessions=[ADMIN, PHONE]) is Advice.ONE_NETWORK
    assert advice(home, far, sessions=[ADMIN, PHONE]) is None


def test_a_request_from_our_own_public_address_shows_a_hairpin() -> None:
    prover = Prover(b"n" * 32, bytes)
    own, other = Endpoint("5.6.7.8", 1), Endpoint("5.6.7.9", 9)
    assert prover._worth(own, other, (), 1) is Proof.ANYBODY
    assert not prover.hairpin
    assert prover._worth(own, Endpoint("5.6.7.8", 9), (), 1) is Proof.NONE
    assert prover.hairpin


def test_what_was_checked_before_is_not_checked_again_but_judged():
    """A start reads what it sealed itself; the rules decide about that as about all else."""
    asked = []
    whole = mesh_of(ADMIN, BEGIN)
    raws = [e.raw for e in whole.table.entries()]

    def verifier(*what):
        asked.append(what)
        return records.verify(*what)

    again = Mesh(ADMIN, NET, random=os.urandom, now=NOW, verifier=verifier)
    assert again.restore(raws[:1], NOW, checked=raws[1:]) == len(raws)
    assert len(asked) == 1
    assert again.table.root == whole.table.root
    # A member whose issuer is no admin waits, sealed or not.
    alone = Mesh(ADMIN, NET, random=os.urandom, now=NOW)
    members = [r for r in raws if r[0] == records.Kind.MEMBER]
    assert alone.restore((), NOW, checked=members) == 0


def test_the_last_generation_keeps_nobody_from_being_revoked():
    """A hostile admin signs a member at the last generation: there is none above it."""
    last = records.GENERATION_MAX
    home = mesh_of(ADMIN, [*BEGIN, member(LAPTOP, "laptop", generation=last)])
    with contextlib.suppress(MeshError):  # of two at the last one the greater bytes hold
        home.admission.rename("laptop", "other", NOW)
    name = home.membership.active(LAPTOP.node_id).name
    home.admission.revoke(name, NOW)
    assert home.membership.is_revoked(LAPTOP.node_id)
    with pytest.raises(ValueError, match="no record holds this"):
        member(LAPTOP, "laptop", generation=last + 1)
