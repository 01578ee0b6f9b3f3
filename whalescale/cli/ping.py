"""`ws ping PEER`: the system's ping, through the tunnel's interface."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from whalescale.cli.common import (
    CliError,
    Interface,
    Json,
    PeerArgument,
    interface_name,
    plain,
    print_json,
)

if TYPE_CHECKING:
    from whalescale.status import Peer, Status

_COUNTS: Final = re.compile(r"(\d+) packets transmitted, (\d+) received")
_TIMES: Final = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+) ms")


def ping(
    peer: PeerArgument,
    count: Annotated[
        int, typer.Option("--count", "-c", min=1, max=100000, help="How many times.")
    ] = 4,
    interface: Interface = None,
    json: Json = False,
) -> int:
    """Ping a peer through the tunnel: ws ping berlin"""
    from whalescale.cli import client

    name = interface_name(interface)
    status = client.status(name)[0]
    found = find(status, peer, name)
    address = address_of(found)
    program = shutil.which("ping")
    if program is None:
        raise CliError("there is no `ping` on this machine", "`sudo apt install iputils-ping`")
    command = [program, "-n", "-I", status.agent.interface, "-c", str(count), address]
    if not json:
        print(f"{plain(found.name)} is {address}", flush=True)
        return 0 if subprocess.run(command, check=False).returncode == 0 else 1
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    result = parse(done.stdout)
    if result is None:
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = plain(lines[-1]) if lines else f"exit code {done.returncode}"
        raise CliError(f"ping to {address} failed: {said}", f"`sudo ws doctor -i {name}`")
    print_json({"version": 1, "peer": found.name, "address": address, **result})
    return 0 if result["received"] else 1


def find(status: Status, wanted: str, interface: str) -> Peer:
    """By name, or by the beginning (8 characters or more) of its ID, fingerprint or key."""
    exact = [p for p in status.peers if p.name == wanted]
    if not exact and len(wanted) >= 8:
        exact = [
            p
            for p in status.peers
            if any(
                k and k.startswith(wanted) for k in (p.id, p.fingerprint, p.wireguard_public_key)
            )
        ]
    if len(exact) == 1:
        return exact[0]
    names = ", ".join(plain(p.name) for p in status.peers[:8]) or "none"
    raise CliError(f"{interface} has no peer {plain(wanted)!r}", f"its peers: {names}")


def address_of(peer: Peer) -> str:
    """Its overlay address, else its first single allowed address, else the first of a network."""
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    try:
        if peer.overlay_address is not None:
            return str(ipaddress.ip_address(peer.overlay_address))
        networks = [ipaddress.ip_network(a, strict=False) for a in peer.allowed_ips]
    except ValueError as e:
        raise CliError(f"the agent gave no address for {plain(peer.name)}: {plain(str(e))}") from e
    for network in networks:
        if network.prefixlen == network.max_prefixlen:
            return str(network.network_address)
    for network in networks:
        if network.prefixlen:
            return str(next(iter(network.hosts())))
    fix = "give it one under allowed_ips in the configuration"
    raise CliError(f"{plain(peer.name)} has no address to ping", fix)


def parse(output: str) -> dict[str, Any] | None:
    """What iputils ping tells at its end (times in ms), or None when it told nothing."""
    counts, times = _COUNTS.search(output), _TIMES.search(output)
    if counts is None:
        return None
    result: dict[str, Any] = {"transmitted": int(counts[1]), "received": int(counts[2])}
    names = ("rtt_min_ms", "rtt_avg_ms", "rtt_max_ms", "rtt_mdev_ms")
    for i, name in enumerate(names, 1):
        result[name] = float(times[i]) if times is not None else None
    return result
