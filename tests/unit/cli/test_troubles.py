"""No session, no answer: what ping, status and doctor say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, sample
from run_ws import Ws

from whalescale import status
from whalescale.cli import troubles
from whalescale.tui import render

TROUBLE = "no answer at all from 192.0.2.7:51820 to 1 request in 2 s: is the address right"


def silent() -> dict[str, Any]:
    found = sample()
    found["peers"][0] |= {"state": "handshaking", "trouble": [TROUBLE]}
    return found


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ping"
    program.write_text("#!/bin/sh\nsleep 1\necho '2 packets transmitted, 0 received'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("whalescale.cli.ping.WHY_S", 0.2)


@pytest.mark.usefixtures("deaf")
def test_a_ping_without_an_answer_says_why(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["status"] = silent()
    done = ws("ping", "berlin")
    assert done.code == 1
    assert f"ws: {TROUBLE}" in done.err
    told = json.loads(ws("ping", "berlin", "--json").out)
    assert (told["received"], told["trouble"]) == (0, [TROUBLE])


@pytest.mark.usefixtures("deaf")
def test_a_session_whose_packets_are_refused(ws: Ws, agent: FakeAgent) -> None:
    asked = 0

    def answer(_: object) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        found = sample()
        found["peers"][0]["state"] = "up"
        found["counters"]["drops"] = {"source": asked}
        found["peers"][0]["wrong_sources"] = asked
        return found

    agent.answers["status"] = answer
    told = json.loads(ws("ping", "berlin", "--json").out)
    assert any("a source address that is not in its allowed_ips here" in t for t in told["trouble"])


def test_status_and_doctor_tell(ws: Ws, agent: FakeAgent) -> None:
    found = silent()
    found["counters"]["drops"] = {"source": 3}
    found["peers"][0]["wrong_sources"] = 3
    found["agent"]["warnings"] = ["10.0.0.1 is taken"]
    found["events"] = [{"t": 1, "peer": None, "event": "stranger 192.0.2.9:1 asks"}] * 3
    agent.answers["status"] = found
    shown = " ".join(ws("status").out.split())
    assert f"berlin: {TROUBLE}" in shown
    assert "3 packets from berlin came with a source" in shown
    assert "warning 10.0.0.1 is taken" in shown
    checks = json.loads(ws("doctor", "--json").out)["checks"]
    warned = {c["name"]: c["detail"] for c in checks if c["verdict"] == "warn"}
    assert warned["peer berlin"] == TROUBLE
    assert warned["stranger"] == "stranger 192.0.2.9:1 asks"
    assert "allowed IPs" in warned
    assert warned["agent"] == "10.0.0.1 is taken"


def test_nothing_is_said_of_what_works() -> None:
    found = status.parse(sample())
    assert troubles.of(found) == []
    assert troubles.strangers(found) == []


def test_doctor_says_what_gateways_map(ws: Ws, agent: FakeAgent) -> None:
    found = sample()
    place = {"interface": "eth0", "local": "192.168.1.2:51820"}
    found["portmap"] = {
        "enabled": True,
        "gateways": [
            place
            | {"gateway": "192.168.1.1", "state": "mapped", "protocol": "PCP"}
            | {"external": "5.6.7.8:51820", "lease_s": 7000.0},
            place | {"gateway": "192.168.2.1", "state": "refused", "problem": "it has no room"},
        ],
    }
    agent.answers["status"] = found
    told = [c["detail"] for c in json.loads(ws("doctor", "--json").out)["checks"]]
    assert "192.168.1.1 (eth0) sends 5.6.7.8:51820 on to us (PCP)" in told
    assert "none at 192.168.2.1 (eth0): it has no room" in told


def test_what_is_known_of_the_nat_is_said_in_words() -> None:
    found = sample()
    seen = {"local": "192.168.1.2", "observers": 2, "seen": ["5.6.7.8:40001"]}
    found["nat"] = {
        "mappings": [{**seen, "kind": "endpoint-independent"}],
        "filtering": "ports",
        "hairpin": True,
    }
    found["lan"] = {"enabled": True, "interfaces": ["eth0"], "near": 1}
    told = status.parse(found)
    assert troubles.nat(told) == [
        "others see 192.168.1.2 as 5.6.7.8:40001, all of them: holes can be punched",
        "datagrams get in from other ports of who was sent to, not of strangers",
        "the router sends back what comes from inside (hairpin)",
    ]
    assert render.nat(told) == (
        "192.168.1.2 seen as 5.6.7.8:40001 (endpoint-independent); other ports get in; hairpin"
    )
    assert render.lan(told) == "1 member near, by eth0"
    nothing = status.parse(sample())
    assert (troubles.nat(nothing), render.nat(nothing), render.lan(nothing)) == ([], "", "")
