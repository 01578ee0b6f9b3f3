#!/usr/bin/env python3
"""Agents that begin with their modules imported, for tests that start hundreds of them.

    with Nursery() as nursery:
        child = nursery.begin(["ws", "up", "-f"], netns="ws1-a", out=1, env=dict(os.environ))

The imports are most of a start's CPU (0.7 s) and the same each time; a nursery has done them once,
and forks. All that follows is the child's own, as after `ip netns exec NAME ws ...`: arguments,
environment, files, session, namespaces. What an agent imports later on is not there yet either.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

#: what `ws up` imports on its way to a running agent
MODULES = (
    "whalescale.cli.main",
    "whalescale.cli.tree",
    "whalescale.cli.foreground",
    "whalescale.agent",
    "pyroute2.iproute",
)
MESSAGE_BYTES = 1 << 18
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_SLAVE, MS_REC, MNT_DETACH = 1 << 19, 1 << 14, 2
PR_SET_PDEATHSIG, PR_SET_NAME, SIGKILL = 1, 15, 9


class Child:
    """A process of a nursery, with the part of `subprocess.Popen` that `processes.Process` uses."""

    def __init__(self, nursery: Nursery, pid: int, stdin: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.stdin = os.fdopen(stdin, "wb")

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None: it still runs."""
        return self._nursery.ended(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. subprocess.TimeoutExpired: it still runs after `timeout` s."""
        status = self._nursery.ended(self.pid, timeout)
        if status is None:
            raise subprocess.TimeoutExpired("ws", timeout or 0)
        return status

    def terminate(self) -> None:
        self._signal(15)

    def kill(self) -> None:
        self._signal(SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The process that forks, as its user sees it. What it began ends with it at the latest."""

    #: of all children that have ended, which no `os.times()` of ours tells
    cpu_s = 0.0
    _cpu_s = 0.0

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._lock = threading.Lock()
        self._statuses: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.nursery", str(theirs.fileno())],
            cwd=Path(__file__).resolve().parent.parent,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._process.wait(30)
        # Whoever waits for a nursery has its children's CPU among his own children's.
        Nursery.cpu_s -= self._cpu_s
        self._cpu_s = 0.0

    def begin(self, command: Sequence[str], netns: str, out: int, env: Mapping[str, str]) -> Child:
        """Run `ws` (the command's first word) in a named network namespace; `out`: the file for
        what it prints, errors too. RuntimeError: the nursery is gone."""
        theirs, ours = os.pipe()
        try:
            request = {"command": list(command), "netns": netns, "env": dict(env)}
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [theirs, out])
                while "born" not in (message := self._receive()):
                    self._note(message)
                self._statuses.pop(message["born"], None)
                return Child(self, message["born"], ours)
        except OSError as e:
            os.close(ours)
            raise RuntimeError(f"the nursery is gone: {e}") from None
        finally:
            os.close(theirs)

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """The exit status of a child, None if it has not ended after `timeout` s.

        Where the nursery is gone its children are too.
        """
        if self._socket.fileno() < 0:
            return self._statuses.get(pid, -SIGKILL)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                while pid not in self._statuses and select.select([self._socket], [], [], 0)[0]:
                    self._note(self._receive())
                if pid in self._statuses:
                    return self._statuses[pid]
            left = 0.5 if deadline is None else min(deadline - time.monotonic(), 0.5)
            if left <= 0:
                return None
            select.select([self._socket], [], [], left)

    def _note(self, message: dict[str, int]) -> None:
        self._statuses[message["ended"]] = message["status"]
        self._cpu_s += message["cpu_ms"] / 1000
        Nursery.cpu_s += message["cpu_ms"] / 1000

    def _receive(self) -> dict[str, int]:
        data = self._socket.recv(MESSAGE_BYTES)
        if not data:
            raise OSError("it has ended")
        message: dict[str, int] = json.loads(data)
        return message


def serve(control: socket.socket) -> None:
    """Fork for each request, and tell of each child's end, until the other side is gone."""
    from whalescale.lean import without
    from whalescale.runtime import lean

    with without("ssl"):
        import asyncio  # noqa: F401
    lean.prepare()
    for name in MODULES:
        __import__(name)
    assert threading.active_count() == 1, "a fork takes no thread along"
    import gc

    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                _, status, usage = os.wait4(key.data, 0)
                selector.unregister(key.fileobj)
                os.close(key.fd)
                ended = {
                    "ended": key.data,
                    "status": os.waitstatus_to_exitcode(status),
                    "cpu_ms": int(1000 * (usage.ru_utime + usage.ru_stime)),
                }
                control.send(json.dumps(ended).encode())
                continue
            data, files, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                _be(json.loads(data), *files)
            for file in files:
                os.close(file)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            control.send(json.dumps({"born": pid}).encode())


def _be(request: dict[str, Any], stdin: int, out: int) -> NoReturn:
    """The child: what `setpriv`, `ip netns exec` and the interpreter do, then `ws` itself."""
    code = 1
    try:
        os.setsid()
        for number, file in enumerate((stdin, out, out)):
            os.dup2(file, number)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
        libc.prctl(PR_SET_NAME, b"ws")
        _enter(libc, request["netns"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = request["command"]
        from whalescale.cli import foreground, lifecycle, main

        lifecycle.become = foreground.main  # what an execution would import is here
        code = main.main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _enter(libc: ctypes.CDLL, netns: str) -> None:
    """As `ip netns exec`: the network, and a /sys that shows it."""

    def call(done: int) -> None:
        if done != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    file = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    call(libc.setns(file, CLONE_NEWNET))
    os.close(file)
    call(libc.unshare(CLONE_NEWNS))
    call(libc.mount(b"", b"/", b"none", MS_SLAVE | MS_REC, None))
    libc.umount2(b"/sys", MNT_DETACH)
    call(libc.mount(netns.encode(), b"/sys", b"sysfs", 0, None))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        serve(socket.socket(fileno=int(sys.argv[1])))
