"""Commands without typer: what quick takes is what typer would have made of it."""

from __future__ import annotations

import functools
import inspect
import random
import subprocess
import sys
from typing import Any

import pytest
from run_ws import Ws

from whalescale.cli import commands, common, quick, tree

#: of every kind; some right, some not, of any command
WORDS = (
    *("--json", "--watch", "-w", "--once", "--check", "--force", "--qr", "--foreground", "-f"),
    *("-i", "ws1", "--interface", "--interface=ws2", "-i=x", "-iws3", "--interval", "-n", "0.5"),
    *("2", "0", "0.05", "1e3", "abc", "", "-", "--", "-1", "--interval=3", "--count", "--count=4"),
    *("berlin", "--set", "wwan0", "--tier", "auto", "--weight-cap", "0.25", "--disable"),
    *("--enable", "--reset", "-h", "--help", "--output", "-o", "a/x", "--nonsense", "--jso"),
    *("--route", "10.0.0.0/8", "--hours", "24", "--port", "70000", "--port=5", "--address"),
)
FUNCTIONS = {
    name: found for name in commands.COMMANDS if hasattr(found := commands.target(name), "__code__")
}


def by_typer(monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]) -> dict[str, Any] | None:
    """What typer calls it with; None: it refuses, or shows help."""
    called: list[dict[str, Any]] = []

    @functools.wraps(FUNCTIONS[name])
    def record(**given: Any) -> None:
        called.append(given)

    monkeypatch.setattr(tree, "target", lambda _: record)
    monkeypatch.setattr(tree, "app", tree._load(name))
    tree.run(words)
    return called[0] if called else None


def test_many_lines_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(19)  # noqa: S311
    taken = 0
    for name, function in FUNCTIONS.items():
        defaults = {
            n: p.default
            for n, p in inspect.signature(function).parameters.items()
            if p.default is not inspect.Parameter.empty
        }
        for _ in range(25):
            words = rng.choices(WORDS, k=rng.randint(0, 4))
            try:
                given = quick.given_to(function, words)
            except quick.NotPlain:
                continue
            taken += 1
            assert by_typer(monkeypatch, name, words) == {**defaults, **given}, (name, words)
    assert taken > 50
    capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json"],
        ["-i", "ws1", "status"],
        ["peers", "-i", "ws1"],
        ["paths", "berlin", "--watch", "--interval=2"],
        ["paths", "berlin", "--set", "wwan0", "--tier", "1", "--disable"],
        ["top", "--once", "-n", "0.5"],
        ["members", "--watch"],
        ["logs", "-f"],
        ["reload"],
        ["version"],
        ["route", "show"],
        ["exit-node", "use", "home", "--no-lan"],
        ["network", "show", "--json"],
        ["network", "admin", "add", "laptop"],
        [],
    ],
)
def test_what_is_typed_every_day_is_taken(words: list[str]) -> None:
    assert quick.find(words) is not None


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--help"],
        ["--help"],
        ["-i"],
        ["-i", "--json", "status"],
        ["statsu"],
        ["status", "surplus"],
        ["status", "--nonsense"],
        ["top", "-n", "0"],
        ["top", "-n"],
        ["route"],
        ["route", "shwo"],
        ["network", "show", "--help"],
        ["ping"],
        ["init", "--address", "10.0.0.1/24"],
    ],
)
def test_all_else_is_left(words: list[str]) -> None:
    assert quick.find(words) is None


def test_the_interface_before_the_command_holds_for_this_one_alone(ws: Ws) -> None:
    assert "ws7" in ws("-i", "ws7", "status").err
    assert common.Chosen.interface == "ws7"
    assert "ws0" in ws("status").err


def test_no_typer() -> None:
    code = (
        "import sys; from whalescale.cli.main import main; main(['status', '--json']);"
        "sys.exit('typer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
