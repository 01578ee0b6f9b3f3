"""The relay's frames, byte for byte (tests/vectors/relay.json), and the anchor's table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whalescale.protocol.control import ControlError
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.nat.bindings import IN_ALL, PER_MEMBER, Binding, Bindings
from whalescale.protocol.nat.relay_frames import (
    Bind,
    Bound,
    Refusal,
    Refused,
    RelayFrame,
    decode,
    encode,
)

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "vectors" / "relay.json").read_text(encoding="utf-8")
)
TAKEN = [case for case in CASES if "refused" not in case]
REFUSED = [case for case in CASES if "refused" in case]
S = NS_PER_S


def frame_of(case: dict[str, Any]) -> RelayFrame:
    if "bind" in case:
        told = case["bind"]
        return Bind(told["index"], bytes.fromhex(told["member"]), told["seconds"])
    if "bound" in case:
        return Bound(**case["bound"])
    return Refused(case["answer"]["index"], Refusal[case["answer"]["reason"]])


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case["name"])
def test_vector(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["frame"])
    assert decode(data) == frame_of(case)
    assert decode(data + b"\xff") == frame_of(case), "what is behind the fields is padding"
    if not case.get("odd"):
        assert encode(frame_of(case)) == data
        for length in range(len(data)):
            with pytest.raises(ControlError, match=r"^control_length$"):
                decode(data[:length])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_refused_vector(case: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match=rf"^{case['refused']}$"):
        decode(bytes.fromhex(case["frame"]))


def test_answers_are_shorter_than_what_they_answer() -> None:
    longest = max(len(encode(frame_of(c))) for c in TAKEN if "bind" not in c)
    assert longest < len(encode(Bind(1, bytes(range(32)), 1)))


def test_a_frame_that_cannot_be_is_not_made() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        encode(Bind(1, b"short", 1))


def table(members: int = 64, ours: tuple[int, ...] = ()) -> Bindings:
    return Bindings(lambda index: index in ours, members)


def bound(t: Bindings, index: int, owner: int = 1, sender: int = 2, now: int = 0) -> bool:
    return isinstance(t.bind(index, owner, sender, 60, now), Binding)


def test_a_binding_is_renewed_expires_and_is_free_again() -> None:
    t = table()
    assert bound(t, 5)
    assert t.deadline() == 60 * S
    assert bound(t, 5, now=50 * S)
    assert t.expire(60 * S) == []
    assert t.deadline() == 110 * S
    assert t.bind(5, 3, 2, 60, 109 * S) is Refusal.TAKEN
    assert bound(t, 5, owner=3, now=110 * S), "what has expired is nobody's, swept or not"
    assert [b.index for b in t.expire(170 * S)] == [5]
    assert len(t) == t.owners == 0
    assert t.deadline() is None


def test_nothing_is_granted_for_longer_than_an_index_lives() -> None:
    t = table()
    t.bind(5, 1, 2, 65_535, 0)
    assert t.deadline() == 180 * S


def test_an_index_has_one_owner_and_one_sender() -> None:
    t = table(ours=(9,))
    assert bound(t, 5)
    for owner, sender in ((3, 2), (1, 3), (2, 1)):
        assert t.bind(5, owner, sender, 60, 0) is Refusal.TAKEN
    assert t.bind(9, 1, 2, 60, 0) is Refusal.TAKEN
    assert t.unbind(5, 2) == []
    assert t.unbind(6, 1) == []
    assert [b.index for b in t.unbind(5, 1)] == [5]


def test_one_member_and_all_together_are_bounded() -> None:
    t = table(members=1000)
    for n in range(PER_MEMBER):
        assert bound(t, n + 1)
    assert t.bind(10_000, 1, 2, 60, 0) is Refusal.ROOM
    assert bound(t, 1), "what is there is renewed all the same"
    for n in range(IN_ALL - PER_MEMBER):
        assert bound(t, 20_000 + n, owner=10 + n % 500)
    assert t.bind(90_000, 900, 2, 60, 0) is Refusal.ROOM
    t.end(1)
    assert bound(t, 90_000, owner=900)


def test_a_hundred_thousand_indices_of_one_member_are_ninety_six() -> None:
    t = table(members=1000)
    assert bound(t, 7, owner=2, sender=1), "another's"
    said = [t.bind(n, 1, 2, 180, 0) for n in range(1, 100_001)]
    assert [n + 1 for n, refusal in enumerate(said) if refusal is Refusal.TAKEN] == [7]
    assert sum(refusal is Refusal.ROOM for refusal in said) == 100_000 - 1 - PER_MEMBER
    assert len(t) == PER_MEMBER + 1
    assert bound(t, 200_000, owner=3), "others have their own"


def test_so_many_members_and_no_more() -> None:
    t = table(members=2)
    assert bound(t, 1, owner=1)
    assert bound(t, 2, owner=2, sender=1)
    assert t.bind(3, 3, 1, 60, 0) is Refusal.ROOM
    assert bound(t, 4, owner=2, sender=1)
    t.unbind(1, 1)
    assert bound(t, 3, owner=3, sender=1)


def test_the_end_of_a_peer_ends_what_it_bound_and_what_it_sends() -> None:
    t = table()
    assert bound(t, 1, owner=1, sender=2)
    assert bound(t, 2, owner=2, sender=1)
    assert bound(t, 3, owner=3, sender=4)
    assert {b.index for b in t.of(1)} == {1, 2}
    assert {b.index for b in t.end(1)} == {1, 2}
    assert [b.index for b in t] == [3]
