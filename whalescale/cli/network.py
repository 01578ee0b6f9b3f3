"""A network of one's own machines: create, invite, join, members, revoke, rename, leave."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from whalescale import locations
from whalescale.cli.common import (
    ConfigPath,
    Interface,
    Json,
    config_path,
    interface_name,
    load_config,
    member_names,
    note,
    note_loose_output,
    print_json,
)
from whalescale.cli.ending import UNREACHABLE, USAGE, CliError, plain
from whalescale.cli.options import Argument, Group, Option

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from whalescale.config import Config
    from whalescale.identity import Identity
    from whalescale.protocol.mesh.network import Mesh

app = Group(
    help="Make a network of your machines, show it, keep its key, leave it.",
)

admin_app = Group(
    help="Say which members may let others in and cut them off; needs the network key.",
)
app.commands["admin"] = admin_app

VERSION = 1
#: records in one request to the agent
RECORDS_A_REQUEST = 50
MemberName = Annotated[
    str, Argument(metavar="NAME", help="A member's name.", autocompletion=member_names)
]


def own_identity(config: Config) -> Identity:
    from whalescale import config_keys
    from whalescale.identity import Identity

    own = config_keys.read_identity(config)
    if not isinstance(own, Identity):
        fix = "make one with `ws init --force`: a WireGuard key has no node ID"
        raise CliError("a network needs a key of Whalescale's own", fix)
    return own


def _key_file(config: Config) -> Path:
    return config.path.absolute().with_suffix(".network-key")


def ask(interface: str | None, **params: object) -> dict[str, Any]:
    from whalescale.cli import client

    return client.call(interface_name(interface), "network", params)


def no_network_yet(name: str) -> None:
    """CliError: this interface is in one already."""
    from whalescale.runtime.network_store import has_network

    if has_network(name):
        fix = (
            f"`ws network show -i {name}` shows it, `ws network leave -i {name}` forgets it; "
            "another one takes another interface: -i OTHER"
        )
        raise CliError(f"{name} is in a network already", fix)


@dataclass(frozen=True)
class Entered:
    """Whether the agent runs and took the network up, and whether it answers for names."""

    running: bool
    names: bool = False

    @property
    def next_step(self) -> str:
        if not self.running:
            return "next: `sudo ws up`"
        if self.names:
            return "the running agent has taken it up"
        return "the running agent has taken it up, but for names: `ws hosts` prints them"


def enter(name: str) -> Entered:
    """Tell the agent, if it runs, that it is in a network now, and systemd-resolved, which the
    agent may not call any more.

    CliError: it runs, and cannot take it up without a restart.
    """
    from whalescale.cli import client

    try:
        told = client.call(name, "network", {"op": "begin"})
    except CliError as e:
        if e.exit_code == UNREACHABLE:
            return Entered(False)
        fix = "restart the agent: `sudo ws down`, `sudo ws up`"
        raise CliError(f"joined, but the running agent says: {e.message}", fix) from None
    servers = [str(address) for address in told.get("names_at", ())]
    if servers:
        from whalescale.runtime import zone

        trouble = zone.tell_resolved(name, str(told["network"]), servers)
        if trouble is not None:
            note(trouble)
    return Entered(True, bool(servers))


def configure(path: Path, name: str) -> None:
    """Make a configuration and a key, where there are none."""
    from whalescale import identity, keyfiles
    from whalescale.cli import edit, init

    key_path = path.absolute().with_suffix(".key")
    init.claim(path, key_path, force=False)
    own = identity.Identity.generate(os.urandom)
    text = edit.new_document(
        name=name, key_file=key_path.name, listen_port=_free_port(), addresses=[]
    )
    keyfiles.write(key_path, identity.encode_seed(own.seed) + "\n", replace=False)
    keyfiles.write(path, text, replace=False)
    own.zero()
    note(f"made {path}")


def _free_port(first: int = 51820) -> int:
    """The usual UDP port, or the next one that no other tunnel of this host has."""
    for port in range(first, first + 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    return 0


def keep(name: str, mesh: Mesh) -> None:
    """The network is this machine's from now on."""
    from whalescale.runtime.errors import AgentError
    from whalescale.runtime.network_store import NETWORK, open_store

    try:
        store = open_store(name)
    except AgentError as e:
        raise CliError(e.message, e.fix) from None
    for entry in mesh.table.entries():
        store.put(entry.key, entry.raw)
    kept = store.set_meta(NETWORK, mesh.network_id, durable=True)
    trouble = store.trouble
    store.close()
    if not kept:
        locations.store_file(name).unlink(missing_ok=True)
        raise CliError(f"{locations.store_file(name)}: {trouble}", "make room there")


def _own_name(given: str | None) -> str:
    from whalescale.protocol.mesh.records import is_name

    name = given or socket.gethostname().partition(".")[0].lower()
    if not is_name(name):
        fix = "give one of lower-case letters, digits and inner hyphens with --name"
        raise CliError(f"{plain(name)!r} cannot be a member's name", fix, USAGE)
    return name


def _prefix(text: str | None, network_id: bytes) -> IPv4Network | None:
    """The given one, or one of 100.64.0.0/10 that no route of this host touches."""
    from ipaddress import IPv4Network, ip_network

    if text == "none":
        return None
    if text is not None:
        try:
            chosen = ip_network(text)
        except ValueError as e:
            raise CliError(f"--prefix: {e}", "write it as 10.20.0.0/20", USAGE) from None
        from whalescale.protocol.inside import has_hosts

        if isinstance(chosen, IPv4Network) and has_hosts(chosen) and 8 <= chosen.prefixlen <= 30:
            return chosen
        fix = "take an IPv4 network of /8 to /30, such as 10.20.0.0/20, or none"
        raise CliError(f"--prefix {chosen} is not usable", fix, USAGE)
    routed = _routed()
    start = int.from_bytes(network_id[:2], "big")
    for n in range(1024):
        chosen = IPv4Network(((100 << 24) + (64 << 16) + ((start + n) % 1024 << 12), 20))
        if not any(chosen.overlaps(r) for r in routed):
            return chosen
    raise CliError("every part of 100.64.0.0/10 is in use here", "choose one with --prefix")


def _routed() -> list[IPv4Network]:
    """Networks that the host has routes to, the default route apart."""
    from ipaddress import IPv4Address, IPv4Network

    found = []
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        address, mask = (int(fields[at], 16).to_bytes(4, "little") for at in (1, 7))
        if any(mask):
            network = IPv4Network((address, str(IPv4Address(mask))), strict=False)
            found.append(network)
    return found


@app.command()
def create(
    name: Annotated[str, Argument(metavar="NETWORK", help="What to call it: hearth.")],
    member: Annotated[
        str | None, Option("--name", metavar="NAME", help="This machine's [host name].")
    ] = None,
    prefix: Annotated[
        str | None,
        Option("--prefix", metavar="NETWORK", help="Of IPv4 inside, or none [100.64/10's]."),
    ] = None,
    interface: Interface = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Make a network: this machine is its first member and admin; makes a configuration where there
    is none."""
    from whalescale import identity, keyfiles
    from whalescale.protocol.mesh import records
    from whalescale.protocol.mesh.network import Mesh

    if not records.is_name(name):
        fix = "take lower-case letters, digits and inner hyphens, such as hearth"
        raise CliError(f"{plain(name)!r} cannot be a network's name", fix, USAGE)
    own_name = _own_name(member)
    root = identity.Identity.generate(os.urandom)
    network_id = records.network_id(root.node_id)
    inside = _prefix(prefix, network_id)
    path = config_path(interface, config)
    if not path.exists():
        configure(path, interface_name(interface))
    loaded = load_config(interface, config)
    key_file = _key_file(loaded)
    no_network_yet(loaded.interface.name)
    if key_file.exists():
        raise CliError(f"{key_file} is there already", "move it away, it may be of use still")
    own = own_identity(loaded)
    mesh = Mesh(own, network_id, random=os.urandom, now=0)
    active = records.Status.ACTIVE
    first = next(iter(inside.hosts())) if inside is not None else None
    try:
        raws = [
            records.encode(
                records.NetworkRecord(network_id, root.node_id, 1, name, inside), root.seed
            ),
            records.encode(records.AdminRecord(network_id, own.node_id, 1, active), root.seed),
            records.encode(
                records.MemberRecord(
                    network_id, own.node_id, own.node_id, 1, active, own_name, True, first
                ),
                own.seed,
            ),
        ]
    except ValueError as e:
        fix = "take a private IPv4 network"
        raise CliError(f"--prefix {inside}: {e}", fix, USAGE) from None
    mesh.restore(raws, 0)
    assert mesh.is_admin
    keyfiles.write(key_file, identity.encode_seed(root.seed) + "\n", replace=False)
    keep(loaded.interface.name, mesh)
    entered = enter(loaded.interface.name)
    root.zero()
    own.zero()
    if json:
        print_json(
            {
                "version": VERSION,
                "running": entered.running,
                "network": name,
                "id": network_id.hex(),
                "name": own_name,
                "address": str(first) if first else None,
                "key_file": str(key_file),
            }
        )
        return
    print(f"network        {name} ({network_id.hex()})")
    print(f"this machine   {own_name}, {first or own.overlay_address}")
    print(f"network key    {key_file}")
    print("\nThe network key names admins, nothing else: keep a copy away from this machine")
    print(f"(`ws network export-key`). {entered.next_step}, then `ws invite NAME`")


@app.command()
def show(interface: Interface = None, json: Json = False) -> None:
    """Show the network: its name, addresses, anchors, and what it lacks."""
    view = ask(interface, op="view")
    network = view["network"]
    if json:
        print_json({"version": VERSION, **network, "members": len(view["members"])})
        return
    print(f"network    {plain(str(network['name']))} ({network['id']})")
    print(f"addresses  {network['prefix'] or 'IPv6 alone'}")
    print(f"members    {len(view['members'])}")
    print(f"anchors    {network['anchors_alive']} alive{_advice(network['advice'])}")
    print(f"here       {_own_anchor(network['anchor'], network['role'])}")
    for place in network["anchor"]["places"]:
        print(f"           {place['endpoint']}: {_PROOFS[place['proof'], place['tried']]}")
    for ticket in network["tickets"]:
        print(f"ticket     {plain(ticket['name'])}, good for {ticket['left_s'] // 60} more minutes")
    if not network["belongs"]:
        print("this machine was revoked; `ws network leave` forgets the network")
    if network["store"]:
        print(f"not kept   {network['store']}")


_PROOFS = {
    ("anybody", True): "anybody gets in",
    ("ports", True): "who was sent to gets in, by any port (whether others do, nobody could try)",
    ("none", True): "dialled by others, who did not get in",
    ("none", False): "not dialled by others yet",
}


def _own_anchor(anchor: dict[str, Any], role: str) -> str:
    wanted = anchor["wanted"]
    if role == "leaf":
        return "a leaf"
    if wanted == "no":
        return "no anchor"
    if not anchor["allowed"]:
        return "may be no anchor (invited with --no-anchor)"
    if anchor["is"]:
        return "an anchor"
    if anchor["stable_place"] is None:
        return "no anchor yet: no public place of it was reached unasked"
    hours, needed = anchor["stable_s"] // 3600, anchor["stable_needed_s"] // 3600
    return f"no anchor yet: at {anchor['stable_place']} for {hours} of {needed} h"


def _advice(advice: str | None) -> str:
    return {
        None: "",
        "none": "; `[network] anchor = true` on a machine that others always reach makes one",
        "last": "; a second one on another network would outlive it",
        "one network": "; all on one network, which may fail as one",
    }.get(advice, "")


@app.command("export-key")
def export_key(interface: Interface = None, config: ConfigPath = None, json: Json = False) -> None:
    """Print the network key, to be kept elsewhere."""
    from whalescale import keyfiles

    file = _key_file(load_config(interface, config))
    try:
        key = keyfiles.read(file)
    except keyfiles.SecretError as e:
        raise CliError(str(e), e.fix or "it is where `ws network create` was run") from None
    note_loose_output()
    if json:
        print_json({"version": VERSION, "key": key.strip()})
    else:
        print(key)


@app.command("import-key")
def import_key(interface: Interface = None, config: ConfigPath = None, json: Json = False) -> None:
    """Read the network key on standard input and keep it here: ws network import-key < FILE"""
    import sys

    from whalescale import identity, keyfiles

    loaded = load_config(interface, config)
    if sys.stdin.isatty():
        note("paste the network key, or run it as `ws network import-key < FILE`")
    try:
        text = sys.stdin.buffer.read(keyfiles.KEY_FILE_BYTES_MAX).decode("ascii")
        root = identity.Identity.from_seed(identity.decode_seed(text))
    except (UnicodeDecodeError, identity.IdentityError):
        fix = "give what `ws network export-key` printed"
        raise CliError("standard input: this is no network key", fix) from None
    _fits(root, ask(interface or loaded.interface.name, op="view"))
    file = _key_file(loaded)
    text = identity.encode_seed(root.seed) + "\n"
    root.zero()
    try:
        keyfiles.write(file, text, replace=False)
    except FileExistsError:
        if _other_key(file, text):
            fix = "move it away, it may be of use still"
            raise CliError(f"{file} is there already, with another key", fix) from None
    if json:
        print_json({"version": VERSION, "key_file": str(file)})
    else:
        print(file)


def _other_key(file: Path, text: str) -> bool:
    """Whether a key other than this one is kept there, or what is no key at all."""
    import hmac

    from whalescale import keyfiles

    try:
        return not hmac.compare_digest(keyfiles.read(file).strip().encode(), text.strip().encode())
    except keyfiles.SecretError:
        return True


def _fits(root: Identity, view: dict[str, Any]) -> None:
    """CliError: it is the key of another network."""
    from whalescale.protocol.mesh.records import network_id

    if network_id(root.node_id).hex() != view["network"]["id"]:
        fix = "take the one that `ws network create` wrote for this network"
        raise CliError(f"this is not the key of {plain(str(view['network']['name']))}", fix)


def _root(config: Config, view: dict[str, Any]) -> Identity:
    from whalescale import identity, keyfiles

    file = _key_file(config)
    try:
        root = identity.Identity.from_seed(identity.decode_seed(keyfiles.read(file)))
    except (keyfiles.SecretError, identity.IdentityError) as e:
        fix = "`ws network import-key` puts it there; or do this where the network was made"
        raise CliError(f"the network key is needed: {e}", fix) from None
    _fits(root, view)
    return root


def find_member(view: dict[str, Any], name: str) -> dict[str, Any]:
    for found in view["members"]:
        if found["name"] == name:
            return dict(found)
    raise CliError(f"no member is called {plain(name)}", "see `ws members`")


def _set_admin(interface: str | None, config: Path | None, name: str, *, active: bool) -> None:
    """Sign, and hand it to the agent. What a former admin signed is signed anew before."""
    from dataclasses import replace

    from whalescale import identity
    from whalescale.protocol.mesh import records

    loaded = load_config(interface, config)
    interface = loaded.interface.name
    view = ask(interface, op="view")
    member = find_member(view, name)
    if member["admin"] == active:
        what = "an admin already" if active else "no admin"
        raise CliError(f"{plain(name)} is {what}", "see `ws members`")
    root = _root(loaded, view)
    node_id = identity.decode_node_id(member["node_id"])
    network = records.network_id(root.node_id)
    raws = []
    if not active:
        for text in ask(interface, op="issued", node_id=node_id.hex())["records"]:
            record = records.decode(bytes.fromhex(text))
            assert isinstance(record, records.MemberRecord)
            generation = records.next_generation(record.generation)
            again = replace(record, issuer=records.ROOT, generation=generation)
            raws.append(records.encode(again, root.seed))
    status = records.Status.ACTIVE if active else records.Status.REVOKED
    generation = records.next_generation(member["admin_generation"])
    admin = records.AdminRecord(network, node_id, generation, status)
    raws.append(records.encode(admin, root.seed))
    root.zero()
    for at in range(0, len(raws), RECORDS_A_REQUEST):
        some = [raw.hex() for raw in raws[at : at + RECORDS_A_REQUEST]]
        ask(interface, op="record", records=some)


@admin_app.command("add")
def admin_add(
    name: MemberName, interface: Interface = None, config: ConfigPath = None, json: Json = False
) -> None:
    """Let a member invite and revoke."""
    _set_admin(interface, config, name, active=True)
    if json:
        print_json({"version": VERSION, "name": name, "admin": True})
    else:
        print(f"{plain(name)} is an admin now")


@admin_app.command("remove")
def admin_remove(
    name: MemberName, interface: Interface = None, config: ConfigPath = None, json: Json = False
) -> None:
    """Let a member invite and revoke no more. Whom it let in stays."""
    _set_admin(interface, config, name, active=False)
    if json:
        print_json({"version": VERSION, "name": name, "admin": False})
    else:
        print(f"{plain(name)} is no admin any more")


@app.command()
def leave(
    interface: Interface = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Forget the network on this machine. An admin revokes it elsewhere."""
    from whalescale.runtime.errors import AgentError
    from whalescale.runtime.network_store import has_network, open_store

    name = load_config(interface, config).interface.name
    if not has_network(name):
        raise CliError(f"{name} is in no network", "`ws join TICKET` joins one")
    try:
        open_store(name).close()
    except AgentError as e:
        raise CliError(e.message, e.fix) from None
    path = locations.store_file(name)
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if json:
        print_json({"version": VERSION, "left": name})
        return
    print("left; an admin should say `ws revoke` with this machine's name, so that all forget it")


def revoke(name: MemberName, interface: Interface = None, json: Json = False) -> None:
    """Cut a member off, everywhere and for ever."""
    told = ask(interface, op="revoke", name=name)
    if json:
        print_json({"version": VERSION, **told})
    else:
        print(f"{plain(told['revoked'])} is no member any more")


def rename(
    name: MemberName,
    new: Annotated[str, Argument(metavar="NEW", help="Its name from now on.")],
    interface: Interface = None,
    json: Json = False,
) -> None:
    """Give a member another name."""
    told = ask(interface, op="rename", name=name, new=new)
    if json:
        print_json({"version": VERSION, **told})
    else:
        print(f"{plain(name)} is {plain(told['name'])} now")
