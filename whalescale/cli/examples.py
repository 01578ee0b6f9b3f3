"""What stands under Examples in `ws COMMAND --help`: a command line, and what it does."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "init": (
        ("ws init --address 10.77.0.1/24", "ws0, with a key of its own"),
        ("ws init -i home -a 10.9.0.1/24 -a fd09::1/64 -p 51821", "another one, both families"),
    ),
    "keygen": (("ws keygen", "to a file: (umask 077; ws keygen > ws0.key)"),),
    "pubkey": (
        ("ws pubkey", "the node ID: ws pubkey < /etc/whalescale/ws0.key"),
        ("ws pubkey --wireguard", "what plain WireGuard peers know this host by"),
    ),
    "peer": (
        (
            "ws peer add berlin --id ID --endpoint berlin.example:51820 --allowed-ip 10.77.0.2/32",
            "a Whalescale node",
        ),
        (
            "ws peer add router --wireguard-public-key KEY --allowed-ip 10.77.0.9/32",
            "plain WireGuard",
        ),
        ("ws peer remove berlin", "and a running agent lets go of it"),
    ),
    "network": (
        ("ws network create hearth", "this machine is its first member and admin"),
        ("ws network show", "its name, addresses, anchors"),
        ("ws network export-key", "as root: keep it elsewhere, it names admins"),
        ("ws network import-key", "of standard input: ws network import-key < FILE"),
        ("ws network admin add laptop", "let it invite and revoke, too"),
        ("ws network admin remove laptop", "no more"),
        ("ws network leave", "after `ws down`, as `ws leave`"),
    ),
    "invite": (
        ("ws invite laptop", "print a ticket, good once and for an hour"),
        ("ws invite router --route 192.168.7.0/24 --hours 24", "with a network behind it"),
        ("ws invite tablet --qr", "shown as a QR code as well"),
    ),
    "join": (("ws join TICKET", "then: sudo ws up"),),
    "revoke": (("ws revoke laptop", "cut it off everywhere, for ever"),),
    "rename": (("ws rename laptop old-laptop", "what all call it"),),
    "leave": (("ws leave", "after `ws down`; then an admin revokes this machine"),),
    "route": (
        ("ws route advertise 192.168.7.0/24", "forward to the LAN behind this machine"),
        ("ws route withdraw 192.168.7.0/24", "no more"),
        ("ws route sign router --add 192.168.7.0/24", "as an admin, of another member"),
        ("ws route accept 203.0.113.0/24", "take this public one too; private ones are taken"),
        ("ws route show", "which networks are behind whom"),
    ),
    "exit-node": (
        ("ws exit-node serve", "be one: peers reach everything through this machine"),
        ("ws exit-node use home --dns 9.9.9.9", "all traffic, and DNS, by home"),
        ("ws exit-node off", "the usual way again"),
    ),
    "import": (
        ("ws import /etc/wireguard/wg0.conf", "as ws0, with its key"),
        ("ws import provider.conf -i vpn", "beside what there is"),
        ("ws import wg0.conf --new-key", "as a node that can use several links"),
    ),
    "export": (
        ("ws export --wireguard phone --new-key --qr", "for WireGuard's app to read"),
        (
            "ws export --wireguard phone --new-key --full-tunnel --dns 10.77.0.1 -o phone.conf",
            "all its traffic comes here",
        ),
    ),
    "up": (
        ("ws up", "ws0, in the background"),
        ("ws up -i home", "another one"),
        ("ws up --foreground", "for a supervisor"),
    ),
    "down": (("ws down", "ws0"), ("ws down -i home", "another one")),
    "reload": (
        ("ws reload", "take over /etc/whalescale/ws0.toml"),
        ("ws reload --check", "only see whether it is right, and what would change"),
    ),
    "status": (("ws status", "for people"), ("ws status --json", "for programs")),
    "peers": (("ws peers", "one a line"), ("ws peers -i home --json", "for programs")),
    "members": (
        ("ws members", "who is there, and where"),
        ("ws members --watch", "again and again"),
        ("ws members --json", "for programs"),
    ),
    "address": (("ws address laptop", "where it was met, and where it says it is"),),
    "hosts": (("ws hosts", "as root: ws hosts >> /etc/hosts"),),
    "paths": (
        ("ws paths", "of every peer"),
        ("ws paths berlin --watch", "again and again"),
        ("ws paths berlin --set wwan0 --tier 1", "spare the mobile link"),
        ("ws paths berlin --set 2 --disable", "leave one path"),
    ),
    "top": (("ws top", "until q"), ("ws top --once", "one picture"), ("ws top -n 0.5", "faster")),
    "logs": (("ws logs", "what there is"), ("ws logs -f", "and what comes")),
    "ping": (("ws ping berlin", "until Ctrl-C"), ("ws ping berlin -c 3", "three times")),
    "bench": (
        ("ws bench", "two hosts made on this machine (root)"),
        ("ws bench --serve", "be the other end"),
        ("ws bench berlin --bare 192.0.2.7", "the tunnel beside the bare way"),
        ("ws bench berlin --only tcp1 --only ping", "two figures"),
    ),
    "trace": (
        ("ws trace", "all TCP flows in the tunnel (root)"),
        ("ws trace --peer berlin --seconds 10 --json", "for programs"),
    ),
    "doctor": (("ws doctor", "this machine and ws0"), ("ws doctor -i home", "another tunnel")),
    "report": (
        ("ws report", "ws-report-ws0-....tar.gz in this folder"),
        ("ws report -i home -o /tmp/home.tar.gz", "another tunnel, another place"),
    ),
    "version": (("ws version", "of ws and of the agent"),),
}


def epilog(*words: str) -> str:
    r"""Of a command, or one in a group, as click prints it: the \b keeps its lines apart."""
    begin = " ".join(("ws", *words))
    chosen = [e for e in EXAMPLES[words[0]] if e[0] == begin or e[0].startswith(f"{begin} ")]
    return "\b\nExamples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in chosen)
