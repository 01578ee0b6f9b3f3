"""From two configurations to what has to change, and what cannot without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whalescale import config as configuration
from whalescale.config import Config, ConfigError
from whalescale.identity import Identity
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import Network
from whalescale.runtime.tunnel import Change, Peer, PeerSpec, Tunnel, overlay_network


def as_agent_error(error: ConfigError) -> AgentError:
    return AgentError(error.message, error.fix, error.exit_code)


def specs(config: Config) -> list[PeerSpec]:
    """The file's peers, their preshared keys read. AgentError."""
    try:
        return [
            PeerSpec(
                name=p.name,
                static_public=p.wireguard_public_key,
                node_id=p.node_id,
                fingerprint=p.fingerprint,
                preshared_key=configuration.read_preshared_key(config, p),
                endpoints=p.endpoints,
                allowed_ips=p.allowed_ips,
                persistent_keepalive=p.persistent_keepalive,
            )
            for p in config.peers
        ]
    except ConfigError as e:
        raise as_agent_error(e) from None


def refuse(old: Config, new: Config, identity: Identity) -> None:
    """AgentError: a change that this agent cannot make while it runs."""
    if new.interface.name != old.interface.name:
        raise AgentError(
            f"interface.name changed from {old.interface.name} to {new.interface.name}",
            "restart the agent: ws down, ws up",
        )
    if new.dataplane != old.dataplane:
        raise AgentError("[dataplane] changed", "restart the agent: ws down, ws up")
    try:
        seed = configuration.read_private_key(new)
    except ConfigError as e:
        raise as_agent_error(e) from None
    theirs = Identity.from_seed(seed)
    changed = theirs.node_id != identity.node_id
    theirs.zero()
    seed[:] = bytes(len(seed))
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


def plan(tunnel: Tunnel, new: Iterable[PeerSpec]) -> Plan:
    """What turns the tunnel's peers into the file's; peers added with `wg set` stay."""
    add: list[PeerSpec] = []
    update: list[tuple[Peer, PeerSpec]] = []
    kept: set[Peer] = set()
    networks: set[Network] = set()
    index = tunnel.index()
    for spec in new:
        peer = next((index[form] for form in spec.forms() if form in index), None)
        node_id = spec.node_id or (peer.node_id if peer is not None else None)
        networks |= set(spec.allowed_ips)
        if node_id is not None:
            networks.add(overlay_network(node_id))
        if peer is None:
            add.append(spec)
            continue
        kept.add(peer)
        if peer.spec != spec:
            update.append((peer, spec))
    gone = [p for p in tunnel.peers.values() if p.spec.configured and p not in kept]
    return Plan(Change(add, update, gone), networks)


def changes(old: Config, new: Config, change: Change) -> list[str]:
    """What changes, in words, for `ws reload`."""
    a, b = old.interface, new.interface
    fields = ("listen_port", "addresses", "mtu", "anchor", "fwmark", "table")
    words = [f"interface.{f} changed" for f in fields if getattr(a, f) != getattr(b, f)]
    words += [f"peer {s.name} added" for s in change.add]
    words += [f"peer {s.name} changed" for _, s in change.update]
    words += [f"peer {p.spec.name} removed" for p in change.remove]
    return words
