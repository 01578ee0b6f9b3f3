"""`ws` alone: what state this machine is in, and the next step."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from whalescale import locations
from whalescale.cli.common import interfaces
from whalescale.cli.ending import PERMISSION, UNREACHABLE, CliError, plain

#: so many tunnels are told one by one
_TOLD = 20


def show() -> None:
    names = interfaces("")
    if not names:
        if _forbidden():
            print("/etc/whalescale is not for you to read.")
            print("next  `sudo ws`")
            return
        print("This machine has no tunnel yet.")
        print("next  `sudo ws network create NAME` makes a network of your own machines,")
        print("      `sudo ws join TICKET` enters one (`ws invite` in it prints a ticket),")
        print("      `sudo ws init --address 10.77.0.1/24` is for peers that you add by hand,")
        print("      `sudo ws import FILE` takes over a wg-quick file")
        _more()
        return
    for name in names[:_TOLD]:
        state, steps = _of(name)
        print(f"{plain(name)}  {state}")
        for number, step in enumerate(steps):
            print(f"{'next  ' if not number else '      '}{step}")
    if len(names) > _TOLD:
        print(f"and {len(names) - _TOLD} more")
    _more()


def _more() -> None:
    print("\n`ws --help` lists all commands, `man ws` tells the rest.")


def _forbidden() -> bool:
    return locations.CONFIG_DIR.is_dir() and not os.access(locations.CONFIG_DIR, os.R_OK | os.X_OK)


def _choose(name: str) -> str:
    return "" if name == locations.DEFAULT_INTERFACE else f" -i {plain(name)}"


def _of(name: str) -> tuple[str, list[str]]:
    """What there is to say of a tunnel, and what to do next."""
    from whalescale.cli import client

    try:
        found = client.status(name)[0]
    except CliError as e:
        if e.exit_code == UNREACHABLE:
            return _down(name)
        if e.exit_code == PERMISSION:
            return "is up; the rest is not for you to read", [f"`sudo ws{_choose(name)} status`"]
        return f"does not answer: {e.message}", [f"`ws{_choose(name)} logs`"]
    peers, option = found.peers, _choose(name)
    up = sum(p.state == "up" for p in peers)
    if not peers and (network := found.network.name):
        invite = f"`sudo ws{option} invite NAME` prints a ticket for another machine"
        return f"is up, alone in {plain(network)} so far", [invite]
    if not peers:
        return "is up, and has no peers", _peer_steps(name, plain(found.agent.node_id))
    with_paths = sum(len(p.multipath.paths) for p in peers if p.multipath is not None)
    text = f"is up: {up} of {len(peers)} peer{'s' * (len(peers) != 1)} with a session"
    if with_paths:
        text += f", {with_paths} path{'s' * (with_paths != 1)}"
    lost = [p for p in peers if p.state == "unreachable"]
    if lost:
        who = ", ".join(plain(p.name) for p in lost[:3]) + (", ..." if len(lost) > 3 else "")
        return f"{text}; no answer from {who}", [f"`ws{option} status` says what is known of it"]
    if not up:
        return text, [f"`ws{option} ping {plain(peers[0].name)}` opens one, or says why not"]
    return text, [f"`sudo ws{option} top` watches it"]


def _down(name: str) -> tuple[str, list[str]]:
    from whalescale import config as configuration

    path = locations.config_file(name)
    option = _choose(name)
    try:
        loaded = configuration.load(path)
    except configuration.ConfigError as e:
        if e.exit_code == PERMISSION:
            return "is not up", ["`sudo ws` says more"]
        return f"is not up, and its file is wrong: {plain(e.message)}", [plain(e.fix)]
    if not loaded.peers and not locations.store_file(name).exists():
        return "is configured, without peers", _peer_steps(name, "")
    start = [f"`sudo ws{option} up` starts it now"]
    if Path("/run/systemd/system").is_dir():
        start = [f"`sudo systemctl enable --now ws@{plain(name)}` starts it, now and at each boot"]
    peers = len(loaded.peers)
    with contextlib.suppress(OSError):
        if locations.log_file(name).stat().st_size:
            start.append(f"`ws{option} logs` shows what the last agent wrote")
    if not peers:
        return "is in a network, and not up", start
    return f"is configured with {peers} peer{'s' * (peers != 1)}, and not up", start


def _peer_steps(name: str, node_id: str) -> list[str]:
    option = _choose(name)
    steps = [
        f"`sudo ws{option} peer add NAME --id ITS_NODE_ID --allowed-ip ITS_ADDRESS`,",
        f"`sudo ws{option} export --wireguard NAME --new-key` for a phone or a router",
    ]
    if node_id:
        steps.append(f"this machine's node ID, for the peer: {node_id}")
    return steps
