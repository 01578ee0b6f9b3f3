"""`ws up`: starts `ws up -f` in the background and tells what became of it.

The agent in these tests is a stand-in, put into the child by a sitecustomize module.
"""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_agent import FakeAgent
from run_ws import Ws

from whalescale.cli import lifecycle

PRELUDE = """
import os, sys, types
module = types.ModuleType("whalescale.agent")
HERE = {here!r}

class AgentError(Exception):
    def __init__(self, message, fix, exit_code):
        self.message, self.fix, self.exit_code = message, fix, exit_code

def note_pid():
    with open({pid_file!r}, "w") as f:
        f.write(str(os.getpid()))

def ready():
    fd = int(os.environ.pop("WHALESCALE_READY_FD"))
    os.write(fd, b"\\n")
    os.close(fd)

"""

RUNS = """
def run(path):
    import pathlib, signal, threading
    note_pid()
    sys.path.insert(0, HERE)
    from fake_agent import FakeAgent
    stop = threading.Event()
    fake = FakeAgent(pathlib.Path(os.environ["WHALESCALE_RUNTIME_DIR"]) / "ws0.sock")
    fake.answers["status"]["agent"] |= {"pid": os.getpid(), "config": str(path)}
    fake.answers["status"]["agent"]["warnings"] = ["10.0.0.1 is taken"]
    fake.answers["stop"] = lambda _: stop.set() or []
    print("config", path, "cwd", os.getcwd(), "stdin", os.readlink("/proc/self/fd/0"), flush=True)
    ready()
    stop.wait(60)
    fake.close()
    return 0
"""


@pytest.fixture
def config_file(tmp_path: Path, ws: Ws) -> Path:
    path = tmp_path / "ws0.toml"
    assert ws("init", "-c", path).code == 0
    return path


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Makes `whalescale.agent` of the child; ends the child in any case."""
    folder, pid_file = tmp_path / "site", tmp_path / "pid"
    folder.mkdir()
    root = str(Path(lifecycle.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")

    def make(code: str) -> None:
        prelude = PRELUDE.format(here=str(Path(__file__).parent), pid_file=str(pid_file))
        text = prelude + textwrap.dedent(code)
        text += '\nmodule.run = run\nsys.modules["whalescale.agent"] = module\n'
        (folder / "sitecustomize.py").write_text(text)

    yield make
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # Not somebody else who got its number since.
            if b"whalescale.cli" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def test_up_and_down(ws: Ws, config_file: Path, stand_in: object, runtime: Path) -> None:
    stand_in(RUNS)  # type: ignore[operator]
    done = ws("up", "-c", config_file)
    assert done.code == 0, done.err
    assert done.out.startswith("ws0 is up\n")
    assert "UDP port 51820" in done.out
    log = runtime / "ws0.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text() == f"config {config_file} cwd / stdin /dev/null\n"
    again = ws("up", "-c", config_file)
    assert again.code == 0
    assert "is up already (process " in again.out
    assert done.err == again.err == "ws: warning: 10.0.0.1 is taken\n"
    other = config_file.with_name("other.toml")
    other.write_text(config_file.read_text())
    refused = ws("up", "-c", other)
    assert refused.code == 1
    assert f"ws0 is up already, with {config_file} and not with {other}" in refused.err
    assert ws("down").out == "ws0 is down\n"
    assert ws("down").code == 3
    # the log stays for `ws logs`, and the next start moves it aside
    assert "config" in ws("logs").out
    assert ws("up", "-c", config_file).code == 0
    assert (runtime / "ws0.log.old").exists()
    assert ws("down").code == 0


@pytest.mark.parametrize(
    ("code", "exit_code", "err"),
    [
        (
            'def run(path): raise AgentError("UDP port 51820 is taken", "choose another", 1)',
            1,
            "ws: UDP port 51820 is taken; choose another\n",
        ),
        (
            'def run(path): raise AgentError("no CAP_NET_ADMIN", "`sudo ws up`", 4)',
            4,
            "ws: no CAP_NET_ADMIN; `sudo ws up`\n",
        ),
        ("def run(path): raise PermissionError(13, 'Permission denied')", 4, "Permission denied"),
        ("def run(path): raise ZeroDivisionError('oops')", 1, "ws: oops\n"),
        ("def run(path):\n    print('last words')\n    sys.exit(7)", 7, "last words"),
        ("def run(path):\n    print('last words')\n    return 1", 1, "last words"),
        ("def run(path): os.kill(os.getpid(), 9)", 1, "signal 9"),
        (
            "def run(path):\n    os.close(int(os.environ['WHALESCALE_READY_FD']))\n"
            '    raise AgentError("said on stderr only", "fix", 1)',
            1,
            "said on stderr only",
        ),
    ],
)
def test_up_tells_why_it_failed(
    ws: Ws, config_file: Path, stand_in: object, code: str, exit_code: int, err: str
) -> None:
    stand_in(code)  # type: ignore[operator]
    done = ws("up", "-c", config_file)
    assert done.code == exit_code
    assert err in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_up_that_never_gets_ready_is_ended(
    ws: Ws,
    config_file: Path,
    stand_in: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in("def run(path):\n    import time\n    note_pid()\n    time.sleep(60)")  # type: ignore[operator]
    for seconds in (1.5, 6.0, 24.0):
        # On a busy machine the child may not have come to its `run` before it is ended.
        monkeypatch.setattr(lifecycle, "START_S", seconds)
        start = time.monotonic()
        done = ws("up", "-c", config_file)
        assert time.monotonic() - start < seconds + 20
        assert done.code == 1
        assert f"was not ready after {seconds:g} s" in done.err
        if (tmp_path / "pid").exists():
            break
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_up_with_a_wrong_configuration_starts_nothing(
    ws: Ws, config_file: Path, runtime: Path
) -> None:
    config_file.write_text("[interface]\nname = 3\n")
    for words in (["up"], ["up", "-f"]):
        done = ws(*words, "-c", config_file)
        assert done.code == 1
        assert f"{config_file}: interface.name" in done.err
    assert not runtime.exists()
    assert "`sudo ws init`" in ws("up", "-c", config_file.with_name("none.toml")).err


def test_up_beside_an_agent_that_refuses(ws: Ws, config_file: Path, agent: FakeAgent) -> None:
    agent.answers["status"] = [b'{"v":1,"ok":false,"error":{"code":"permission","message":"no"}}\n']
    assert ws("up", "-c", config_file).code == 4


def test_foreground_returns_the_agents_exit_code(
    ws_process: Ws, config_file: Path, stand_in: object
) -> None:
    stand_in("def run(path): return 5")  # type: ignore[operator]
    assert ws_process("up", "-f", "-c", str(config_file)).code == 5
    stand_in('def run(path): raise AgentError("what", "how", 4)')  # type: ignore[operator]
    done = ws_process("up", "--foreground", "-c", str(config_file))
    assert (done.code, done.err) == (4, "ws: what; how\n")
