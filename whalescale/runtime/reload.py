"""From two configurations to what has to change, and what cannot without a restart."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from whalescale import config_keys
from whalescale.config import IPV6_MTU_MIN, Config, ConfigError
from whalescale.dataplane.engine import Engine
from whalescale.identity import PlainIdentity
from whalescale.protocol.paths.types import MultipathSettings, Scheduler
from whalescale.protocol.types import PostQuantum
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import Interface, Netlink, Network, Route
from whalescale.runtime.routes import Routes
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tunnel import Change, Origin, Peer, PeerSpec, Tunnel, overlay_network
from whalescale.runtime.wg_device import WgDevice

log = logging.getLogger(__name__)

EVERYWHERE: Final = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


def as_agent_error(error: ConfigError) -> AgentError:
    return AgentError(error.message, error.fix, error.exit_code)


def tunnel_networks(config: Config, peer: str, allowed: tuple[Network, ...]) -> tuple[Network, ...]:
    """What goes to a peer: all there is, if it is the exit; else nothing of the kind that comes
    from a record alone, see runtime/network.py."""
    if peer != config.exit.use:
        return allowed
    return (*allowed, *(n for n in EVERYWHERE if n not in allowed))


def specs(config: Config) -> list[PeerSpec]:
    """The file's peers, their preshared keys read. AgentError."""
    try:
        return [
            PeerSpec(
                name=p.name,
                static_public=p.wireguard_public_key,
                node_id=p.node_id,
                fingerprint=p.fingerprint,
                preshared_key=config_keys.read_preshared_key(config, p),
                endpoints=p.endpoints,
                allowed_ips=tunnel_networks(config, p.name, p.allowed_ips),
                persistent_keepalive=p.persistent_keepalive,
                post_quantum=PostQuantum(p.pq) if p.pq is not None else None,
            )
            for p in config.peers
        ]
    except ConfigError as e:
        raise as_agent_error(e) from None


def multipath(config: Config) -> MultipathSettings:
    """The file's [multipath], as a peer's path manager takes it."""
    c = config.multipath
    return MultipathSettings(
        enabled=c.enabled,
        scheduler=Scheduler(c.scheduler),
        reorder_depth=None if c.reorder_depth == "adaptive" else c.reorder_depth,
        deliver_late=c.late == "deliver",
        repair=None if c.repair == "auto" else c.repair,
        align=c.align,
        bbr=None if c.bbr == "auto" else c.bbr,
        relay_also=config.relay.use == "also",
    )


def tunnel_mtu(configured: int, limit: int | None) -> int:
    """What the interface is given: at most what is configured and what all paths take (`limit`).

    Never less than IPv6 needs, unless that little is configured: the kernel would take it down.
    """
    if limit is None:
        return configured
    return max(min(configured, limit), min(configured, IPV6_MTU_MIN))


def refuse(old: Config, new: Config, identity: PlainIdentity, longest_mtu: int) -> None:
    """AgentError: a change that this agent cannot make while it runs.

    `longest_mtu`: the most that the data plane has made room for.
    """
    if new.interface.name != old.interface.name:
        raise AgentError(
            f"interface.name changed from {old.interface.name} to {new.interface.name}",
            "restart the agent: ws down, ws up",
        )
    if new.interface.mtu > longest_mtu:
        raise AgentError(
            f"interface.mtu changed to {new.interface.mtu}; this agent has room for packets of "
            f"{longest_mtu} bytes",
            f"write {longest_mtu} at most, or restart the agent: ws down, ws up",
        )
    if new.network.names != old.network.names:
        raise AgentError("network.names changed", "restart the agent: ws down, ws up")
    if new.dataplane != old.dataplane:
        raise AgentError("[dataplane] changed", "restart the agent: ws down, ws up")
    if new.metrics.listen not in (old.metrics.listen, ""):
        # The sandbox lets no new TCP and UNIX sockets be bound.
        raise AgentError("[metrics] listen changed", "restart the agent: ws down, ws up")
    try:
        theirs = config_keys.read_identity(new)
    except ConfigError as e:
        raise as_agent_error(e) from None
    changed = (theirs.node_id, theirs.static_public) != (identity.node_id, identity.static_public)
    theirs.zero()
    if changed:
        raise AgentError(
            "the private key changed: this would be another node",
            "restart the agent: ws down, ws up",
        )


@dataclass(frozen=True, slots=True)
class Plan:
    change: Change
    #: what the routes shall hold: allowed IPs, and overlay addresses where the node ID is known
    networks: set[Network]
    #: where peers may be: addresses without a zone
    endpoints: set[str]


def plan(tunnel: Tunnel, new: Iterable[PeerSpec]) -> Plan:
    """What turns the tunnel's peers of the file into the file's; those of others stay."""
    add: list[PeerSpec] = []
    update: list[tuple[Peer, PeerSpec]] = []
    kept: set[Peer] = set()
    networks: set[Network] = set()
    endpoints = tunnel.endpoint_addresses()
    index = tunnel.index()
    for spec in new:
        peer = next((index[form] for form in spec.forms() if form in index), None)
        node_id = spec.node_id or (peer.node_id if peer is not None else None)
        networks |= set(spec.allowed_ips)
        endpoints |= {e.host.partition("%")[0] for e in spec.endpoints if e.numeric}
        if node_id is not None:
            networks.add(overlay_network(node_id))
        if peer is None:
            add.append(spec)
            continue
        kept.add(peer)
        if peer.spec != spec:
            update.append((peer, spec))
    gone = [p for p in tunnel.peers.values() if p.spec.origin is Origin.FILE and p not in kept]
    return Plan(Change(add, update, gone), networks, endpoints)


def changes(old: Config, new: Config, change: Change) -> list[str]:
    """What changes, in words, for `ws reload`."""
    a, b = old.interface, new.interface
    fields = ("listen_port", "addresses", "mtu", "fwmark", "table", "pq")
    words = [f"interface.{f} changed" for f in fields if getattr(a, f) != getattr(b, f)]
    words += [
        f"multipath.{f} changed"
        for f in new.multipath.__struct_fields__
        if getattr(old.multipath, f) != getattr(new.multipath, f)
    ]
    words += [
        f"network.{f} changed"
        for f in new.network.__struct_fields__
        if getattr(old.network, f) != getattr(new.network, f)
    ]
    words += ["metrics changed"] * (old.metrics != new.metrics)
    words += ["nat.portmap changed"] * (old.nat != new.nat)
    words += ["relay changed"] * (old.relay != new.relay)
    words += ["forward changed"] * (old.forward != new.forward)
    words += ["exit changed"] * (old.exit != new.exit)
    words += [f"peer {s.name} added" for s in change.add]
    words += [f"peer {s.name} changed" for _, s in change.update]
    words += [f"peer {p.spec.name} removed" for p in change.remove]
    return words


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reload changes."""

    netlink: Netlink
    ifindex: int
    engine: Engine
    sockets: Sockets
    routes: Routes
    device: WgDevice
    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class Wanted:
    """A configuration, and what follows from it on this machine."""

    config: Config
    addresses: Sequence[Interface]
    fwmark: int
    routes: set[Route]


async def carry_out(parts: Parts, old: Wanted, new: Wanted, change: Change) -> None:
    """From `old` to `new`, or AgentError and all as it was. Nobody else may change anything
    meanwhile.

    What can fail comes first, and each step says how it is undone. What only takes old addresses
    away comes last: one that cannot be removed is a line in the log.
    """
    undo: list[Callable[[], Awaitable[Any]]] = []
    try:
        await _interface(parts, old, new, undo)
        try:
            parts.tunnel.commit(change)
        except ValueError as e:
            raise AgentError(f"{new.config.path}: {e}", "check the peers' keys") from None
    except BaseException as e:
        whole = await _put_back(undo)
        if isinstance(e, OSError):
            fix = "nothing was changed" if whole else "`ws logs` tells what could not be put back"
            raise AgentError(e.strerror or str(e), fix) from None
        raise
    parts.tunnel.set_post_quantum(PostQuantum(new.config.interface.pq))  # cannot fail, nor this:
    parts.tunnel.set_multipath(multipath(new.config), new.config.interface.mtu)
    await _leave_addresses(parts, old, new)


async def _interface(
    parts: Parts, old: Wanted, new: Wanted, undo: list[Callable[[], Awaitable[Any]]]
) -> None:
    netlink, ifindex = parts.netlink, parts.ifindex

    async def port(number: int) -> None:
        parts.sockets.reopen(number)

    async def fwmark(number: int) -> None:
        parts.device.set_fwmark(number)

    async def mtu(number: int) -> None:
        await netlink.set_mtu(ifindex, number)
        parts.engine.set_mtu(number)

    a, b = old.config.interface, new.config.interface
    if a.listen_port != b.listen_port:
        before = parts.sockets.port
        await port(b.listen_port)
        undo.append(lambda: port(before))
    link = await netlink.link_state(ifindex)
    without_ipv6 = link is not None and not link.ipv6
    for address in (x for x in new.addresses if x not in old.addresses):
        if address.version == 6 and without_ipv6:
            continue
        await netlink.add_address(ifindex, address)
        undo.append(lambda address=address: netlink.remove_address(ifindex, address))  # type: ignore[misc]
    undo.append(lambda: fwmark(old.fwmark))
    await fwmark(new.fwmark)
    await parts.routes.apply(new.routes)
    undo.append(lambda: parts.routes.apply(old.routes))
    if a.mtu != b.mtu:
        in_force = parts.engine.mtu
        undo.append(lambda: mtu(in_force))
        await mtu(tunnel_mtu(b.mtu, parts.tunnel.driver.paths.limit))


async def _put_back(undo: Sequence[Callable[[], Awaitable[Any]]]) -> bool:
    """The last first. False: something could not be put back."""
    whole = True
    for step in reversed(undo):
        try:
            await step()
        except (AgentError, OSError) as e:
            whole = False
            log.error("reload: not put back: %s", e)
    return whole


async def _leave_addresses(parts: Parts, old: Wanted, new: Wanted) -> None:
    gone = [a for a in old.addresses if a not in new.addresses]
    steps: list[tuple[Any, Interface]] = [(parts.netlink.remove_address, a) for a in gone]
    if gone:
        # Removing an IPv4 address takes the others of its network along.
        steps += [(parts.netlink.add_address, a) for a in new.addresses if a.version == 4]
    for step, address in steps:
        try:
            await step(parts.ifindex, address)
        except OSError as e:
            log.error("reload: %s", e.strerror or e)
