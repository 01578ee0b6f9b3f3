"""No session: within 5 s each side says what is known of it."""

from __future__ import annotations

import json

import pytest

from tests.netns.conftest import make_end, make_two
from tools.netlab import Lab, wait_until
from tools.peers import Peer, Whalescale

pytestmark = pytest.mark.netns


def trouble(end: Whalescale) -> str:
    return " ".join(end.status()["peers"][0]["trouble"])


def test_a_server_that_is_not_there(lab: Lab) -> None:
    two = make_two(lab)
    two.a.start(two.peer_of(two.a))
    wait_until("the reason", lambda: "no answer at all from" in trouble(two.a), 5)
    shown = two.a.ws("status", "-i", two.a.interface).stdout
    assert "no answer at all from" in shown
    ping = two.a.ws("ping", "-i", two.a.interface, "b", "-c", "1", "--json", check=False)
    assert ping.returncode == 1


def test_a_server_that_does_not_know_us(lab: Lab) -> None:
    two = make_two(lab)
    stranger = make_end(two.b.host, 3)  # never started: the one that the server knows
    two.b.start(
        Peer(stranger.public_key, ("10.77.0.3/32",), endpoint=None, node_id=stranger.node_id)
    )
    two.a.start(two.peer_of(two.a))
    wait_until("the reason", lambda: "is there and answers" in trouble(two.a), 8)

    def told() -> bool:
        log = two.b.ws("logs", "-i", two.b.interface).stdout
        return "asks for a session, but no peer here has its key" in log

    wait_until("b to say who asks", told)
    doctor = json.loads(two.a.ws("doctor", "-i", two.a.interface, "--json", check=False).stdout)
    assert any("is there and answers" in c["detail"] for c in doctor["checks"])


def test_a_name_that_does_not_resolve(lab: Lab) -> None:
    from dataclasses import replace

    two = make_two(lab)
    two.a.start(replace(two.peer_of(two.a), endpoint="nobody.invalid:51820"))
    wait_until("the reason", lambda: "nobody.invalid does not resolve" in trouble(two.a), 8)
