"""The man page knows every command, every option and every key of the configuration."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from whalescale import config
from whalescale.cli.commands import COMMANDS
from whalescale.cli.tree import app

PAGE = Path(__file__).parents[3] / "docs" / "man" / "ws.1"
TEXT = PAGE.read_text().replace("\\-", "-").replace("\\fR", "").replace("\\fB", "")


def options() -> set[str]:
    root = typer.main.get_command(app)
    commands = [root]
    for name in COMMANDS:
        command = root.commands[name]  # type: ignore[attr-defined]
        commands += [command, *getattr(command, "commands", {}).values()]
    return {o for c in commands for p in c.params for o in p.opts if o.startswith("--")}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command(name: str) -> None:
    assert any(
        line.startswith((f".B {name}", f".BR {name}", f'.BR "{name}', ".BR status"))
        and name in line
        for line in TEXT.splitlines()
    )


def test_options() -> None:
    short = {"--address": "-a", "--listen-port": "-p", "--endpoint": "-e", "--allowed-ip": "-a",
             "--output": "-o", "--interval": "-n", "--follow": "-f", "--count": "-c",
             "--reload": "--no-reload"}  # fmt: skip
    missing = {o for o in options() if o not in TEXT and short.get(o, o) not in TEXT}
    assert missing == set()


def test_keys_of_the_configuration() -> None:
    for fields in config._FIELDS.values():
        for field in fields:
            assert field in TEXT


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not here")
def test_it_is_sound() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(PAGE)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
