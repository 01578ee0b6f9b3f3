"""`ws route` and `ws exit-node`: what this host forwards, and whom its own traffic goes by."""

from __future__ import annotations

import contextlib
from ipaddress import ip_network
from typing import Annotated, Any

from whalescale.cli.common import (
    ConfigPath,
    Interface,
    Json,
    exit_names,
    load_config,
    member_names,
    note,
    print_json,
)
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.cli.options import Argument, Group, Option

app = Group(
    help="Say which networks behind this machine others reach through it.",
)
exit_app = Group(
    help="Send all traffic through a peer, or be the one that others use.",
)

VERSION = 1
EVERYWHERE = ("0.0.0.0/0", "::/0")
Networks = Annotated[list[str], Argument(metavar="NETWORK...", help="Such as 192.168.7.0/24.")]


def _networks(texts: list[str]) -> list[str]:
    found = []
    for text in texts:
        try:
            network = ip_network(text)
        except ValueError as e:
            raise CliError(str(e), "write a network as 192.168.7.0/24", USAGE) from None
        if network.prefixlen == 0:
            raise CliError(f"{text} is everywhere", "`ws exit-node serve` is for that", USAGE)
        found.append(str(network))
    return found


def _change(interface: str | None, config: Any, table: str, **values: object) -> str:
    """Write keys of a table, tell the agent; None or () takes a key away. Returns the interface."""
    from whalescale.cli import edit

    loaded = load_config(interface, config)
    document = edit.Document(loaded.path)
    document.set_table(table, values)
    document.save()
    edit.reload_running(loaded.interface.name)
    return loaded.interface.name


def _sign(name: str, add: list[str], remove: list[str]) -> str:
    """In the network's records, where this machine is in one. What came of it, in words."""
    from whalescale.cli import client

    try:
        view = client.call(name, "network", {"op": "view"})
    except CliError:
        return ""
    own = next((m for m in view["members"] if m["self"]), None)
    if own is None:
        return ""
    if not view["network"]["admin"]:
        words = [*(f"--add {n}" for n in add), *(f"--remove {n}" for n in remove)]
        return f"an admin has to sign it: `ws route sign {plain(own['name'])} {' '.join(words)}`"
    client.call(
        name, "network", {"op": "routes", "name": own["name"], "add": add, "remove": remove}
    )
    return "every member of the network hears of it"


def _refuse_unknown(name: str, interface: str | None, config: Any) -> None:
    """CliError: neither a peer of the file nor a member has this name."""
    from whalescale.cli import client

    loaded = load_config(interface, config)
    known = {p.name for p in loaded.peers}
    if name in known:
        return
    with contextlib.suppress(CliError):
        view = client.call(loaded.interface.name, "network", {"op": "view"})
        known |= {str(m["name"]) for m in view["members"] if not m["self"]}
    if name not in known:
        some = ", ".join(plain(n) for n in sorted(known)[:8]) or "none yet"
        raise CliError(f"no peer or member is called {plain(name)}", f"there is: {some}")


@app.command()
def advertise(networks: Networks, interface: Interface = None, config: ConfigPath = None) -> None:
    """Forward to networks behind this machine, and tell the members: ws route advertise NETWORK"""
    wanted = _networks(networks)
    before = [str(n) for n in load_config(interface, config).forward.networks]
    name = _change(interface, config, "forward", networks=list(dict.fromkeys([*before, *wanted])))
    told = _sign(name, wanted, [])
    print(f"{', '.join(wanted)}: forwarded for peers" + (f"; {told}" if told else ""))


@app.command()
def withdraw(networks: Networks, interface: Interface = None, config: ConfigPath = None) -> None:
    """Forward to these networks no more: ws route withdraw NETWORK"""
    gone = _networks(networks)
    before = [str(n) for n in load_config(interface, config).forward.networks]
    name = _change(interface, config, "forward", networks=[n for n in before if n not in gone])
    told = _sign(name, [], gone)
    print(f"{', '.join(gone)}: forwarded no more" + (f"; {told}" if told else ""))


@app.command()
def sign(
    member: Annotated[str, Argument(metavar="NAME", help="A member.", autocompletion=member_names)],
    add: Annotated[list[str] | None, Option("--add", metavar="NETWORK")] = None,
    remove: Annotated[list[str] | None, Option("--remove", metavar="NETWORK")] = None,
    interface: Interface = None,
    json: Json = False,
) -> None:
    """As an admin: say in a member's record what is behind it."""
    from whalescale.cli.network import ask

    told = ask(interface, op="routes", name=member, add=add or [], remove=remove or [])
    if json:
        print_json({"version": VERSION, **told})
        return
    print(f"{plain(told['name'])}: {', '.join(told['routes']) or 'nothing behind it'}")


@app.command()
def accept(
    what: Annotated[
        list[str], Argument(metavar="private|all|none|NETWORK...", help="What to take.")
    ],
    interface: Interface = None,
    config: ConfigPath = None,
) -> None:
    """Take what other members advertise: ws route accept 203.0.113.0/24

    private (as it is from the start): all networks of private address space that this host is not
    in itself. A NETWORK is taken in any case, beside what was accepted before.
    """
    words = [w for w in what if w in ("private", "all", "none")]
    if len(words) > 1:
        raise CliError(f"{' and '.join(words)} say different things", "give one of them", USAGE)
    networks = _networks([w for w in what if w not in words])
    before = load_config(interface, config).network.accept
    # A word begins anew, networks are added.
    kept = words or [before.kind, *(str(n) for n in before.networks)]
    taken = list(dict.fromkeys([*kept, *networks]))
    _change(interface, config, "network", accept=None if taken == ["private"] else taken)
    print(f"accepted: {', '.join(taken)}")


@app.command()
def show(interface: Interface = None, json: Json = False) -> None:
    """Show which networks are behind whom."""
    from whalescale.cli import client
    from whalescale.cli.common import interface_name

    name = interface_name(interface)
    status = client.status(name)[0]
    rows = {p.name: list(p.allowed_ips) for p in status.peers}
    left: list[tuple[str, str, str]] = []
    with contextlib.suppress(CliError):
        view = client.call(name, "network", {"op": "view"})
        for m in view["members"]:
            left += [(n, str(m["name"]), why) for n, why in m.get("routes_left", {}).items()]
    if json:
        own = list(status.forwarding.networks)
        refused = [{"network": n, "member": m, "why": why} for n, m, why in left]
        print_json({"version": VERSION, "own": own, "peers": rows, "left": refused})
        return
    for network in status.forwarding.networks:
        print(f"{network:24} this machine")
    for peer, allowed in rows.items():
        for network in allowed:
            print(f"{network:24} {plain(peer)}")
    for network, member, why in left:
        print(f"{network:24} {plain(member)}, not taken: {why}")


@exit_app.command()
def serve(
    off: Annotated[bool, Option("--off", help="No more.")] = False,
    interface: Interface = None,
    config: ConfigPath = None,
) -> None:
    """Be an exit: forward peers' packets to anywhere, in this host's name."""
    name = _change(interface, config, "forward", exit=None if off else True)
    some, none = list(EVERYWHERE), list[str]()
    told = _sign(name, none if off else some, some if off else none)
    print(("no exit any more" if off else "this is an exit") + (f"; {told}" if told else ""))


@exit_app.command()
def use(
    peer: Annotated[
        str,
        Argument(metavar="NAME", help="A peer or member that serves.", autocompletion=exit_names),
    ],
    no_lan: Annotated[bool, Option("--no-lan", help="Not even the LAN past it.")] = False,
    no_kill_switch: Annotated[
        bool, Option("--no-kill-switch", help="Without the tunnel, go the usual way.")
    ] = False,
    dns: Annotated[
        str | None, Option("--dns", metavar="IP", help="Ask there, through the exit.")
    ] = None,
    interface: Interface = None,
    config: ConfigPath = None,
) -> None:
    """Send all traffic of this host through a peer: ws exit-node use home --dns 9.9.9.9"""
    _refuse_unknown(peer, interface, config)
    _change(
        interface,
        config,
        "exit",
        use=peer,
        lan=False if no_lan else None,
        kill_switch=False if no_kill_switch else None,
        dns=dns,
    )
    print(f"all traffic goes through {plain(peer)}")
    if not no_kill_switch:
        note("nothing leaves past it, while the tunnel is down too; `ws exit-node off` ends that")


@exit_app.command("off")
def off_(interface: Interface = None, config: ConfigPath = None) -> None:
    """Go the usual way again."""
    from whalescale.nft import end_exits

    name = _change(interface, config, "exit", use=None, lan=None, kill_switch=None, dns=None)
    # Where no agent runs that would take it away.
    try:
        end_exits(name)
    except OSError as e:
        raise CliError(
            f"the kill switch stands: {e.strerror}", "try `sudo ws exit-node off`"
        ) from None
    print("traffic goes the usual way")
