"""What a run of `ws` gave (a module of its own: `conftest` is many modules' name)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Done:
    code: int
    out: str
    err: str


Ws = Callable[..., Done]


def watch(words: list[str], is_one: Callable[[str], bool]) -> None:
    """`ws WORDS` goes on until it is interrupted: three lines of those wanted, then Ctrl-C."""
    command = [sys.executable, "-m", "whalescale.cli", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = 0
        while seen < 3:
            line = process.stdout.readline()
            assert line
            seen += is_one(line)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
