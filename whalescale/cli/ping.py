"""`ws ping PEER`: the system's ping, through the tunnel's interface."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from whalescale.cli.common import (
    Interface,
    Json,
    PeerArgument,
    find,
    interface_name,
    note,
    print_json,
)
from whalescale.cli.ending import CliError, plain
from whalescale.cli.options import Option
from whalescale.endpoints import is_host

if TYPE_CHECKING:
    from whalescale.status import Peer, Status

_COUNTS: Final = re.compile(r"(\d+) packets transmitted, (\d+) received")
_ANSWER: Final = re.compile(r"bytes from ")
#: an answer that has not come by then may need a word
WHY_S: Final = 3.5
_TIMES: Final = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+) ms")


def ping(
    peer: PeerArgument,
    count: Annotated[int, Option("--count", "-c", min=1, max=100000, help="How many times.")] = 4,
    interface: Interface = None,
    json: Json = False,
) -> int:
    """Ping a peer through the tunnel: ws ping berlin"""
    from whalescale.cli import client

    name = interface_name(interface)
    status = client.status(name)[0]
    found = find(status, peer, name)
    addresses = addresses_of(found)
    program = shutil.which("ping")
    if program is None:
        raise CliError("there is no `ping` on this machine", "`sudo apt install iputils-ping`")
    command = [program, "-n", "-I", status.agent.interface, "-c", str(count)]
    if not json:
        print(f"{plain(found.name)} is {' and '.join(addresses)}", flush=True)
    results, said = _run(name, command, addresses, status, found, quiet=json)
    if not any(results.values()):
        text = next((t for t in said.values() if t), "it told nothing")
        raise CliError(f"ping to {addresses[0]} failed: {text}", f"`sudo ws doctor -i {name}`")
    # The first that answers stands for the peer.
    best = max(results, key=lambda a: (results[a] or {"received": 0})["received"] > 0)
    answered = {a: bool(r and r["received"]) for a, r in results.items()}
    trouble = [] if any(answered.values()) else _why(name, status, found)
    if json:
        each = [{"address": a, **(r or {"error": said[a]})} for a, r in results.items()]
        told = {"peer": found.name, "address": best, **(results[best] or {})}
        print_json({"version": 1, **told, "addresses": each, "trouble": trouble})
    elif len(addresses) > 1:
        words = [f"{a} {'answers' if ok else 'does not answer'}" for a, ok in answered.items()]
        print(f"\n{', '.join(words)}")
    return 0 if any(answered.values()) else 1


def _run(
    name: str, command: list[str], addresses: list[str], status: Status, peer: Peer, *, quiet: bool
) -> tuple[dict[str, dict[str, Any] | None], dict[str, str]]:
    """A ping to each address, all at once: what it counted (None: nothing), and what it said last.

    Their lines are shown as they come; after a few seconds without an answer, why.
    """
    env = {**os.environ, "LC_ALL": "C"}
    texts: dict[str, str] = dict.fromkeys(addresses, "")
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for address in addresses:
            child = stack.enter_context(
                subprocess.Popen(
                    [*command, address],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=env,
                )
            )
            stack.callback(child.terminate)
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ, address)
        told_at: float | None = time.monotonic() + WHY_S
        while selector.get_map():
            wait = None if told_at is None else max(told_at - time.monotonic(), 0.0)
            for key, _ in selector.select(wait):
                line = os.read(key.fd, 65536).decode(errors="replace")
                if not line:
                    selector.unregister(key.fileobj)
                    continue
                texts[key.data] += line
                if not quiet:
                    sys.stdout.write(line)
                    sys.stdout.flush()
            if told_at is not None and time.monotonic() >= told_at:
                told_at = None
                if not quiet and not any(_ANSWER.search(t) for t in texts.values()):
                    for text in _why(name, status, peer):
                        note(text)
    last = {a: plain((t.strip().splitlines() or [""])[-1]) for a, t in texts.items()}
    return {a: parse(t) for a, t in texts.items()}, last


def _why(name: str, before: Status, peer: Peer) -> list[str]:
    from whalescale.cli import client, troubles

    try:
        after = client.status(name)[0]
        return troubles.of_ping(before, after, find(after, peer.name, name))
    except CliError as e:
        return [e.message]


def address_of(peer: Peer) -> str:
    """Its overlay address, else its first single allowed address, else the first of a network."""
    return addresses_of(peer)[-1]


def addresses_of(peer: Peer) -> list[str]:
    """What to ping: its first single allowed address of each family, and its overlay address."""
    found: dict[int, str] = {}
    try:
        networks = [ipaddress.ip_network(a, strict=False) for a in peer.allowed_ips]
        if peer.overlay_address is not None:
            found[6] = str(ipaddress.ip_address(peer.overlay_address))
    except ValueError as e:
        raise CliError(f"the agent gave no address for {plain(peer.name)}: {plain(str(e))}") from e
    for network in networks:
        if is_host(network):
            found.setdefault(network.version, str(network.network_address))
    if not found:
        for network in networks:
            if network.prefixlen:
                return [str(next(iter(network.hosts())))]
        fix = "give it one under allowed_ips in the configuration"
        raise CliError(f"{plain(peer.name)} has no address to ping", fix)
    return [found[version] for version in sorted(found)]


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
