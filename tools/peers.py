#!/usr/bin/env python3
"""Ends of a tunnel in a lab: Whalescale itself, and wireguard-go as its test peer.

wireguard-go is Debian's, or the newest one built by an installed Go (`tools/peers.py` builds it
into build/peers). They are peers to test against; no part of them is in Whalescale.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.netlab import UAPI_FOLDER, Host, LabError, Process, lock, run, wait_until
from tools.nursery import Nursery
from whalescale.cli.client import Connection
from whalescale.cli.ending import CliError
from whalescale.identity import Identity, encode_node_id, encode_seed
from whalescale.keyfiles import encode_wireguard_key

ROOT = Path(__file__).resolve().parent.parent
WS = ROOT / ".venv/bin/ws"
NEWEST_GO_PEER = ROOT / "build/peers/wireguard"
GO_MODULE = "golang.zx2c4.com/wireguard@latest"
GO_OLDEST = (1, 23)
#: an agent on a busy machine answers within it
CALL_S = 30.0
_interfaces = itertools.count()


def new_interface(prefix: str = "wsn") -> str:
    """A name that no other end of this process has or had, in whichever namespace: their UAPI
    sockets share a folder, and `wg show` would ask another one's agent."""
    return f"{prefix}{os.getpid() % 100000}-{next(_interfaces)}"


def debian_wireguard_go() -> Path | None:
    found = shutil.which("wireguard-go")
    return Path(found) if found else None


def newest_wireguard_go(build: bool = True) -> Path | None:
    """The newest wireguard-go, built when a fit Go is there; None without one."""
    if NEWEST_GO_PEER.exists() or not build:
        return NEWEST_GO_PEER if NEWEST_GO_PEER.exists() else None
    go = shutil.which("go")
    if go is None:
        return None
    version = re.search(r"go(\d+)\.(\d+)", run(go, "version").stdout)
    if version is None or (int(version[1]), int(version[2])) < GO_OLDEST:
        return None
    try:
        with lock(NEWEST_GO_PEER.parent / "lock"):
            if not NEWEST_GO_PEER.exists():
                run(
                    *(go, "install", GO_MODULE),
                    env={"GOBIN": str(NEWEST_GO_PEER.parent), "GOTOOLCHAIN": "local"},
                    timeout=300,
                )
    except LabError as error:
        print(f"newest wireguard-go could not be built: {error}", file=sys.stderr)
        return None
    return NEWEST_GO_PEER


@dataclass(frozen=True, slots=True)
class Peer:
    """What one end is told of the other."""

    public_key: str
    allowed_ips: tuple[str, ...]
    #: "address:port" or None: the other side speaks first.
    endpoint: str | None = None
    #: base64, as `wg genpsk` prints it
    preshared_key: str | None = None
    keepalive: int = 0
    #: node ID: instead of the public key where the end is Whalescale
    node_id: str | None = None


def outside(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def wg_config(private_key: str, port: int, peer: Peer) -> str:
    """What `wg setconf` takes."""
    lines = ["[Interface]", f"PrivateKey = {private_key}", f"ListenPort = {port}"]
    return "\n".join([*lines, *wg_peer_lines(peer)]) + "\n"


def wg_peer_lines(peer: Peer) -> list[str]:
    lines = ["[Peer]", f"PublicKey = {peer.public_key}"]
    lines.append(f"AllowedIPs = {', '.join(peer.allowed_ips)}")
    if peer.endpoint:
        lines.append(f"Endpoint = {peer.endpoint}")
    if peer.preshared_key:
        lines.append(f"PresharedKey = {peer.preshared_key}")
    if peer.keepalive:
        lines.append(f"PersistentKeepalive = {peer.keepalive}")
    return lines


class End(ABC):
    """One end of a tunnel: an interface with addresses, a key and one peer."""

    interface: str
    addresses: tuple[str, ...]
    port: int
    public_key: str
    node_id: str | None = None

    @abstractmethod
    def start(self, peer: Peer) -> None:
        """Bring the tunnel up and return when it takes packets. LabError: it did not."""

    @abstractmethod
    def stop(self) -> None:
        """Take the tunnel down in an orderly way."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything of this end, whatever state it is in."""

    @abstractmethod
    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where the end is."""

    @abstractmethod
    def serve(self, size: int) -> tuple[str, str]:
        """Serve a file of so many random bytes by HTTP inside the tunnel: (path, SHA-256)."""

    @abstractmethod
    def fetch(self, url: str, rate_bytes: int = 0, timeout: float = 120.0) -> str:
        """Fetch by HTTP and return the SHA-256 of what came."""

    def inside(self, family: int = 4) -> str:
        """The end's address inside the tunnel, without the prefix length."""
        for address in self.addresses:
            if (":" in address) == (family == 6):
                return address.partition("/")[0]
        raise LabError(f"{self.interface} has no IPv{family} address")

    def ping(self, other: End, family: int = 4, count: int = 3, seconds: int = 10) -> None:
        """`count` answers within `seconds`. LabError: too few."""
        target = other.inside(family)
        self.run("ping", "-c", str(count), "-w", str(seconds), target, timeout=seconds + 5)

    def show(self, what: str) -> str:
        """One field of `wg show IFACE WHAT` for the only peer."""
        lines = self.run("wg", "show", self.interface, what).stdout.split("\n")
        return lines[0].partition("\t")[2]

    def latest_handshake(self) -> int:
        """Seconds since the epoch, 0: never."""
        return int(self.show("latest-handshakes") or 0)

    def transfer(self) -> tuple[int, int]:
        """Bytes received and sent on the wire."""
        received, _, sent = self.show("transfer").partition("\t")
        return int(received), int(sent)


def make_file(path: Path, size: int) -> str:
    """A file of random bytes; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size > 0:
            block = os.urandom(min(size, 1 << 20))
            digest.update(block)
            file.write(block)
            size -= len(block)
    return digest.hexdigest()


class HostEnd(End):
    """An end in a namespace of this machine."""

    def __init__(self, host: Host, interface: str, addresses: tuple[str, ...], port: int) -> None:
        self.host = host
        self.interface = interface
        self.addresses = addresses
        self.port = port
        self.process: Process | None = None
        self._server: Process | None = None
        self._folder = host.lab.folder / host.name / interface
        self._folder.mkdir(parents=True, exist_ok=True)
        host.lab.interfaces.add(interface)

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        return self.host.run(*command, check=check, timeout=timeout)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def close(self) -> None:
        self.stop()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def wait_for_uapi(self) -> None:
        """Until the interface answers `wg show`."""
        process = self.process
        assert process is not None

        def answers() -> bool:
            if process.poll() is not None:
                raise LabError(
                    f"`{' '.join(process.command)}` ended ({process.poll()}): {process.log()}"
                )
            shown = self.run("wg", "show", self.interface, "public-key", check=False)
            return shown.returncode == 0 and len(shown.stdout.strip()) == 44

        try:
            wait_until(f"{self.interface} to answer `wg show`", answers, timeout=15, interval=0.1)
        except LabError as e:
            raise LabError(f"{e}; its log: {process.log()}") from None

    def serve(self, size: int) -> tuple[str, str]:
        folder = self._folder / "www"
        folder.mkdir(exist_ok=True)
        name = f"file{len(list(folder.iterdir()))}"
        digest = make_file(folder / name, size)
        if self._server is None:
            command = [sys.executable, "-m", "http.server", "8080", "--bind", "::"]
            self._server = self.host.spawn(*command, "--directory", str(folder))
            self.host.wait_listening(8080)
        return name, digest

    def curl(self, url: str, rate_bytes: int = 0, timeout: float = 120.0) -> Process:
        """Start fetching into a file next to the log; see `curl_digest`."""
        target = self._folder / "fetched"
        target.unlink(missing_ok=True)
        words = ["curl", "-sS", "--fail", "-g", "-o", str(target), "--max-time", f"{timeout:g}"]
        words += ["--connect-timeout", "20"]
        if rate_bytes:
            words += ["--limit-rate", str(rate_bytes)]
            # curl only reads slowly: with large receive buffers all would come at once.
            self.host.sysctl("net.ipv4.tcp_rmem", "4096 65536 131072")
        return self.host.spawn(*words, url)

    def curl_digest(self, process: Process, timeout: float = 120.0) -> str:
        """Wait for `curl` and return the SHA-256 of what it fetched."""
        process.finish(timeout)
        with (self._folder / "fetched").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def fetch(self, url: str, rate_bytes: int = 0, timeout: float = 120.0) -> str:
        return self.curl_digest(self.curl(url, rate_bytes, timeout), timeout + 5)


def http_url(server: End, path: str, family: int = 4) -> str:
    return f"http://{outside(server.inside(family), 8080)}/{path}"


class WireGuardGo(HostEnd):
    """wireguard-go in the foreground, set up with `wg` and `ip`."""

    def __init__(
        self,
        host: Host,
        interface: str,
        addresses: tuple[str, ...],
        port: int,
        binary: Path,
    ) -> None:
        super().__init__(host, interface, addresses, port)
        self.binary = binary
        self.log_level = "error"  # or "verbose"
        self.private_key = run("wg", "genkey").stdout.strip()
        self.public_key = run("wg", "pubkey", stdin=self.private_key).stdout.strip()

    def start(self, peer: Peer) -> None:
        self.process = self.host.spawn(
            *(self.binary, "-f", self.interface),
            env={"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": self.log_level},
        )
        process = self.process

        def there() -> bool:
            if process.poll() is not None:
                raise LabError(f"wireguard-go ended ({process.poll()}): {process.log()}")
            return (UAPI_FOLDER / f"{self.interface}.sock").exists()

        wait_until(f"wireguard-go's {self.interface}", there)
        config = self._folder / "wg.conf"
        config.touch(mode=0o600)
        config.write_text(wg_config(self.private_key, self.port, peer))
        self.run("wg", "setconf", self.interface, config)
        for address in self.addresses:
            nodad = " nodad" if ":" in address else ""
            self.host.ip(f"addr add {address} dev {self.interface}{nodad}")
        self.host.ip(f"link set {self.interface} mtu 1420 up")
        for network in peer.allowed_ips:
            self.host.ip(f"route replace {network} dev {self.interface}")


class Whalescale(HostEnd):
    """`ws up --foreground` with a configuration made by `ws keygen` and this class."""

    #: what starts agents, for all of a process; None: `ws` is executed
    nursery: Nursery | None = None

    def __init__(
        self,
        host: Host,
        interface: str,
        addresses: tuple[str, ...],
        port: int,
        *,
        limits_ms: dict[str, int] | None = None,
        dataplane: str = "",
    ) -> None:
        super().__init__(host, interface, addresses, port)
        self.config = self._folder / f"{interface}.toml"
        self.runtime = self._folder / "run"
        self.dataplane = dataplane
        self.env = {"WHALESCALE_RUNTIME_DIR": str(self.runtime)}
        if limits_ms:
            self.env["WHALESCALE_TEST_LIMITS"] = json.dumps(limits_ms)
        self.key_file = self._folder / f"{interface}.key"
        self.key_file.touch(mode=0o600)
        # As `ws keygen` and `ws pubkey` do; three processes for each end are half a second.
        own = Identity.generate(os.urandom)
        self.key_file.write_text(encode_seed(own.seed) + "\n")
        self.public_key = encode_wireguard_key(own.static_public)
        self.node_id = encode_node_id(own.node_id)

    def ws(
        self, *words: str, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """A `ws` command to this end's agent."""
        return self.host.run(WS, *words, check=check, timeout=timeout, env=self.env)

    def call(self, method: str) -> dict[str, Any]:
        """What a `ws` command asks the agent, without starting one: tests poll by it."""
        path = self.runtime / f"{self.interface}.sock"
        try:
            with Connection(self.interface, CALL_S, path) as connection:
                return connection.call(method)
        except CliError as e:
            raise LabError(e.message) from None

    def status(self) -> dict[str, Any]:
        """As `ws status --json`."""
        return {"version": 1, **self.call("status")}

    def write_config(self, *peers: Peer) -> None:
        quoted = ", ".join(f'"{a}"' for a in self.addresses)
        lines = [
            "[interface]",
            f'name = "{self.interface}"',
            f'private_key_file = "{self.key_file.name}"',
            f"listen_port = {self.port}",
            f"addresses = [{quoted}]",
        ]
        for number, peer in enumerate(peers):
            lines += ["", "[[peers]]", f'name = "peer{number}"']
            if peer.node_id:
                lines.append(f'id = "{peer.node_id}"')
            else:
                lines.append(f'wireguard_public_key = "{peer.public_key}"')
            if peer.endpoint:
                lines.append(f'endpoints = ["{peer.endpoint}"]')
            allowed = ", ".join(f'"{a}"' for a in peer.allowed_ips)
            lines.append(f"allowed_ips = [{allowed}]")
            if peer.preshared_key:
                psk = self._folder / f"peer{number}.psk"
                psk.touch(mode=0o600)
                psk.write_text(peer.preshared_key + "\n")
                lines.append(f'preshared_key_file = "{psk.name}"')
            if peer.keepalive:
                lines.append(f"persistent_keepalive = {peer.keepalive}")
        if self.dataplane:
            lines += ["", "[dataplane]", self.dataplane]
        self.config.write_text("\n".join(lines) + "\n")

    def launch(self) -> Process:
        """Start the agent on the configuration as it is, without waiting for anything."""
        words = (WS, "up", "--foreground", "--config", self.config)
        self.process = self.host.spawn(*words, env=self.env, nursery=self.nursery)
        return self.process

    def start(self, peer: Peer) -> None:
        self.write_config(peer)
        self.launch()
        self.wait_for_uapi()


def main() -> int:
    """Say which test peers there are, building what can be built."""
    debian = debian_wireguard_go()
    newest = newest_wireguard_go()
    print(f"wireguard-go, Debian's: {debian or 'not installed (apt-get install wireguard-go)'}")
    print(f"wireguard-go, newest:   {newest or f'needs Go {GO_OLDEST[0]}.{GO_OLDEST[1]} or newer'}")
    return 0 if debian or newest else 1


if __name__ == "__main__":
    sys.exit(main())
