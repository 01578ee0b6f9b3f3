"""Which commands `ws` has, and where each is: nothing of them is imported here."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple


class Entry(NamedTuple):
    """Where a subcommand is, and its line in `ws --help`."""

    section: str
    module: str
    attribute: str
    help: str


#: a shell asks for completions by it
COMPLETE_VARIABLE: Final = "_WS_COMPLETE"

COMMANDS: Final = {
    "init": Entry("Set up", "init", "init", "Make a configuration and a key."),
    "keygen": Entry("Set up", "keys", "keygen", "Make a private key."),
    "pubkey": Entry("Set up", "keys", "pubkey", "Tell the node ID of a private key."),
    "peer": Entry("Set up", "peer", "app", "Add or remove a peer."),
    "network": Entry("Set up", "network", "app", "Make a network of your machines, or show it."),
    "invite": Entry("Set up", "joining", "invite", "Print a ticket for one machine."),
    "join": Entry("Set up", "joining", "join", "Join a network with a ticket."),
    "revoke": Entry("Set up", "network", "revoke", "Cut a member off."),
    "rename": Entry("Set up", "network", "rename", "Give a member another name."),
    "leave": Entry("Set up", "network", "leave", "Forget the network on this machine."),
    "route": Entry("Set up", "route", "app", "Say which networks are behind this machine."),
    "exit-node": Entry("Set up", "route", "exit_app", "Use an exit, or be one."),
    "import": Entry("Set up", "wg_import", "import_", "Take over a wg-quick file."),
    "export": Entry("Set up", "export", "export", "Write a wg-quick file for a peer."),
    "up": Entry("Run", "lifecycle", "up", "Start the tunnel."),
    "down": Entry("Run", "lifecycle", "down", "Stop the tunnel."),
    "reload": Entry("Run", "lifecycle", "reload", "Take over a changed configuration."),
    "status": Entry("Look", "show", "status", "Show the tunnel and its peers."),
    "peers": Entry("Look", "show", "peers", "Show the peers, one a line."),
    "members": Entry("Look", "members", "members", "List the network's members."),
    "address": Entry("Look", "members", "address", "Show where a member is, and was."),
    "hosts": Entry("Look", "members", "hosts", "Print the members for /etc/hosts."),
    "paths": Entry("Look", "paths", "paths", "Show the paths to a peer, or pin one."),
    "top": Entry("Look", "top", "top", "Watch it live."),
    "logs": Entry("Look", "logs", "logs", "Show what the agent wrote."),
    "ping": Entry("Look", "ping", "ping", "Ping a peer through the tunnel."),
    "bench": Entry("Look", "bench", "bench", "Measure how fast it is."),
    "trace": Entry("Look", "trace", "trace", "Trace TCP beside the reordering buffer."),
    "doctor": Entry("Look", "doctor", "doctor", "Check what this machine lacks."),
    "report": Entry("Look", "report", "report", "Make an archive for a bug report."),
    "version": Entry("Look", "show", "version", "Show the version."),
}


def target(name: str) -> Any:
    """What the entry names: a function, or a Group."""
    entry = COMMANDS[name]
    return getattr(import_module(f"whalescale.cli.{entry.module}"), entry.attribute)
