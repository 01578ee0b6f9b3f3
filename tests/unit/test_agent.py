"""What the agent checks before it touches anything, and the capabilities that it keeps."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from whalescale import agent
from whalescale.dataplane import probe
from whalescale.dataplane.engine import Backend
from whalescale.dataplane.selftest import UringParts
from whalescale.protocol.limits import NS_PER_MS, Limits
from whalescale.runtime import plane, process
from whalescale.runtime.errors import AgentError


@pytest.fixture(autouse=True)
def _undo_what_run_does_to_the_process() -> Iterator[None]:
    logger = logging.getLogger("whalescale")
    before = (logger.handlers[:], logger.propagate, logger.level, os.umask(0o022))
    yield
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
    os.umask(before[3])


def test_limits_can_be_made_shorter_for_tests() -> None:
    limits = agent.limits_from('{"rekey_after_time": 2000, "rekey_after_messages": 100}')
    assert limits.rekey_after_time == 2000 * NS_PER_MS
    assert limits.rekey_after_messages == 100
    assert limits.reject_after_time == Limits().reject_after_time
    assert agent.limits_from("") == Limits()


@pytest.mark.parametrize(
    "text",
    [
        '{"rekey_after_time": 120001}',
        '{"rekey_after_time": 0}',
        '{"rekey_after_time": "soon"}',
        '{"no_such_limit": 1}',
        '{"load_backlog": 1}',
        "[]",
        "{",
    ],
)
def test_limits_are_never_made_longer(text: str) -> None:
    with pytest.raises(AgentError, match="WHALESCALE_TEST_LIMITS"):
        agent.limits_from(text)


def test_one_agent_per_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALESCALE_RUNTIME_DIR", str(tmp_path / "run"))
    with agent.lock("ws0"):
        mine = f"running already .process {os.getpid()}"
        with pytest.raises(AgentError, match=mine), agent.lock("ws0"):
            pass
        with agent.lock("ws1"):
            pass
    with agent.lock("ws0"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_of_a_killed_agent_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALESCALE_RUNTIME_DIR", str(tmp_path))
    killed = (
        "import os, signal\n"
        "from whalescale.agent import lock\n"
        "with lock('ws0'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed], check=False, timeout=60)
    assert done.returncode == -9
    assert (tmp_path / "ws0.lock").exists()
    with agent.lock("ws0"):
        pass


def test_a_wrong_configuration_is_one_line_and_a_code(tmp_path: Path) -> None:
    path = tmp_path / "ws0.toml"
    with pytest.raises(AgentError, match="no such file") as e:
        agent.run(path)
    assert (e.value.exit_code, "\n" in e.value.message) == (1, False)
    path.write_text('[interface]\nname = "ws0"\nprivate_key_file = "k"\nlisten_prt = 1\n')
    with pytest.raises(AgentError, match="listen_prt") as e:
        agent.run(path)
    assert "listen_port" in e.value.fix


CAPABILITIES = """
import json, os, resource
from whalescale.dataplane import confine
confine.protect_process()
confine.keep_net_admin_only()
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    **{k: int(fields[k].strip(), 16) for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privs": int(fields["NoNewPrivs"]),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_only_cap_net_admin_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CAPABILITIES], capture_output=True, text=True, check=True, timeout=60
    )
    told = json.loads(done.stdout)
    net_admin = 1 << 12
    assert told == {
        "CapInh": 0,
        "CapPrm": net_admin,
        "CapEff": net_admin,
        "CapBnd": net_admin,
        "CapAmb": 0,
        "no_new_privs": 1,
        "core": [0, 0],
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_cap_net_admin_it_says_so() -> None:
    lacking = (
        "from whalescale.dataplane import confine\n"
        "try:\n"
        "    confine.keep_net_admin_only()\n"
        "except PermissionError as e:\n"
        "    print('refused', e.errno)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-c", lacking],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "refused 1\n", done.stderr


def test_the_backend_follows_what_the_kernel_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "io_uring", lambda: probe.IoUring(60))
    monkeypatch.setattr(plane, "uring_parts", lambda: (0, UringParts(0, 0, 0, 0, 0, 0)))
    assert plane.choose_backend("auto") is Backend.AUTO
    assert plane.choose_backend("io_uring") is Backend.URING
    lacking = probe.IoUring(0, "forbidden here", "`sudo sysctl -w kernel.io_uring_disabled=0`")
    monkeypatch.setattr(probe, "io_uring", lambda: lacking)
    assert plane.choose_backend("auto") is Backend.MMSG
    assert plane.choose_backend("mmsg") is Backend.MMSG
    with pytest.raises(AgentError, match="forbidden here") as refused:
        plane.choose_backend("io_uring")
    assert "io_uring_disabled=0" in refused.value.fix


def test_a_part_of_io_uring_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux 5.19 has every operation, but no receive that stays armed."""
    parts = UringParts(0, 0, 0, 0, -errno.EINVAL, -errno.EOPNOTSUPP)
    monkeypatch.setattr(probe, "io_uring", lambda: probe.IoUring(60))
    monkeypatch.setattr(plane, "uring_parts", lambda: (errno.EINVAL, parts))
    assert plane.choose_backend("auto") is Backend.MMSG
    with pytest.raises(AgentError, match="a part of it is missing") as refused:
        plane.choose_backend("io_uring")
    assert "ws doctor" in refused.value.fix


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 524_288, (process.OPEN_FILES, 524_288)),
        (1024, 4096, (4096, 4096)),
        (256, -1, (process.OPEN_FILES, -1)),
        (65_536, 65_536, None),
        (-1, -1, None),
    ],
)
def test_the_limit_of_open_files_is_raised_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: tuple[int, int] | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(process.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(process.resource, "setrlimit", lambda _, to: asked.append(to))
    process.raise_open_files()
    assert asked == ([] if wanted is None else [wanted])
