"""The way into a network: `ws invite` prints a ticket, `ws join` takes it."""

from __future__ import annotations

from typing import Annotated

from whalescale.cli.common import (
    ConfigPath,
    Interface,
    Json,
    config_path,
    interface_name,
    load_config,
    note,
    print_json,
)
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.cli.network import (
    VERSION,
    ask,
    configure,
    enter,
    keep,
    no_network_yet,
    own_identity,
)
from whalescale.cli.options import Argument, Option


def invite(
    name: Annotated[str, Argument(metavar="NAME", help="What the new machine is called.")],
    route: Annotated[
        list[str] | None,
        Option("--route", metavar="NETWORK", help="A network behind it; repeatable."),
    ] = None,
    hours: Annotated[
        float, Option("--hours", min=0.02, max=168, help="How long the ticket is good.")
    ] = 1.0,
    anchor: Annotated[
        bool, Option("--anchor/--no-anchor", help="Whether others may count on it.")
    ] = True,
    qr_code: Annotated[bool, Option("--qr", help="Show it as a QR code as well.")] = False,
    withdraw: Annotated[
        bool, Option("--withdraw", help="Call back the ticket that is out for NAME.")
    ] = False,
    interface: Interface = None,
    json: Json = False,
) -> None:
    """Print a ticket that lets one machine into the network."""
    from whalescale.cli import qr

    if withdraw:
        told = ask(interface, op="withdraw", name=name)
        if json:
            print_json({"version": VERSION, **told})
        else:
            print(f"the ticket for {plain(name)} lets nobody in any more")
        return
    if qr_code:
        qr.load()
    made = ask(
        interface,
        op="invite",
        name=name,
        routes=route or [],
        may_anchor=anchor,
        lifetime_s=int(hours * 3600),
    )
    if json:
        print_json({"version": VERSION, **made})
        return
    print(made["ticket"])
    if qr_code:
        qr.show(made["ticket"].upper())  # capitals take fewer modules
    note(f"on {plain(name)}, within {hours:g} h: `sudo ws join` and this; it lets in one machine")


def join(
    ticket: Annotated[str, Argument(metavar="TICKET", help="What `ws invite` printed.")],
    interface: Interface = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Join a network with a ticket; makes a configuration where there is none."""
    from whalescale import config as configuration
    from whalescale.protocol.mesh.invite import TicketError, decode_ticket
    from whalescale.runtime import joining

    try:
        read = decode_ticket(ticket)
    except TicketError as e:
        raise CliError(str(e), "", USAGE) from None
    path = config_path(interface, config)
    if not path.exists():
        configure(path, interface_name(interface))
    loaded = load_config(interface, config) if config is not None else configuration.load(path)
    name = loaded.interface.name
    no_network_yet(name)
    own = own_identity(loaded)
    try:
        mesh = joining.join(read, own)
    except joining.JoinError as e:
        raise CliError(e.message, e.fix) from None
    keep(name, mesh)
    entered = enter(name)
    record, network = mesh.membership.active(own.node_id), mesh.membership.network
    own.zero()
    assert record is not None
    assert network is not None
    if json:
        address = str(record.address) if record.address else None
        print_json(
            {
                "version": VERSION,
                "network": network.name,
                "name": record.name,
                "address": address,
                "running": entered.running,
            }
        )
        return
    print(f"you are {record.name}.{network.name}, {record.address or own.overlay_address}")
    print(entered.next_step)
