"""`ws` alone: the state of this machine, and the next step."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_agent import FakeAgent, failure
from run_ws import Ws

from whalescale import keyfiles, locations
from whalescale.cli import tree
from whalescale.cli.commands import COMMANDS

PUBLIC = keyfiles.encode_wireguard_key(bytes([5]) * 32)


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "etc-whalescale"
    monkeypatch.setattr(locations, "CONFIG_DIR", folder)
    return folder


def steps(out: str) -> list[str]:
    """Every command that it names is one."""
    found = [part for part in out.split("`")[1::2] if part != "man ws"]
    for text in found:
        words = [w for w in shlex.split(text) if w != "sudo"]
        if words[:1] != ["ws"] or words[1:] == ["--help"] or len(words) == 1:
            continue
        root = typer.main.get_command(tree.app)
        context = root.make_context("ws", words[1:])
        word = [*context._protected_args, *context.args][0]  # type: ignore[attr-defined]
        assert word in COMMANDS
    return found


def test_nothing_yet(ws: Ws) -> None:
    done = ws()
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("This machine has no tunnel yet.\nnext  `sudo ws network create ")
    named = steps(done.out)
    for words in ("sudo ws join TICKET", "sudo ws import FILE", "ws --help"):
        assert words in named
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_configuration_on_its_way(ws: Ws, etc: Path) -> None:
    assert ws("init").code == 0
    done = ws()
    assert done.out.startswith("ws0  is configured, without peers\nnext  `sudo ws peer add NAME")
    steps(done.out)
    words = ("--wireguard-public-key", PUBLIC, "--allowed-ip", "10.77.0.2/32")
    assert ws("peer", "add", "a", *words).code == 0
    done = ws()
    assert done.out.startswith("ws0  is configured with 1 peer, and not up\nnext  `sudo ")
    assert "starts it" in done.out
    (etc / "ws0.toml").write_text("[interface")
    done = ws()
    assert (done.code, "is not up, and its file is wrong: " in done.out) == (0, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "ws0  is up: "),
        ({"peers": []}, "is up, and has no peers\nnext  `sudo ws peer add"),
        ({"states": "unreachable"}, "; no answer from "),
        ({"states": "idle"}, " with a session\nnext  `ws ping "),
    ],
)
def test_a_running_agent(ws: Ws, agent: FakeAgent, change: dict[str, Any], said: str) -> None:
    told = agent.answers["status"]
    for peer in told["peers"]:
        peer["state"] = change.get("states", peer["state"])
    told["peers"] = change.get("peers", told["peers"])
    done = ws()
    assert (done.code, done.err) == (0, "")
    assert said in done.out
    assert steps(done.out)


def test_in_a_network(
    ws: Ws, agent: FakeAgent, etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = agent.answers["status"]
    told["peers"], told["network"] = [], {"name": "hearth"}
    done = ws()
    assert "ws0  is up, alone in hearth so far\nnext  `sudo ws invite NAME`" in done.out
    assert steps(done.out)
    agent.path.unlink()
    monkeypatch.setenv("WHALESCALE_STATE_DIR", str(tmp_path))
    assert ws("init").code == 0
    locations.store_file("ws0").touch()
    done = ws()
    assert "ws0  is in a network, and not up\nnext  `sudo " in done.out
    assert "starts it" in done.out


def test_an_agent_that_does_not_answer_or_may_not(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["status"] = [failure("permission", "this agent belongs to another user")]
    assert "`sudo ws status`" in ws().out
    agent.answers["status"] = [b"nonsense\n"]
    assert "does not answer: " in ws().out
