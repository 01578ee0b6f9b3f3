"""The agent's sandbox, tried from within: a process that drops, enters and then reaches out."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whalescale.config import Config, parse
from whalescale.dataplane import confine
from whalescale.runtime import sandbox
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_landlock = pytest.mark.skipif(
    confine.landlock_version() == 0, reason="this kernel has no Landlock"
)

INSIDE = """
import ctypes, errno, json, os, socket, subprocess, sys, threading
from pathlib import Path
from whalescale import config as configuration
from whalescale.runtime import process, sandbox

folder = Path(sys.argv[1])
config = configuration.load(folder / "etc" / "ws0.toml")
before = open(folder / "elsewhere", "w")
process.drop_capabilities()
entered = sandbox.enter(config, folder / "uapi")
libc = ctypes.CDLL(None, use_errno=True)

def tried(what):
    try:
        what()
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
    return "done"

def opened(path, flags):
    return tried(lambda: os.close(os.open(path, flags, 0o600)))

def called(number, *words):
    def call():
        if libc.syscall(number, *words) < 0:
            raise OSError(ctypes.get_errno(), "")
    return tried(call)

def reach(out):
    W, C = os.O_WRONLY, os.O_WRONLY | os.O_CREAT
    out["shadow, write"] = opened("/etc/shadow", W)
    out["shadow, read"] = opened("/etc/shadow", os.O_RDONLY)
    out["passwd, write"] = opened("/etc/passwd", W)
    out["passwd, append"] = opened("/etc/passwd", W | os.O_APPEND)
    out["etc, create"] = opened("/etc/whalescale-test", C)
    out["root, list"] = tried(lambda: os.listdir("/root"))
    out["core_pattern"] = opened("/proc/sys/kernel/core_pattern", W)
    out["device"] = opened("/dev/zero", os.O_RDONLY)
    out["tmp, create"] = opened("/var/tmp/ws-sandbox-test", C)
    out["truncate"] = tried(lambda: os.truncate(folder / "elsewhere", 0))
    out["rename out"] = tried(lambda: os.rename(folder / "run" / "here", folder / "there"))
    out["config, write"] = opened(folder / "etc" / "ws0.toml", W)
    out["link"] = tried(lambda: os.link(folder / "run" / "here", folder / "run" / "linked"))
    out["chmod"] = tried(lambda: os.chmod(folder / "run" / "here", 0o4755))
    out["exec"] = tried(lambda: os.execv("/bin/true", ["true"]))
    out["fork"] = tried(lambda: os.fork() or os._exit(0))
    out["kill"] = tried(lambda: os.kill(os.getppid(), 0))
    out["setuid"] = tried(lambda: os.setuid(0))
    out["packet"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close())
    out["unshare"] = called({"x86_64": 272}.get(os.uname().machine, 97), 0x10000000)
    out["ptrace"] = called({"x86_64": 101}.get(os.uname().machine, 117), 16, os.getppid(), 0, 0)
    out["environ of another"] = opened(f"/proc/{os.getppid()}/environ", os.O_RDONLY)
    with socket.socket() as s:
        out["tcp"] = tried(lambda: s.connect(("127.0.0.1", 9)))
    # what it needs
    out["config, read"] = opened(folder / "etc" / "ws0.toml", os.O_RDONLY)
    out["replaced, read"] = opened(folder / "etc" / "new.toml", os.O_RDONLY)
    out["key"] = opened(folder / "keys" / "ws0.key", os.O_RDONLY)
    out["other key"] = opened(folder / "keys" / "other.key", os.O_RDONLY)
    out["run, create"] = opened(folder / "run" / "new", C)
    out["run, remove"] = tried(lambda: os.unlink(folder / "run" / "new"))
    out["resolv.conf"] = opened("/etc/nsswitch.conf", os.O_RDONLY)
    out["statm"] = opened("/proc/self/statm", os.O_RDONLY)
    out["open before"] = tried(lambda: (before.write("x"), before.flush()))
    import xmlrpc.client  # some module that nobody has imported yet
    with socket.socket(socket.AF_UNIX) as s:
        out["listen"] = tried(lambda: s.bind(str(folder / "uapi" / "ws0.sock")))
        Path(folder / "uapi" / "ws0.sock").unlink()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        out["netlink"] = "done"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        out["udp"] = tried(lambda: s.sendto(b"x", ("127.0.0.1", 9)))
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

def in_a_thread(what):
    out = {}
    thread = threading.Thread(target=what, args=(out,))
    thread.start()
    thread.join()
    return out

(folder / "run" / "here").write_text("")
hold = threading.Event()
late = {}

def waits():
    hold.wait()
    doors(late)

def doors(out):
    out["unix"] = tried(lambda: socket.socket(socket.AF_UNIX).close())
    out["datagram pair"] = tried(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    out["ring"] = called(425, 4, ctypes.create_string_buffer(120))
    out["stream pair"] = tried(lambda: socket.socketpair())
    out["udp"] = tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close())

waiting = threading.Thread(target=waits)
waiting.start()
main, other = {}, in_a_thread(reach)
reach(main)
sandbox.close_doors()
hold.set()
waiting.join()
print(json.dumps({
    "entered": entered.status(), "main": main, "thread": other,
    "doors": in_a_thread(doors), "doors of an older thread": late,
}))
"""

REFUSED = {
    "shadow, write": "EACCES",
    "shadow, read": "EACCES",
    "passwd, write": "EACCES",
    "passwd, append": "EACCES",
    "etc, create": "EACCES",
    "root, list": "EACCES",
    "core_pattern": "EACCES",
    "rename out": "EACCES",
    "device": "EACCES",
    "tmp, create": "EACCES",
    "truncate": "EACCES",
    "config, write": "EACCES",
    "link": "EPERM",
    "chmod": "EPERM",
    "exec": "EPERM",
    "fork": "EPERM",
    "kill": "EPERM",
    "setuid": "EPERM",
    "packet": "EAFNOSUPPORT",
    "unshare": "EPERM",
    "ptrace": "EPERM",
    "environ of another": "EACCES",
    "tcp": "EACCES",
    "other key": "EACCES",
}
#: since which version of Landlock the kernel refuses it
SINCE = {"rename out": 2, "truncate": 3, "tcp": 4, "kill": 6}
ALLOWED = (
    "config, read", "replaced, read", "key", "run, create", "run, remove", "resolv.conf", "statm",
    "open before", "listen", "netlink", "udp",
)  # fmt: skip


def configuration(folder: Path) -> Config:
    (folder / "etc").mkdir(parents=True)
    for name in ("keys", "run", "uapi"):
        (folder / name).mkdir()
    (folder / "elsewhere").write_text("")
    for name in ("keys/ws0.key", "keys/other.key", "etc/new.toml"):
        (folder / name).write_text("")
    path = folder / "etc" / "ws0.toml"
    path.write_text('[interface]\nname = "ws0"\nprivate_key_file = "../keys/ws0.key"\n')
    return parse(path.read_text(), path)


@needs_root
@needs_landlock
def test_it_holds_every_thread_and_leaves_what_the_agent_needs(tmp_path: Path) -> None:
    configuration(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "WHALESCALE_RUNTIME_DIR": str(tmp_path / "run")},
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    version = confine.landlock_version()
    assert told["entered"] == {"landlock": version, "seccomp": True, "reason": ""}
    refused = {k: v for k, v in REFUSED.items() if SINCE.get(k, 1) <= version}
    for which in ("main", "thread"):
        got = told[which]
        assert {k: got[k] for k in refused} == refused, which
        assert {k: got[k] for k in ALLOWED} == dict.fromkeys(ALLOWED, "done"), which
    doors = {
        "unix": "EPERM",
        "datagram pair": "EPERM",
        "ring": "EPERM",
        "stream pair": "done",
        "udp": "done",
    }
    assert told["doors"] == doors
    assert told["doors of an older thread"] == doors
    assert not Path("/var/tmp/ws-sandbox-test").exists()  # noqa: S108


def test_a_kernel_without_landlock_is_said_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lacking(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSYS, "Landlock: Function not implemented")

    def fine() -> None:
        pass

    monkeypatch.setattr(confine, "restrict_files", lacking)
    monkeypatch.setattr(confine, "restrict_calls", fine)
    entered = sandbox.enter(configuration(tmp_path), tmp_path)
    assert entered == sandbox.Sandbox(0, True, "this kernel has no Landlock")
    error = AgentError("x", "y", EXIT_PERMISSION)
    assert entered.explain(error, tmp_path / "ws0.toml") is error


def test_what_may_be_read(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert sandbox.configuration_paths(config) == [
        tmp_path / "etc",
        config.interface.private_key_file,
    ]
    link = tmp_path / "linked.toml"
    link.symlink_to("etc/ws0.toml")
    text = '[interface]\nname = "ws0"\nprivate_key_file = "etc/ws0.key"\n'
    both = sandbox.configuration_paths(parse(text, link))
    assert both == [tmp_path, tmp_path / "etc"]
    # A configuration that lies about in /etc or at home lets nothing in but itself and its key.
    for folder in ("/etc", "/root", "/home/bob"):
        path = Path(folder, "ws0.toml")
        alone = sandbox.configuration_paths(parse(text.replace("etc/", ""), path))
        assert alone == [path, path.with_name("ws0.key")]
    for path in sandbox.readable(config):
        assert path not in (Path("/"), Path("/etc"), Path("/root"), Path("/home"), Path("/dev"))


def test_a_refused_file_is_explained(tmp_path: Path) -> None:
    inside = sandbox.Sandbox(7, True)
    other = AgentError("x", "y")
    assert inside.explain(other, tmp_path / "ws0.toml") is other
    told = inside.explain(AgentError("x", "sudo", EXIT_PERMISSION), tmp_path / "ws0.toml")
    assert "since its start" in told.message
    assert str(tmp_path) in told.fix
    told = inside.explain(AgentError("x", "sudo", EXIT_PERMISSION), Path("/etc/ws0.toml"))
    assert "restart" in told.fix
    assert "sudo" not in told.fix
