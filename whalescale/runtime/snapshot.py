"""What the agent tells of itself: the `status` result, whose shape is whalescale/status.py."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import whalescale
from whalescale import identity as ident
from whalescale import status
from whalescale.config import Config
from whalescale.dataplane.engine import Backend, Cipher, Drop, Engine, Offload, WorkerStats
from whalescale.dataplane.multipath import PEER_FIELDS
from whalescale.dataplane.relay import InKernel
from whalescale.identity import PlainIdentity
from whalescale.keyfiles import encode_wireguard_key
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.mesh.guest import TRIES_LOST
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import PathStatus
from whalescale.protocol.places import Endpoint
from whalescale.protocol.postquantum import PostQuantumKeys
from whalescale.runtime import trouble
from whalescale.runtime.driver import Driver, to_endpoint
from whalescale.runtime.hoststate import Keeper
from whalescale.runtime.part import Part
from whalescale.runtime.relay import Relays, Way
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tunnel import Peer, Tunnel, format_endpoint
from whalescale.runtime.wg_device import WgDevice

_BACKENDS = {Backend.MMSG: "mmsg", Backend.URING: "io_uring", Backend.AUTO: ""}
_CIPHERS = {Cipher.IPSEC_MB: "ipsec-mb", Cipher.OPENSSL: "openssl", Cipher.AUTO: ""}


@dataclass(slots=True)
class Subject:
    """All that a snapshot looks at. `config` is replaced by a reload."""

    config: Config
    identity: PlainIdentity
    limits: Limits
    node: Node
    engine: Engine
    driver: Driver
    tunnel: Tunnel
    sockets: Sockets
    started_ns: int
    #: those that have something to say
    parts: Sequence[Part]
    device: WgDevice
    keeper: Keeper
    warnings: list[str] = field(default_factory=list)
    relays: Relays | None = None
    #: ours in the network of one's own machines
    network_addresses: Callable[[], Iterable[object]] = tuple


def take(s: Subject) -> dict[str, Any]:
    """The whole status; counters are read from shared memory, no worker is asked."""
    now = s.driver.now()
    return {
        "version": status.VERSION,
        "agent": _agent(s, now),
        "counters": _counters(s),
        "peers": [_peer(s, peer, now) for peer in s.tunnel.peers.values()],
        "events": list(s.tunnel.events),
        **{part.name: part.status() for part in s.parts if part.name},
    }


def resident_bytes() -> int:
    """Resident set size of this process (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _agent(s: Subject, now: int) -> dict[str, Any]:
    chosen = s.engine.chosen()
    interface = s.config.interface
    own = s.identity
    return {
        "version": whalescale.__version__,
        "pid": os.getpid(),
        "uptime_s": round((now - s.started_ns) / NS_PER_S, 3),
        "interface": interface.name,
        "config": str(s.config.path),
        "node_id": ident.encode_node_id(own.node_id) if own.node_id is not None else "",
        "fingerprint": ident.encode_fingerprint(own.fingerprint) if own.fingerprint else "",
        "wireguard_public_key": encode_wireguard_key(own.static_public),
        "overlay_address": str(own.overlay_address or ""),
        "listen_port": s.sockets.port,
        "addresses": [str(a) for a in (*interface.addresses, *s.network_addresses())],
        "mtu": interface.mtu,
        "fwmark": s.device.fwmark,
        "table": s.device.mark_held(),
        "anchor": s.config.network.anchor is True,
        "backend": _BACKENDS[chosen.backend],
        "cipher": _CIPHERS[chosen.cipher],
        "offloads": {
            str(o.name).lower(): not chosen.offloads_off & o for o in Offload if o is not Offload(0)
        },
        "workers": chosen.workers,
        "pin_cpus": s.config.dataplane.pin_cpus,
        "busy_poll_us": s.config.dataplane.busy_poll_us,
        "rss_bytes": resident_bytes(),
        # of all threads, the C workers too
        "cpu_seconds": round(time.process_time(), 3),
        "warnings": [
            *s.warnings,
            *s.keeper.problems,
            *(warning for part in s.parts for warning in part.warnings()),
        ],
    }


def _counters(s: Subject) -> dict[str, Any]:
    workers = [s.engine.worker_stats(w) for w in range(s.engine.chosen().workers)]
    drops: Counter[str] = Counter()
    for worker in workers:
        for reason, n in zip(Drop, worker.drops, strict=False):
            drops[reason.name.lower()] += n
    names = (
        "tx_packets",
        "tx_bytes",
        "rx_packets",
        "rx_bytes",
        "handshake_rx",
        "cookies_tx",
        "keepalives_tx",
        "keepalives_rx",
        "control_rx",
        "rx_batches",
        "tun_reads",
        "foreign_rx",
        "foreign_tx",
        "relayed",
        "relayed_bytes",
    )
    sums = {name: _sum(workers, name) for name in names}
    kernel = s.relays.in_kernel if s.relays is not None else InKernel()
    sums["relayed"] += kernel.datagrams
    sums["relayed_bytes"] += kernel.bytes
    drops["relay_source"] += kernel.elsewhere
    drops["relay_rate"] += kernel.over
    return {
        **sums,
        "relayed_kernel": kernel.datagrams,
        "relayed_kernel_bytes": kernel.bytes,
        "drops": dict(drops),
        "handshake_drops": dict(s.node.drops),
    }


def _sum(workers: Iterable[WorkerStats], name: str) -> int:
    return sum(getattr(w, name) for w in workers)


def _ago(now: int, then: int) -> float | None:
    """Seconds since; None: never."""
    return round(max(now - then, 0) / NS_PER_S, 3) if then else None


def _peer(s: Subject, peer: Peer, now: int) -> dict[str, Any]:
    stats = s.driver.stats(peer.handle)
    core = s.node.peer_status(peer.handle)
    spec = peer.spec
    created = core.session_created
    if created is not None and now - created < s.limits.reject_after_time:
        gone = seems_gone(core.handshake_attempts, stats.last_received, now)
        state = "handshaking" if gone else "up"
    elif peer.unreachable:
        state = "unreachable"
    elif core.handshake_attempts:
        state = "handshaking"
    else:
        state = "idle"
    fingerprint = core.fingerprint
    candidates = [str(e) for e in spec.endpoints]
    candidates += [
        text for e in peer.endpoints if (text := format_endpoint(e)) and text not in candidates
    ]
    at = Way(to_endpoint(stats.endpoint) or core.endpoint, to_endpoint(stats.local) or core.local)
    overlay = peer.overlay_network
    mode, keys = spec.post_quantum or s.tunnel.post_quantum, _post_quantum(s, peer)
    return {
        "name": spec.name,
        "id": ident.encode_node_id(peer.node_id) if peer.node_id else None,
        "fingerprint": ident.encode_fingerprint(fingerprint) if fingerprint else None,
        "wireguard_public_key": encode_wireguard_key(peer.static_public)
        if peer.static_public
        else None,
        "state": state,
        **_reach(s, peer, at),
        "candidates": candidates,
        "allowed_ips": [str(n) for n in spec.allowed_ips],
        "overlay_address": str(overlay.network_address) if overlay is not None else None,
        "last_handshake_s": _ago(now, peer.last_handshake_ns),
        "handshake_rtt_ms": round(core.round_trip / 1e6, 3) if core.round_trip else None,
        "last_received_s": _ago(now, stats.last_received),
        "last_sent_s": _ago(now, stats.last_sent),
        "tx_bytes": stats.tx_bytes,
        "rx_bytes": stats.rx_bytes,
        "tx_packets": stats.tx_packets,
        "wrong_sources": stats.wrong_sources,
        "rx_packets": stats.rx_packets,
        "staged": stats.staged,
        "persistent_keepalive": spec.persistent_keepalive,
        "preshared_key": any(spec.preshared_key),
        "pq": str(mode),
        "post_quantum": keys,
        "extended": core.extended,
        "multipath": _multipath(s, peer, now, stats.last_received),
        "trouble": trouble.held(peer, mode, keys) if state == "up" else trouble.of(peer, core, now),
    }


def seems_gone(attempts: int, received: int, now: int) -> bool:
    """There are keys, but nobody answers: so the network counts it as lost, too (TRIES_LOST)."""
    return attempts >= TRIES_LOST and now - received > TRIES_LOST * Limits().rekey_timeout


def _post_quantum(s: Subject, peer: Peer) -> str:
    try:
        return s.node.guest(PostQuantumKeys).state(peer.handle)
    except KeyError:  # a node without that part
        return ""


def _reach(s: Subject, peer: Peer, at: Way) -> dict[str, Any]:
    """The way that our data goes to it now, and by which anchors the peer may reach us."""
    relays: dict[str, Any] = {}
    if s.relays is not None:
        at, relayed_by = s.relays.reach(peer.handle, at)
        relays = {"relays": s.relays.anchors_of(peer.handle), "relayed_by": relayed_by}
    return {"endpoint": format_endpoint(at.remote), "local": format_endpoint(at.local), **relays}


def _multipath(s: Subject, peer: Peer, now: int, received: int) -> dict[str, Any] | None:
    paths = s.driver.path_status(peer.handle)
    counters = s.driver.multipath_counters(peer.handle)
    if counters is None and not paths:
        return None
    c: dict[str, int] = counters or dict.fromkeys(PEER_FIELDS, 0)

    def over(remote: Endpoint) -> bool:
        return s.relays is not None and s.relays.is_relayed(peer.handle, remote)

    return {
        "scheduling": bool(c["scheduling"]),
        "scheduler": str(s.driver.multipath.scheduler),
        "paths": [
            path(p, relayed=over(p.remote), heard_s=_ago(now, at))
            for p, at in heard(paths, received)
        ],
        "reordering": {name: c[name] for name in status.Reordering.__struct_fields__},
        "queue": {name: c[f"queue_{name}"] for name in status.Queue.__struct_fields__},
        **{name: c[name] for name in ("urgent", "again", "acks_tx", "acks_rx", "ack_refused")},
    }


def heard(paths: Sequence[PathStatus], received: int) -> Iterator[tuple[PathStatus, int]]:
    """Each, and when it was last heard. `received`: when something last came from the peer, which
    says by which path only where data goes by one."""
    alone = sum(p.usable for p in paths) == 1
    for p in paths:
        yield p, max(p.heard_at or 0, received if alone and p.usable else 0)


def path(p: PathStatus, *, relayed: bool = False, heard_s: float | None = None) -> dict[str, Any]:
    """The shape of `whalescale.status.Path`."""
    return {
        "id": p.id,
        "local": format_endpoint(p.local),
        "remote": format_endpoint(p.remote),
        "interface": p.interface,
        "state": str(p.state),
        "usable": p.usable,
        "rtt_ms": _ms(p.rtt_us),
        # The newest may be less than the least that the estimator has kept so far.
        "rtt_min_ms": _ms(_least(p.rtt_min_us, p.rtt_us)),
        "jitter_ms": _ms(p.jitter_us),
        "loss": round(p.loss, 4),
        "rate_bps": p.rate_bps,
        "acked_bps": p.acked_bps,
        "weight": round(p.weight, 4),
        "queue_ms": _ms(p.queue_us),
        "in_flight_bytes": p.in_flight_bytes,
        "max_packet": p.max_packet,
        "tx_bytes": p.tx_bytes,
        "rx_bytes": p.rx_bytes,
        "pin": p.pin._asdict(),
        "relayed": relayed,
        "heard_s": heard_s,
    }


def _least(kept_us: int | None, newest_us: int | None) -> int | None:
    return kept_us if not kept_us or not newest_us else min(kept_us, newest_us)


def _ms(us: int | None) -> float | None:
    return None if us is None else round(us / 1000, 3)
