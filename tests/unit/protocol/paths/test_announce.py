"""Our list of addresses, and the peer's."""

from __future__ import annotations

from collections import Counter

from whalescale.protocol.candidates import NO_LINK
from whalescale.protocol.paths import frames
from whalescale.protocol.paths.announce import Announcer, Listener
from whalescale.protocol.paths.frames import Announce, Entry, EntryKind
from whalescale.protocol.paths.manager import PathManager
from whalescale.protocol.paths.probing import Buckets
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings
from whalescale.protocol.places import Endpoint, LocalLink

S = 1_000_000_000
ETH, WLAN = LocalLink("192.168.1.2", 2, "eth0", 1500), LocalLink("10.0.0.2", 3, "wlan0", 1500)


def test_it_is_said_at_once_again_soon_and_then_ever_less():
    announcer = Announcer()
    announcer.update((ETH,), 51820, (), 0)
    assert announcer.due_at is None
    announcer.begin(0)
    said = []
    for now in range(0, 15000 * S, S):
        if announcer.next(now) is not None:
            said.append(now // S)
    assert said == [0, 1, 4, 64, 184, 424, 904, 1864, 3784, 7384, 10984, 14584]


def test_changes_are_a_second_apart_and_have_a_serial_of_their_own():
    announcer = Announcer()
    announcer.update((ETH,), 51820, (), 0)
    announcer.begin(0)
    first = announcer.next(0)
    for n in range(20):
        links = (ETH, WLAN) if n % 2 == 0 else (ETH,)
        announcer.update(links, 51820, (), n * S // 100)
        assert announcer.next(n * S // 100) is None
    announcer.update((ETH, WLAN), 51820, (), S // 2)
    second = announcer.next(S)
    assert second.serial != first.serial
    assert [e.link for e in second.entries] == [0, 1]


def test_an_interface_keeps_its_number():
    announcer = Announcer()
    announcer.update((ETH, WLAN), 51820, (), 0)
    assert (announcer.number("eth0"), announcer.number("wlan0")) == (0, 1)
    announcer.update((WLAN,), 51820, (), 0)
    assert (announcer.number("eth0"), announcer.number("wlan0")) == (NO_LINK, 1)
    announcer.update((WLAN, ETH), 51820, (), 0)
    assert (announcer.number("eth0"), announcer.number("wlan0")) == (0, 1)


def test_what_a_nat_makes_of_an_address_is_announced_too():
    announcer = Announcer()
    announcer.begin(0)
    announcer.update((ETH,), 51820, (("eth0", Endpoint("203.0.113.9", 4000)),), 0)
    entries = announcer.next(0).entries
    assert entries[0] == Entry(Endpoint("203.0.113.9", 4000), EntryKind.OBSERVED, 0)


def test_what_a_gateway_maps_is_announced_as_long_as_it_does():
    mapped = Endpoint("203.0.113.9", 51820)
    announcer = Announcer(inside=lambda ip: ip == "203.0.113.7")
    announcer.begin(0)
    seen = (("eth0", Endpoint("203.0.113.9", 4000)),)
    inside = ("eth0", Endpoint("203.0.113.7", 51820))  # a gateway that points into a tunnel
    announcer.update((ETH,), 51820, seen, 0, (("eth0", mapped), inside))
    said = announcer.next(0).entries
    assert Entry(mapped, EntryKind.MAPPED, 0) in said
    assert {e.endpoint for e in said} == {mapped, seen[0][1], Endpoint(ETH.ip, 51820)}
    announcer.update((ETH,), 51820, seen, 2 * S)
    assert mapped not in {e.endpoint for e in announcer.next(2 * S).entries}


def test_what_helps_most_is_announced_first():
    """There is room for sixteen."""
    ips = [f"fe80::{k}" for k in range(1, 9)] + [f"10.0.0.{k}" for k in range(1, 9)]
    links = [LocalLink(ip, 2, "eth0", 1500, ip.startswith("fe80")) for ip in [*ips, "2600::1"]]
    announcer = Announcer()
    announcer.begin(0)
    announcer.update(tuple(links), 51820, (("eth0", Endpoint("203.0.113.9", 4000)),), 0)
    said = [e.endpoint.ip for e in announcer.next(0).entries]
    assert said[:2] == ["203.0.113.9", "2600::1"]
    assert said[2:10] == ips[8:]
    assert said[10:] == ips[:6]


def test_a_list_is_taken_once_and_never_an_older_one():
    listener = Listener(Buckets().lists)
    entry = Entry(Endpoint("10.0.0.1", 1), EntryKind.INTERFACE, 0)

    def taken(serial, now, *entries):
        if not listener.wants(serial, now)[0]:
            return None
        return listener.take(Announce(serial, entries))

    assert taken(250, 0, entry) == ((entry,), 0)
    assert taken(250, 10 * S) is None
    assert taken(249, 10 * S) is None
    assert taken(3, 10 * S) == ((), 0)  # 250 + 9
    listener.forget()
    assert taken(0, 20 * S) == ((), 0)


def test_a_flood_and_bad_addresses_are_counted():
    listener = Listener(Buckets().lists)
    assert [listener.wants(n, 0) for n in range(10)][3:] == [(False, "announce_rate")] * 7
    bad = tuple(Entry(Endpoint(ip, 1)) for ip in ("127.0.0.1", "224.0.0.9", "::", "10.0.0.1"))
    assert listener.wants(50, 60 * S) == (True, "")
    taken, left_out = listener.take(Announce(50, bad))
    assert [e.endpoint.ip for e in taken] == ["10.0.0.1"]
    assert left_out == 3


def test_a_list_that_is_not_wanted_is_not_decoded(monkeypatch):
    """16 addresses cost 0.3 ms to decode, and a peer may send them all the time."""
    decoded = []
    decode = frames.decode_announce

    def counted(data):
        decoded.append(data)
        return decode(data)

    monkeypatch.setattr(frames, "decode_announce", counted)
    manager = PathManager(MultipathSettings(), bytes, 51820, tuner=PathTuner)
    here, there = Endpoint("10.0.0.1", 51820), Endpoint("10.0.0.2", 51820)
    manager.set_locals([LocalLink(here.ip, 2, "eth0", 1500)], 0)
    manager.primary(there, here, 0)
    manager.session_started(0)
    entries = tuple(Entry(Endpoint(f"10.0.0.{n}", 1)) for n in range(10, 26))
    for serial in (1, 1, 0, 2, 3, 4, 5):
        frame = frames.encode_announce(Announce(serial, entries))
        manager.receive(frame, 0, there, here, 400, 0)
    assert len(decoded) == 3
    assert manager.drops == Counter(announce_rate=2)
