"""The process that looks names up: asked by threads, and gone with the agent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whalescale.runtime import outside

CODE = r"""
import json, os, signal, socket, sys, threading
from pathlib import Path
from whalescale.runtime import outside

def children():
    path = Path("/proc/self/task", str(os.getpid()), "children")
    return [int(p) for p in path.read_text().split()]

def asked(host, port=7):
    try:
        return sorted([int(f), list(a)] for f, _, _, _, a in outside.lookup(host, port))
    except OSError as e:
        return [type(e).__name__, e.errno]

out = {"before": asked("127.0.0.1")}
with outside.helper():
    (child,) = children()
    out["numeric"] = asked("127.0.0.1"), asked("::1")
    fields = dict(l.split(":", 1) for l in Path(f"/proc/{child}/status").read_text().splitlines())
    out["child"] = {k: v.split() for k, v in fields.items()}
    out["descriptors"] = len(os.listdir(f"/proc/{child}/fd")) if os.geteuid() == 0 else 5
    out["unknown"] = asked("no-such-name.invalid")
    out["nonsense"] = asked("a" * 300), asked("\ud800"), asked("127.0.0.1", 70000)
    many = [threading.Thread(target=asked, args=("127.0.0.1",)) for _ in range(100)]
    for t in many: t.start()
    for t in many: t.join()
    out["still there"] = asked("127.0.0.1")
    if "kill" in sys.argv:
        print(child, flush=True)
        signal.pause()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    out["killed"] = asked("127.0.0.1")
out["after"] = asked("127.0.0.1")
out["children"] = children()
print(json.dumps(out))
"""


def test_names_are_looked_up_by_a_process_of_no_rights() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    loopback = [[socket.AF_INET, ["127.0.0.1", 7]]]
    assert told["numeric"] == [loopback, [[socket.AF_INET6, ["::1", 7, 0, 0]]]]
    for when in ("before", "still there", "killed", "after"):
        assert told[when] == loopback, when
    assert told["unknown"][0] == "gaierror"
    assert all(isinstance(one[0], str) for one in told["nonsense"][:2])
    assert told["children"] == []
    child = told["child"]
    assert (child["Name"], child["NoNewPrivs"], child["Seccomp"]) == (["ws-names"], ["1"], ["2"])
    assert int(child["CapPrm"][0], 16) == 0
    if os.geteuid() == 0:
        assert child["Uid"] == child["Gid"] == [str(outside.NOBODY)] * 4
        assert child["Groups"] == []
        assert told["descriptors"] == 4


def test_it_ends_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CODE, "kill"], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 10
        while _runs(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_without_the_process_names_are_looked_up_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with outside.helper():
        assert outside.lookup("127.0.0.1", 7)[0][4] == ("127.0.0.1", 7)
