"""Two machines behind home routers that let in whom they sent to, and an anchor outside.

a ── router ─┐
             core ── anchor        (the kernel's own NAT, tools/homes.py)
b ── router ─┘
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.netns.test_network import end_of, join, members, up
from tools.homes import Home, Internet, has_nft
from tools.netlab import Lab, wait_until
from tools.peers import Whalescale

pytestmark = pytest.mark.netns


def pings(end: Whalescale, address: str) -> str:
    return end.host.run("ping", "-c1", "-W20", address, check=False).stdout


def ways(end: Whalescale, name: str) -> list[str]:
    """Where the packets for a member go."""
    found: Any = [p for p in end.status()["peers"] if p["name"] == name]  # type: ignore[attr-defined]
    paths = (found[0].get("multipath") or {}).get("paths", []) if found else []
    return [p["remote"] for p in paths if p["usable"]] or [found[0]["endpoint"] or ""]


def test_a_hole_is_punched(lab: Lab) -> None:
    if not has_nft():
        pytest.skip("needs nft: apt-get install nftables")
    world = Internet(lab)
    hub, _ = world.public("anchor")
    homes: list[Home] = [world.home("a"), world.home("b")]
    anchor = end_of(hub, 1)
    with anchor.config.open("a") as config:
        config.write("anchor = true\n")
    a, b = (end_of(h.host, n) for n, h in enumerate(homes, start=2))
    anchor.ws(
        *("network", "create", "hearth", "--name", "anchor", "--prefix", "10.99.0.0/24"),
        *("-i", anchor.interface, "--config", anchor.config),
    )
    up(anchor)
    join(a, anchor, "a")
    join(b, anchor, "b")
    wait_until("b knows a", lambda: "a" in members(b), 30, 0.3)
    wait_until("a knows b", lambda: "b" in members(a), 30, 0.3)
    wait_until("sessions", lambda: members(b)["anchor"]["session"], 30, 0.3)

    # Nobody outside gets in by himself: this comes through only where both ends sent.
    assert "1 received" in pings(a, members(b)["b"]["address"]), a.process.log()[-3000:]

    def direct(end: Whalescale, name: str, home: Home) -> bool:
        return all(way.startswith(home.wan) for way in ways(end, name))

    # A second round, should a busy machine miss the first one, begins after 35 s.
    wait_until("a reaches b's router", lambda: direct(a, "b", homes[1]), 60, 0.3)
    wait_until("b reaches a's router", lambda: direct(b, "a", homes[0]), 60, 0.3)
    # By the port that the router gave it: nobody told them that one.
    assert ways(a, "b") != [f"{homes[1].wan}:{b.port}"]
    status: Any = a.status()
    assert status["nat"]["mappings"][0]["seen"][0].startswith(homes[0].wan)
    assert status["nat"]["rounds"] <= 2
