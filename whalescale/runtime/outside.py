"""Names are looked up by a small process of its own, so that the agent itself can be confined.

The files that say how (resolv.conf, hosts, nsswitch.conf) lie in /etc beside secrets, and are
replaced while the agent runs, so Landlock would let the agent read either all of /etc or, after the
first change of network, no resolver's address. The process is forked before any key is read,
becomes user nobody where it may, keeps no capability, reads requests, calls getaddrinfo, asks
gateways by UPnP (upnp.py: XML and HTTP of strangers) and knows nothing else. It ends with the
agent.

A request is one datagram, JSON {"host", "port"}, with a socket for the answer (SCM_RIGHTS):
{"found": [[family, address...], ...]} or {"errno", "strerror"}; or {"read"}, or {"upnp", ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from whalescale.dataplane import confine
from whalescale.runtime.sandbox import program_paths

log = logging.getLogger(__name__)

NOBODY: Final = 65534
REQUEST_BYTES_MAX: Final = 4096
ANSWER_BYTES_MAX: Final = 1 << 20
#: lookups at once; what comes above that waits in the socket
LOOKUPS_MAX: Final = 64
#: what is read for the agent, and how long it waits for that
FILES: Final = ("/etc/resolv.conf", "/etc/hosts", "/run/systemd/resolve/resolv.conf")
READ_S: Final = 1.0
#: nothing may be written; where the process must stay root (in the systemd unit, which has no
#: CAP_SETUID) the unit hides the secrets of /etc from it
READABLE: Final = ("/etc", "/run", "/usr", "/lib", "/lib64", "/var", "/proc", "/sys", "/dev")

_helper: socket.socket | None = None


@contextlib.contextmanager
def helper() -> Iterator[None]:
    """Start the process while there is one thread and no key in memory; `lookup` asks it then.

    Where it cannot be started names are looked up in this process, as far as that may.
    """
    global _helper  # noqa: PLW0603  (one process, one helper)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.freeze()  # the collector need not touch, and so copy, what both share
    try:
        pid = os.fork()
    except OSError as e:
        log.warning("no process of its own for names: %s", e.strerror)
        ours.close()
        theirs.close()
        yield
        return
    if pid == 0:
        ours.close()
        _run(theirs)
    theirs.close()
    _helper = ours
    try:
        yield
    finally:
        _helper = None
        ours.close()
        with contextlib.suppress(OSError):
            os.waitpid(pid, 0)


def lookup(host: str, port: int) -> Sequence[Any]:
    """getaddrinfo(host, port, type=SOCK_DGRAM); blocks. OSError: it does not resolve."""
    if _helper is None:
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    try:
        ours = _request(_helper, {"host": host, "port": port})
    except OSError:
        # It was killed: what this process may read will have to do.
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    with ours:
        answer = _all_of(ours)
    try:
        told = json.loads(answer)
        if "errno" in told:
            raise socket.gaierror(int(told["errno"]), str(told["strerror"]))
        return [(int(f), socket.SOCK_DGRAM, 0, "", tuple(a)) for f, a in told["found"]]
    except (ValueError, TypeError, KeyError):
        raise OSError("the process that looks names up gave no answer") from None


async def ask(request: dict[str, Any]) -> Any:
    """What another module's `answer` says to that (`_serve` names it). None: there is no process
    of its own. OSError, ValueError: it gave no answer."""
    if _helper is None:
        return None
    loop = asyncio.get_running_loop()
    with _request(_helper, request) as ours:
        ours.setblocking(False)
        data = b""
        while len(data) < ANSWER_BYTES_MAX and (piece := await loop.sock_recv(ours, 65536)):
            data += piece
    return json.loads(data)


def read(path: Path) -> str | None:
    """One of FILES, as it is now. None: not to be had this way."""
    if _helper is None or str(path) not in FILES:
        return None
    try:
        with _request(_helper, {"read": str(path)}) as ours:
            ours.settimeout(READ_S)
            told = json.loads(_all_of(ours))
    except (OSError, ValueError):
        return None
    text = told.get("text")
    return text if isinstance(text, str) else None


def _request(helper: socket.socket, request: dict[str, Any]) -> socket.socket:
    """Where the answer comes. OSError: the process is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            socket.send_fds(helper, [json.dumps(request).encode()], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
    return ours


def _all_of(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < ANSWER_BYTES_MAX and (piece := sock.recv(65536)):
        data += piece
    return data


# in the process


def _run(requests: socket.socket) -> NoReturn:
    try:
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's are for the agent
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(requests.fileno())
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text("ws-names")
        "é".encode("idna")  # its modules may be out of reach later
        _confine()
        free = threading.Semaphore(LOOKUPS_MAX)
        while True:
            free.acquire()
            data, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, 1)
            if not data:
                break
            answer = socket.socket(fileno=fds[0])
            threading.Thread(target=_serve, args=(data, answer, free), daemon=True).start()
    finally:
        os._exit(0)


def _close_all_but(keep: int) -> None:
    """The ready pipe of `ws up` among them; whoever reads our output must not wait for us."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, 65536)


def _confine() -> None:
    """As little as the kernel lets us be; nothing here is worth not resolving names for."""
    with contextlib.suppress(OSError):
        confine.protect_process()
    with contextlib.suppress(OSError):
        os.setgroups([])
    with contextlib.suppress(OSError):
        os.setresgid(NOBODY, NOBODY, NOBODY)
    with contextlib.suppress(OSError):
        os.setresuid(NOBODY, NOBODY, NOBODY)
    with contextlib.suppress(OSError):
        confine.end_with_parent()
    with contextlib.suppress(OSError):
        confine.drop_all_capabilities()
    with contextlib.suppress(OSError):
        confine.restrict_files([*map(Path, READABLE), *program_paths()], [], tcp=True)
    with contextlib.suppress(OSError):
        confine.restrict_calls()


def _serve(data: bytes, answer: socket.socket, free: threading.Semaphore) -> None:
    told: dict[str, Any]
    with answer:
        try:
            request = json.loads(data)
            if request.get("read") in FILES:
                with open(request["read"], encoding="utf-8", errors="replace") as f:
                    told = {"text": f.read(ANSWER_BYTES_MAX >> 3)}
            elif "upnp" in request:
                from whalescale.runtime import upnp

                told = asyncio.run(upnp.answer(request))
            else:
                host, port = str(request["host"]), int(request["port"])
                found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                told = {"found": [[int(family), address] for family, _, _, _, address in found]}
        except (OSError, ValueError, KeyError, TypeError) as e:
            number = e.errno if isinstance(e, OSError) and e.errno else socket.EAI_FAIL
            told = {"errno": number, "strerror": getattr(e, "strerror", None) or str(e)}
        with contextlib.suppress(OSError):
            answer.sendall(json.dumps(told).encode())
    free.release()
