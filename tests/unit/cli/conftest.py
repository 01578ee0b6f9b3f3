"""`ws` in a process of its own or in this one, beside a fake agent in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_agent import FakeAgent
from run_ws import Done, Ws

from whalescale.cli import common, main

# A job in the background is told to ignore Ctrl-C, and what it starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("WHALESCALE_RUNTIME_DIR", str(folder))
    for name in ("WS_DEBUG", "WS_INTERFACE", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(common.Chosen, "interface", None)
    return folder


@pytest.fixture
def agent(runtime: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(runtime / "ws0.sock")
    yield fake
    fake.close()


@pytest.fixture
def ws(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ws:
    """In this process: fast."""

    def run(*words: str) -> Done:
        capsys.readouterr()
        code = main.main([str(w) for w in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


@pytest.fixture
def ws_process() -> Ws:
    """As a user starts it."""

    def run(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "whalescale.cli", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **(env or {})},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
