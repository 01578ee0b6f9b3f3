"""`ws members`, `ws hosts`: what they show of what the agent says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, failure, sample
from run_ws import Done, Ws, watch

from whalescale import keyfiles
from whalescale.identity import Identity, encode_seed
from whalescale.protocol.mesh.records import network_id

NETWORK = {"name": "hearth", "id": "ab", "prefix": None, "anchors_alive": 1, "belongs": True}


def member(name: str, address: str | None, **more: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("self", "admin", "anchor", "session"), False)
    return {
        "name": name,
        "address": address,
        "overlay": "fd77::1",
        "endpoint": None,
        **flags,
        **more,
    }


@pytest.fixture
def agent(agent: FakeAgent) -> FakeAgent:
    rows = [
        member("home", "10.9.0.1", self=True, admin=True),
        member("phone", None, session=True, endpoint="192.0.2.7:51820"),
        member("phone", "10.9.0.3"),
    ]
    agent.answers["network"] = {"network": NETWORK, "members": rows}
    told = [{"name": "home", "id": "h", "here": True}, {"name": "phone", "id": "p"}]
    agent.answers["status"] = sample() | {"network": {"name": "hearth", "members": told}}
    return agent


def test_hosts(ws: Ws, agent: FakeAgent) -> None:
    lines = ws("hosts").out.splitlines()
    assert lines[0] == "10.9.0.1\thome.hearth.internal home.internal"
    # A name that two have is told only with the network's.
    assert lines[2:] == ["fd77::1\tphone.hearth.internal", "10.9.0.3\tphone.hearth.internal",
                         "fd77::1\tphone.hearth.internal"]  # fmt: skip
    told = json.loads(ws("hosts", "--json").out)
    assert told["version"] == 1
    assert told["hosts"][0] == {
        "address": "10.9.0.1",
        "names": ["home.hearth.internal", "home.internal"],
    }
    assert len(told["hosts"]) == len(lines)


def test_members(ws: Ws, agent: FakeAgent) -> None:
    done = ws("members")
    assert [line.split() for line in done.out.splitlines()] == [
        ["NAME", "ADDRESS", "ROLE", "REACHED"],
        ["home", "10.9.0.1", "admin", "this", "machine"],
        ["phone", "fd77::1", "-", "192.0.2.7:51820"],
        ["phone", "10.9.0.3", "-", "-"],
    ]
    assert len(json.loads(ws("members", "--json").out)["members"]) == 3
    assert "network  " in ws("status").out


def test_watch_in_no_network_says_so(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["network"] = [failure("failed", "this machine is in no network", "make one")]
    done = ws("members", "--watch")
    assert (done.code, done.out) == (1, "")
    assert "no network" in done.err


@pytest.mark.parametrize("json_too", [False, True])
def test_watch_without_a_terminal_goes_on(agent: FakeAgent, json_too: bool) -> None:
    words = ["members", "--watch", "-n", "0.1"]
    if json_too:
        watch([*words, "--json"], lambda line: json.loads(line)["version"] == 1)
    else:
        watch(words, lambda line: line.startswith("hearth: 2 members"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("revoke ", {"laptop"}),
        ("rename la", {"laptop"}),
        ("exit-node use l", {"laptop"}),
        ("route sign ", {"laptop"}),
    ],
)
def test_members_are_completed(
    ws_process: Ws, agent: FakeAgent, words: str, expected: set[str]
) -> None:
    rows = [
        {"name": "home", "id": "h" * 56, "here": True},
        {"name": "laptop", "id": "l" * 56, "here": False},
    ]
    agent.answers["status"] = sample() | {"network": {"name": "hearth", "members": rows}}
    env = {
        "_WS_COMPLETE": "complete_bash",
        "COMP_WORDS": f"ws {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    assert set(ws_process(env=env).out.split()) == expected


def test_address_of_this_machine_says_how_others_see_it(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["network"]["members"][0]["places"] = []
    seen = {"local": "192.168.1.2", "kind": "unknown", "observers": 1, "seen": ["5.6.7.8:1"]}
    agent.answers["status"]["nat"] = {"mappings": [seen], "filtering": "anybody"}
    lines = ws("address", "home").out.splitlines()
    assert lines[0] == "inside   10.9.0.1, fd77::1"
    assert lines[1].startswith("NAT      one other sees 192.168.1.2 as 5.6.7.8:1")
    assert lines[2] == "NAT      datagrams get in of who was never sent to"


def test_a_network_is_made_where_nothing_is_configured(
    ws: Ws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ws join` does: one command, and the machine is the first member."""
    monkeypatch.setenv("WHALESCALE_STATE_DIR", str(tmp_path / "state"))
    config = tmp_path / "ws0.toml"
    words = ("network", "create", "hearth", "--name", "home", "--config", str(config))
    refused = ws(*words, "--prefix", "10.99.0.0/31")
    assert refused.code == 2
    assert not config.exists()
    done = ws(*words, "--prefix", "10.99.0.0/24", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert (made["name"], made["address"], made["running"]) == ("home", "10.99.0.1", False)
    assert oct((tmp_path / "ws0.key").stat().st_mode & 0o777) == "0o600"
    assert (tmp_path / "ws0.network-key").exists()
    assert ws(*words).code == 1  # it is in one already
    assert ws("leave", "--config", str(config)).code == 0
    (tmp_path / "ws0.network-key").unlink()
    assert ws(*words).code == 0


def test_the_networks_key_is_taken_in_once_or_again(
    ws: Ws, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time is no fault; over another key it is, and says what to do."""
    monkeypatch.setenv("WHALESCALE_STATE_DIR", str(tmp_path / "state"))
    config = tmp_path / "ws0.toml"
    ws("init", "--config", str(config))
    root = Identity(b"r" * 32)
    key = encode_seed(root.seed)
    agent.answers["network"] = {"network": NETWORK | {"id": network_id(root.node_id).hex()}}

    def taken(text: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return ws("network", "import-key", "--config", str(config), "--json")

    for _ in range(2):
        done = taken(key + "\n")
        assert done.code == 0, done.err
        kept = Path(json.loads(done.out)["key_file"])
        assert kept.read_text() == key + "\n"
    other = taken(encode_seed(b"o" * 32))
    assert other.code == 1
    assert "not the key of hearth; take" in other.err
    keyfiles.write(kept, encode_seed(b"o" * 32) + "\n")
    held = taken(key)
    assert held.code == 1
    assert "with another key; move it away" in held.err
