"""What goes elsewhere than the tunnel's routes say, by the kernel's own answers."""

from __future__ import annotations

import json
from typing import Any

from whalescale.cli import hostways

OURS: list[dict[str, Any]] = [
    {"dst": "10.77.0.0/24", "protocol": "kernel", "family": 4},
    {"dst": "10.88.0.0/24", "protocol": "static", "family": 4},
    {"dst": "fd88::/64", "family": 6},
    {"dst": "default", "table": "51820", "family": 4},
    {"dst": "10.99.0.0/24", "table": "1234", "family": 4},  # where the admin's own rules lead
    {"type": "multicast", "dst": "ff00::/8", "table": "local", "family": 6},
    {"dst": "fe80::/64", "family": 6},
    {"dst": "fd77::1", "protocol": "kernel", "family": 6},  # this host's own address
]
ENDPOINTS = ("192.0.2.7", "2001:db8::7", "fe80::9")


def checks(
    others: dict[str, Any], routes: list[dict[str, Any]] | None = None
) -> dict[str, tuple[str, str]]:
    """`others`: by the beginning of an address, what `ip route get` says."""
    asked: list[tuple[str, int]] = []

    def ask(address: str, mark: int) -> str:
        asked.append((address, mark))
        for start, answer in others.items():
            if address.startswith(start):
                return answer if isinstance(answer, str) else json.dumps([answer])
        outside = address in ENDPOINTS
        return json.dumps([{"dst": address, "dev": "eth0" if outside else "ws0"}])

    found = hostways.host("ws0", routes or [], OURS, 51820, 0xCA6C, ENDPOINTS, ask)
    verdicts = {c.name: (c.verdict, c.detail) for c in found}
    assert not any(address.startswith(("10.99.", "ff", "fe80", "fd77")) for address, _ in asked)
    assert {mark for address, mark in asked if address in ENDPOINTS} == {0xCA6C}
    return verdicts


def test_nothing_to_say() -> None:
    found = checks({}, [{"dst": "default", "dev": "eth0"}, {"dst": "10.1.0.0/16", "dev": "eth0"}])
    assert {verdict for verdict, _ in found.values()} == {"ok"}


def test_a_rule_a_metric_or_a_filter_before_the_tunnels_routes() -> None:
    for answer, word in (
        ({"dev": "eth0"}, "by eth0"),  # a rule, a smaller metric, a route put before
        ("", "no way"),  # a blackhole
        ({"type": "unreachable"}, "unreachable"),
        ("no JSON", "no way"),
        ("[]", "no way"),
    ):
        verdict, detail = checks({"10.88.": answer, "fd88:": answer})["ways into the tunnel"]
        assert verdict == "warn"
        assert f"10.88.0.0/24 ({word}), fd88::/64 ({word})" in detail


def test_a_piece_of_a_network_that_goes_elsewhere() -> None:
    half = {"dst": "10.88.0.0/25", "dev": "eth0"}
    found = checks({"10.88.0.1": {"dev": "eth0"}}, [half])
    assert found["ways into the tunnel"][0] == "ok"  # the other half does lead there
    assert found["longer routes"][0] == "warn"
    assert "10.88.0.0/25 (by eth0)" in found["longer routes"][1]
    lost = checks({}, [{"type": "blackhole", "dst": "10.88.0.9"}])["longer routes"]
    assert lost == ("warn", "10.88.0.9 (blackhole): lies in a peer's network, and goes elsewhere")
    # This host's own LAN: usual, and only said.
    assert checks({}, [{**half, "protocol": "kernel"}])["longer routes"][0] == "ok"


def test_datagrams_that_would_go_into_their_own_tunnel() -> None:
    verdict, detail = checks({"192.0.2.7": {"dev": "ws0"}})["ways to the peers"]
    assert verdict == "warn"
    assert detail.startswith("192.0.2.7: ")
    verdict, detail = checks({"2001:": ""})["ways to the peers"]
    assert (verdict, "2001:db8::7 (no way)" in detail) == ("warn", True)
