"""Flows, the filter of --flow, and whose address is whose."""

from __future__ import annotations

import pytest

from whalescale.trace.flows import Flow, Owners, address_of, parse_pattern

FOUR = Flow(address_of("10.77.0.1"), 40052, address_of("10.77.0.2"), 5201)
SIX = Flow(address_of("fd77::1"), 40053, address_of("fd77::2"), 443)


def test_how_a_flow_is_written() -> None:
    assert str(FOUR) == "10.77.0.1:40052-10.77.0.2:5201"
    assert str(SIX) == "[fd77::1]:40053-[fd77::2]:443"


@pytest.mark.parametrize("flow", [FOUR, SIX])
def test_what_is_written_matches_what_it_was_written_of(flow: Flow) -> None:
    pattern = parse_pattern(str(flow))
    assert pattern.matches(flow)
    assert not pattern.matches(SIX if flow is FOUR else FOUR)


@pytest.mark.parametrize(
    ("text", "four", "six"),
    [
        ("*:*-*:*", True, True),
        ("*:*-*:5201", True, False),
        ("*:40053-*:*", False, True),
        ("*:*-10.77.0.2:*", True, False),
        ("*:*-[fd77::2]:443", False, True),
        ("10.77.0.2:*-10.77.0.1:*", False, False),
        ("[::ffff:10.77.0.1]:*-*:*", True, False),
    ],
)
def test_parts_may_be_anything(text: str, four: bool, six: bool) -> None:
    pattern = parse_pattern(text)
    assert (pattern.matches(FOUR), pattern.matches(SIX)) == (four, six)


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("", "hyphen"),
        ("10.77.0.1:1", "hyphen"),
        ("10.77.0.1-10.77.0.2:1", "no port"),
        ("10.77.0.1:0-*:*", "'0' is no port"),
        ("10.77.0.1:65536-*:*", "no port"),
        ("10.77.0.1:٣-*:*", "no port"),
        ("10.77.0.300:1-*:*", "no address"),
        (":1-*:*", "no address"),
        ("fd77::1:1-*:*", "brackets"),
    ],
)
def test_what_a_filter_cannot_be(text: str, piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        parse_pattern(text)


def test_the_longest_network_owns_an_address() -> None:
    owners = Owners(
        [
            ("exit", ["0.0.0.0/0", "::/0"]),
            ("office", ["10.77.0.0/16", "nonsense"]),
            ("berlin", ["10.77.0.2/32", "fd77::2/128"]),
        ]
    )
    expected = {
        "10.77.0.2": "berlin", "10.77.0.3": "office", "192.0.2.1": "exit", "fd77::2": "berlin",
        "fd77::3": "exit", "::ffff:10.77.0.2": "berlin",
    }  # fmt: skip
    for _ in range(2):
        assert {a: owners.of(address_of(a)) for a in expected} == expected
    assert Owners([]).of(address_of("10.77.0.2")) is None
