"""What is said on a link, and what of what is heard is taken; by strangers too."""

from __future__ import annotations

import random

import pytest

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import lan
from whalescale.protocol.mesh.lan import LanError, Vicinity
from whalescale.protocol.places import Endpoint, LocalLink, Standing

NET, OTHER = b"n" * 16, b"o" * 16
OURS, THEIRS, THIRD = b"1" * 32, b"2" * 32, b"3" * 32
LINK = LocalLink("192.168.1.7", 2, "eth0", 1500, prefix_length=24)
THERE = Endpoint("192.168.1.9", 51820)
NONCE = b"nonce678"


def text(data: bytes) -> bytes:
    said = lan.KEY + data
    return bytes([len(said)]) + said


def said(
    node_id: bytes = THEIRS,
    *places: Endpoint,
    network: bytes = NET,
    nonce: bytes = NONCE,
) -> bytes:
    return text(lan.encode(network, node_id, nonce, places or (THERE,)))


def vicinity(*links: LocalLink) -> Vicinity:
    made = Vicinity(NET, OURS, lambda: (OURS, THEIRS))
    made.set_links(links or (LINK,))
    return made


def test_the_bytes() -> None:
    """docs/mesh.md section 7.2."""
    data = lan.encode(NET, THEIRS, NONCE, [THERE])
    assert data[:10] == b"\x01\x01nonce678"
    assert data[10:30] == b"\x04\x04" + bytes.fromhex("6cca") + bytes((192, 168, 1, 9)) + bytes(12)
    assert data[30:].hex() == "995468e6ffdf244c9ac6d769dd15b96f"
    assert lan.decode(data).places == (THERE,)


def test_nothing_in_it_says_who_it_is() -> None:
    """Not the network, not the member; of two days nothing that is the same."""
    one = lan.encode(NET, THEIRS, NONCE, [THERE])
    two = lan.encode(NET, THEIRS, b"tomorrow", [THERE])
    assert not {NET, THEIRS} & {one[n : n + 16] for n in range(len(one))}
    assert one[-16:-8] != two[-16:-8]
    assert one[-8:] != two[-8:]


def test_a_member_is_heard_again_and_goes() -> None:
    near = vicinity()
    assert near.hear(said(), 4500, 0)
    assert near.near(1) == {THEIRS: (THERE,)}
    assert not near.hear(said(), 4500, 2), "nothing new"
    assert near.hear(said(), 0, 3), "it said goodbye"
    assert near.near(3) == {}
    assert near.hear(said(), 1_000_000, 4)
    assert near.near(4 + lan.TTL_MAX * NS_PER_S) == {}, "however long it claims to stay"
    assert not near.drops


def test_what_it_said_last_stands_first() -> None:
    near = vicinity()
    for n in range(1, 6):
        near.hear(said(THEIRS, Endpoint(f"192.168.1.{100 + n}", 1), nonce=bytes([n]) * 8), 100, n)
    places = near.near(10)[THEIRS]
    assert [place.ip for place in places] == ["192.168.1.105", "192.168.1.104", "192.168.1.103"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (said(network=OTHER), "lan_network"),
        (said(THIRD), "lan_member"),
        (said(THEIRS, Endpoint("203.0.113.9", 53)), "lan_elsewhere"),
        (said(THEIRS, Endpoint("192.168.1.7", 53)), "lan_elsewhere"),
        (b"", "lan_claim"),
        (b"\x05other", "lan_claim"),
        (b"\xffw=", "lan_length"),
        (text(b""), "lan_length"),
        (text(b"\x02" + said()[4:]), "lan_version"),
        (said()[:-1], "lan_length"),
        (text(said()[3:-1]), "lan_length"),
        (text(bytes((1, 200)) + bytes(300)[:200]), "lan_length"),
        (text(bytes((1, 1)) + bytes(8 + 20 + 16)), "lan_claim"),
    ],
)
def test_what_is_not_taken(record: bytes, reason: str) -> None:
    near = vicinity()
    assert not near.hear(record, 100, 0)
    assert near.near(0) == {}
    assert dict(near.drops) == {reason: 1}


def test_another_place_under_words_that_were_heard_is_nobodys() -> None:
    """All that is said is in the tags: who listens cannot say it again of a place of its own."""
    data = bytearray(said())
    at = bytes(data).index(bytes((192, 168, 1, 9)))
    data[at + 3] = 66
    near = vicinity()
    near.hear(bytes(data), 100, 0)
    assert near.near(0) == {}
    assert near.drops["lan_network"] == 1


def test_ours_come_back_is_no_news() -> None:
    near = vicinity()
    assert not near.hear(said(OURS, Endpoint("192.168.1.7", 51820)), 100, 0)
    assert not near.drops


def test_a_place_of_a_link_that_went_is_none() -> None:
    near = vicinity()
    near.hear(said(), 100, 0)
    near.set_links(())
    assert near.near(1) == {}
    near.set_links((LINK,))
    assert near.near(1) == {THEIRS: (THERE,)}


def test_ten_thousand_records_of_strangers_cost_no_member_a_hash() -> None:
    asked = 0

    def members() -> tuple[bytes, ...]:
        nonlocal asked
        asked += 1
        return (OURS, THEIRS)

    near = Vicinity(NET, OURS, members)
    near.set_links((LINK,))
    rng = random.Random(1)  # noqa: S311
    for n in range(10_000):
        forged = said(network=OTHER, nonce=rng.randbytes(8)) if n % 2 else rng.randbytes(60)
        near.hear(forged, 100, n)
    assert asked == 0
    assert near.drops.total() == 10_000
    assert near.hear(said(), 100, 10_000), "who belongs is heard all the same"


def test_a_member_that_floods_is_bounded() -> None:
    """It knows the network, so it can say that others are where they are not: places to try."""
    nodes = [n.to_bytes(32, "big") for n in range(1, 2001)]
    asked = 0

    def members() -> list[bytes]:
        nonlocal asked
        asked += 1
        return nodes

    near = Vicinity(NET, OURS, members)
    near.set_links((LINK,))
    for n, node in enumerate(nodes[:1000]):
        near.hear(said(node, nonce=n.to_bytes(8, "big")), 100, n * 1000)
    assert asked <= lan.ANNOUNCED_BURST + 1
    assert near.drops["lan_rate"] == 1000 - asked
    assert len(near.near(1_000_000)) == lan.MEMBERS_MAX
    assert near.drops["lan_room"] == asked - lan.MEMBERS_MAX


def test_bytes_of_any_kind_raise_nothing_else() -> None:
    rng = random.Random(2)  # noqa: S311
    good = said()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            lan.decode(lan.find(bytes(data[: rng.randint(0, len(data))])))
        except LanError as refusal:
            assert str(refusal).startswith("lan_")  # noqa: PT017


def test_each_link_says_its_own_addresses_alone() -> None:
    links = [
        LINK,
        LocalLink("fe80::7", 2, "eth0", 1500, link_local=True, prefix_length=64),
        LocalLink("2001:db8::7", 2, "eth0", 1500, prefix_length=64),
        LocalLink("2001:db8::f00", 2, "eth0", 1500, prefix_length=64, standing=Standing.DEPRECATED),
        LocalLink("10.0.0.7", 3, "wlan0", 1500, prefix_length=24),
    ]
    assert [p.ip for p in lan.own_places(links, 2, 1)] == ["192.168.1.7", "2001:db8::7"]
    assert [p.ip for p in lan.own_places(links, 3, 1)] == ["10.0.0.7"]
    assert lan.own_places(links, 2, 0) == ()
