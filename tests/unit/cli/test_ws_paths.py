"""`ws paths`: what it shows, what it asks of the agent, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, failure
from run_ws import Ws, watch

from tests.unit.tui.multipath_sample import three

PIN = {"disabled": True, "tier": 1, "weight_cap": 0.5}


@pytest.fixture
def agent(agent: FakeAgent) -> FakeAgent:
    agent.answers["status"] = three()

    def pinned(params: dict[str, Any]) -> dict[str, Any]:
        path = three()["peers"][0]["multipath"]["paths"][1]
        pin = {} if params.get("reset") else PIN
        return {"peer": params["peer"], "paths": [{**path, "pin": pin}]}

    agent.answers["pin_path"] = pinned
    return agent


def test_all_paths(ws: Ws, agent: FakeAgent) -> None:
    done = ws("paths")
    assert (done.code, done.err) == (0, "")
    for piece in ("berlin: 2 of 3", "wwan0", "degraded", "reordering", "phone: no session"):
        assert piece in done.out
    assert "phone" not in ws("paths", "berlin").out
    assert "wwan0" in ws("paths", "khnpirir").out


def test_one_line_a_path_in_status(ws: Ws, agent: FakeAgent) -> None:
    lines = ws("status").out.splitlines()
    (eth,) = [line for line in lines if "eth0" in line and "failed" in line]
    assert eth.split()[:4] == ["berlin", "0", "eth0", "failed"]


def test_json(ws: Ws, agent: FakeAgent) -> None:
    told = json.loads(ws("paths", "--json").out)
    peers = three()["peers"]
    assert told == {
        "version": 1,
        "peers": [{"name": p["name"], "multipath": p.get("multipath")} for p in peers],
    }
    assert [p["name"] for p in json.loads(ws("paths", "phone", "--json").out)["peers"]] == ["phone"]


@pytest.mark.parametrize("json_too", [False, True])
def test_watch_without_a_terminal_goes_on(agent: FakeAgent, json_too: bool) -> None:
    words = ["paths", "--watch", "-n", "0.1"]
    if json_too:
        watch([*words, "--json"], lambda line: json.loads(line)["version"] == 1)
    else:
        watch(words, lambda line: line.startswith("berlin: 2 of 3"))


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (["wlan0", "--tier", "1"], {"path": "wlan0", "tier": 1}),
        (["1", "--tier", "auto"], {"path": "1", "tier": None}),
        (["10.9.0.1", "--weight-cap", "0.5"], {"path": "10.9.0.1", "weight_cap": 0.5}),
        (["1", "--disable"], {"path": "1", "disabled": True}),
        (
            ["1", "--enable", "--tier", "0", "--weight-cap", "0"],
            {"path": "1", "disabled": False, "tier": 0, "weight_cap": 0.0},
        ),
        (["1", "--reset"], {"path": "1", "reset": True}),
    ],
)
def test_set(ws: Ws, agent: FakeAgent, words: list[str], params: dict[str, Any]) -> None:
    done = ws("paths", "khnpirir", "--set", *words)
    assert (done.code, done.err) == (0, "")
    assert agent.requests[-1]["method"] == "pin_path"
    assert agent.requests[-1]["params"] == {"peer": "berlin", **params}
    said = "nothing pinned" if "reset" in params else "disabled, tier 1, at most 50 %"
    where = "wlan0 10.9.0.1:51820 → 192.0.2.7:51820"
    assert done.out == f"berlin: path 1, {where}: {said}\n"


def test_set_json(ws: Ws, agent: FakeAgent) -> None:
    told = json.loads(ws("paths", "berlin", "--set", "1", "--disable", "--json").out)
    assert (told["version"], told["peer"], told["paths"][0]["pin"]) == (1, "berlin", PIN)


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--tier", "1"], "which path?"),
        (["berlin", "--reset"], "which path?"),
        (["berlin", "--enable"], "which path?"),
        (["--set", "1", "--disable"], "whose path?"),
        (["berlin", "--set", "1"], "--set needs something to set"),
        (["berlin", "--set", "1", "--reset", "--disable"], "takes all of it back"),
        (["berlin", "--set", "1", "--disable", "--watch"], "exclude each other"),
        (["berlin", "--set", "1", "--tier", "256"], "0 (goes first) to 255, or auto"),
        (["berlin", "--set", "1", "--tier", "-1"], "or auto"),
        (["berlin", "--set", "1", "--tier", "9" * 5000], "or auto"),
        (["berlin", "--set", "1", "--tier", "²"], "or auto"),
    ],
)
def test_wrong_usage(ws: Ws, agent: FakeAgent, words: list[str], piece: str) -> None:
    done = ws("paths", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert piece in done.err
    assert "pin_path" not in {r["method"] for r in agent.requests}


def test_what_the_agent_refuses(ws: Ws, agent: FakeAgent) -> None:
    words = ("paths", "berlin", "--set", "9", "--disable")
    agent.answers["pin_path"] = [
        failure("not_found", "berlin has no path '9'", "there are: 0 eth0")
    ]
    done = ws(*words)
    assert (done.code, done.err) == (1, "ws: berlin has no path '9'; there are: 0 eth0\n")
    agent.answers["pin_path"] = [failure("permission", "not yours", "use sudo")]
    assert ws(*words).code == 4
    agent.answers["pin_path"] = {"peer": "berlin", "paths": [{"id": "x"}]}
    done = ws(*words)
    assert done.code == 1
    assert "restart the agent" in done.err


def test_unknown_peer_and_no_agent(ws: Ws, agent: FakeAgent) -> None:
    for more in ([], ["--json"], ["--set", "1", "--disable"]):
        done = ws("paths", "rome", *more)
        assert done.code == 1
        assert "its peers: berlin, phone" in done.err
    assert ws("-i", "ws9", "paths").code == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ws paths ", {"berlin", "phone"}),
        ("ws paths b", {"berlin"}),
        ("ws paths berlin --set ", {"0", "1", "2", "eth0", "wlan0", "wwan0"}),
        ("ws paths berlin --set w", {"wlan0", "wwan0"}),
        ("ws paths -i ws9 ", set()),
        ("ws ping ", {"berlin", "phone"}),
        ("ws bench b", {"berlin"}),
        ("ws peer remove p", {"phone"}),
        ("ws export --wireguard p", {"phone"}),
        ("ws status -i ", {"ws0"}),
        ("ws -i w", {"ws0"}),
    ],
)
def test_completion(ws_process: Ws, agent: FakeAgent, words: str, expected: set[str]) -> None:
    env = {
        "_WS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = ws_process(env=env)
    assert (set(done.out.split()), done.err) == (expected, "")


def test_hostile_names(ws: Ws, agent: FakeAgent, runtime: Path) -> None:
    path = three()["peers"][0]["multipath"]["paths"][1] | {"interface": "\x1b[2J"}
    agent.answers["pin_path"] = {"peer": "\x1b[1m", "paths": [path]}
    assert "\x1b" not in ws("paths", "berlin", "--set", "1", "--disable").out
