"""`ws bench` by itself: two hosts on this machine, as network namespaces without a way out.

    a 10.201.1.1 ── veth ── 10.201.1.2 b      or, outside, fd00:201:1::1 and ::2
      10.77.0.1 ══ tunnel ══ 10.77.0.2

Everything is gone afterwards; what a killed run left behind, the next one sweeps up. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from whalescale import identity, keyfiles, locations
from whalescale.bench.remote import BenchError

PORT: Final = 51820
OUTSIDE: Final = {
    4: {"a": "10.201.1.1", "b": "10.201.1.2"},
    6: {"a": "fd00:201:1::1", "b": "fd00:201:1::2"},
}
INSIDE: Final = {"a": "10.77.0.1", "b": "10.77.0.2"}
START_S: Final = 20.0
_NAME: Final = re.compile(r"^wsbench(\d+)[ab]$")


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with an agent in it."""

    name: str
    namespace: str
    environment: dict[str, str]

    def command(self, *words: str) -> list[str]:
        """What runs `ws WORDS` in it, with the agent's sockets in sight; dies with its parent."""
        inside = ["ip", "netns", "exec", self.namespace]
        ws = [sys.executable, "-m", "whalescale.cli", *words]
        return ["setpriv", "--pdeathsig", "KILL", *inside, *ws]


@contextlib.contextmanager
def two_hosts(dataplane: str = "", family: int = 4) -> Iterator[tuple[Host, Host]]:
    """Two namespaces, a veth pair, an agent in each, all up. BenchError: something does not start.

    `dataplane`: lines for [dataplane] of both configurations. `family`: of IP outside, 4 or 6.
    """
    if os.geteuid() != 0:
        error = BenchError("network namespaces need root", "`sudo ws bench`")
        error.exit_code = 4
        raise error
    for program in ("ip", "setpriv"):
        if shutil.which(program) is None:
            raise BenchError(f"there is no `{program}` on this machine", "`sudo ws doctor`")
    sweep()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sigterm_unwinds())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsbench")))
        names = {side: f"wsbench{os.getpid()}{side}" for side in "ab"}
        for name in names.values():
            _ip("netns", "add", name)
            stack.callback(_delete, name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            *f"link add eth0 netns {names['a']} type veth peer name eth0 netns {names['b']}".split()
        )
        keys = {side: identity.Identity.generate(os.urandom) for side in "ab"}
        hosts = []
        for side, other in (("a", "b"), ("b", "a")):
            # No waiting for duplicates that cannot be.
            width = "/24" if family == 4 else "/64 nodad"
            words = f"addr add {OUTSIDE[family][side]}{width} dev eth0".split()
            _ip("-n", names[side], *words)
            _ip("-n", names[side], "link", "set", "eth0", "up")
            config = _write_config(folder, side, other, keys, dataplane, family)
            hosts.append(_start(stack, folder, Host(side, names[side], _environment(folder, side)),
                                config))  # fmt: skip
        _wait_for_tunnel(hosts[0])
        yield hosts[0], hosts[1]


def lacks_ipv6() -> str:
    """Why there can be no IPv6 outside; "" if there can."""
    return "" if Path("/proc/net/if_inet6").exists() else "this kernel has no IPv6"


def sweep() -> None:
    """Delete the namespaces of runs that were killed before they could."""
    folder = Path("/run/netns")
    for name in os.listdir(folder) if folder.is_dir() else []:
        found = _NAME.match(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _delete(name)


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    def unwind(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {s: signal.signal(s, unwind) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(folder: Path, side: str) -> dict[str, str]:
    run = str(folder / side)
    return {**os.environ, "WHALESCALE_RUNTIME_DIR": run, "WHALESCALE_UAPI_DIR": run}


def _write_config(
    folder: Path,
    side: str,
    other: str,
    keys: dict[str, identity.Identity],
    dataplane: str,
    family: int,
) -> Path:
    address = OUTSIDE[family][other]
    endpoint = f"[{address}]:{PORT}" if family == 6 else f"{address}:{PORT}"
    key = folder / f"{side}.key"
    keyfiles.write(key, identity.encode_seed(keys[side].seed) + "\n", replace=False)
    (folder / side).mkdir(mode=0o700)
    path = folder / f"{side}.toml"
    path.write_text(
        f'[interface]\nname = "wsbench{side}"\nprivate_key_file = "{key.name}"\n'
        f'listen_port = {PORT}\naddresses = ["{INSIDE[side]}/24"]\n\n'
        f'[[peers]]\nname = "{other}"\nid = "{identity.encode_node_id(keys[other].node_id)}"\n'
        f'endpoints = ["{endpoint}"]\nallowed_ips = ["{INSIDE[other]}/32"]\n'
        f"\n[dataplane]\n{dataplane}\n"
    )
    return path


def _start(stack: contextlib.ExitStack, folder: Path, host: Host, config: Path) -> Host:
    """An agent in the foreground; ready when its control socket is there."""
    log = folder / f"{host.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            host.command("up", "--foreground", "--config", str(config)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=host.environment,
            start_new_session=True,
        )
    stack.callback(end, process)
    runtime = Path(host.environment["WHALESCALE_RUNTIME_DIR"])
    ready = runtime / locations.control_socket(f"wsbench{host.name}").name
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("ws: ") if lines else "it said nothing"
            raise BenchError(f"the agent of host {host.name} does not start: {said}")
        time.sleep(0.05)
    return host


def _wait_for_tunnel(host: Host) -> None:
    if shutil.which("ping") is None:
        return  # the first connection waits as long
    ping = ["ip", "netns", "exec", host.namespace, "ping", "-n", "-c1", "-w15", INSIDE["b"]]
    if subprocess.run(ping, capture_output=True, check=False, timeout=30).returncode != 0:
        raise BenchError("the tunnel between the two hosts carries no ping", "`sudo ws doctor`")


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, after 5 s SIGKILL."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise BenchError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()[:200]}")


def _delete(namespace: str) -> None:
    """End what still runs in the namespace (it can only be ours), then delete it."""
    pids = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False, timeout=30
    )
    for word in pids.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(word), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False, timeout=30)
