"""What Prometheus scrapes: the text of one agent, made from its status (whalescale/status.py).

Names, units and types as Prometheus wants them: base units (seconds, bytes, ratios), counters end
in _total, and what is counted from the agent's start is a counter. Label values come from sets
that are bounded: a peer's name, the number of a path (at most 8 a peer) with its interface, and
reasons and states that are listed in the code. Of more than `peers_max` peers only sums are told,
of more than PATHS_MAX paths nothing but their number: a sample takes prometheus_client, which
writes the text, some 7 us.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from whalescale import status

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: 35 ms of a scrape, which may take 100
PATHS_MAX: Final = 400
PREFIX: Final = "whalescale_"
STATES: Final = get_args(status.State)
#: a path in one of these carries data, or could
_UP: Final = ("healthy", "degraded")


#: {"peer": "berlin"}
Labels = dict[str, str]
Value = tuple[Labels, float]


class Family(NamedTuple):
    """`name`: without the prefix."""

    name: str
    kind: str
    help: str

    def told(self, values: Iterable[Value]) -> Metric:
        from prometheus_client.metrics_core import Metric

        name = self.name if self.name.startswith("process_") else PREFIX + self.name
        # The library's name of a counter is without _total, its sample's has it.
        metric = Metric(name.removesuffix("_total"), self.help, self.kind)
        for labels, value in values:
            metric.add_sample(name, labels, value)
        return metric


def counter(name: str, help: str) -> Family:
    return Family(f"{name}_total", "counter", help)


def gauge(name: str, help: str) -> Family:
    return Family(name, "gauge", help)


INFO: Final = gauge("agent_info", "Always 1; the labels say what runs.")
#: by the key of status.Counters
TOTALS: Final = {
    "tx_packets": counter("sent_packets", "Data packets sent to peers."),
    "tx_bytes": counter("sent_bytes", "UDP payload sent to peers."),
    "rx_packets": counter("received_packets", "Data packets received from peers."),
    "rx_bytes": counter("received_bytes", "UDP payload received from peers."),
    "handshake_rx": counter("handshake_messages_received", "Handshake messages from anyone."),
    "cookies_tx": counter("cookie_replies_sent", "Who had to prove its address under load."),
    "keepalives_tx": counter("keepalives_sent", "Empty packets sent."),
    "keepalives_rx": counter("keepalives_received", "Empty packets received."),
    "foreign_rx": counter("handed_over_received", "Datagrams that came to another worker."),
    "foreign_tx": counter("handed_over_sent", "Packets that came to another worker."),
    "relayed": counter("relayed_datagrams", "Datagrams between others, sent on."),
    "relayed_bytes": counter("relayed_bytes", "UDP payload between others, sent on."),
    "relayed_kernel": counter("relayed_kernel_datagrams", "Of those, sent on by the kernel."),
    "relayed_kernel_bytes": counter("relayed_kernel_bytes", "Their UDP payload."),
}
DROPPED: Final = counter("dropped_packets", "Packets and datagrams dropped by the data plane.")
REFUSED: Final = counter("refused_messages", "Handshake and control messages refused.")
SHIELD: Final = counter("shield_datagrams", "Datagrams that the eBPF shield judged.")
PEERS: Final = gauge("peers", "Peers of the tunnel by state.")
UNTOLD: Final = gauge("peers_untold", "Peers without series of their own ([metrics] peers_max).")
PATHS_UNTOLD: Final = gauge("paths_untold", "Paths without series of their own: too many.")

#: by the key of status.Peer
PEER: Final = {
    "tx_bytes": counter("peer_sent_bytes", "UDP payload sent to the peer."),
    "rx_bytes": counter("peer_received_bytes", "UDP payload received from the peer."),
    "tx_packets": counter("peer_sent_packets", "Data packets sent to the peer."),
    "rx_packets": counter("peer_received_packets", "Data packets received from the peer."),
}
PEER_UP: Final = gauge("peer_up", "Whether there is a session.")
PEER_HANDSHAKE: Final = gauge(
    "peer_last_handshake_timestamp_seconds", "When the last session began, 0: never."
)
PEER_HANDSHAKE_RTT: Final = gauge(
    "peer_handshake_rtt_seconds", "Round trip of the last handshake that this side began."
)
PEER_STAGED: Final = gauge("peer_staged_packets", "Packets that wait for a session.")
#: of a peer that speaks of paths, by the key of status.Queue and status.Reordering
QUEUE: Final = {
    "packets": gauge("peer_queue_packets", "Packets in front of all paths to the peer."),
    "bytes": gauge("peer_queue_bytes", "Bytes in front of all paths to the peer."),
    "drops": counter("peer_queue_dropped_packets", "Packets dropped as that queue was full."),
}
REORDERING: Final = {
    "depth": gauge("peer_reorder_waiting_packets", "Packets that wait for an earlier one."),
    "delivered": counter("peer_reorder_delivered_packets", "Packets that left the buffer."),
    "held": counter("peer_reorder_held_packets", "Packets that had to wait for an earlier one."),
    "gaps": counter("peer_reorder_gaps", "Times that a packet was missing."),
    "gaps_filled": counter("peer_reorder_gaps_filled", "Gaps that were filled in time."),
    "skipped": counter("peer_reorder_skipped_packets", "Packets given up."),
    "late": counter("peer_reorder_late_packets", "Packets that came after they were given up."),
    "duplicates": counter("peer_reorder_duplicate_packets", "Second copies."),
}
REORDER_WAIT: Final = counter(
    "peer_reorder_wait_seconds", "Sum of what held packets waited; see held packets."
)
AGAIN: Final = counter("peer_repaired_packets", "Second copies sent of what was lost.")

PATH_UP: Final = gauge("path_up", "Whether the path worked when it was last heard.")
PATH_HEARD: Final = gauge("path_last_heard_timestamp_seconds", "When that was, 0: never.")
PATH_USED: Final = gauge("path_used", "Whether data goes over it; a spare waits.")
#: by the key of status.Path, with what it is multiplied by
PATH: Final = {
    "rtt_ms": (gauge("path_rtt_seconds", "Round-trip time."), 1e-3),
    "jitter_ms": (gauge("path_jitter_seconds", "Variation of the round-trip time."), 1e-3),
    "loss": (gauge("path_loss_ratio", "Share of datagrams lost over about a second."), 1),
    "rate_bps": (
        gauge("path_capacity_bytes_per_second", "What the path is thought to carry."),
        1 / 8,
    ),
    "acked_bps": (gauge("path_acked_bytes_per_second", "Acknowledged over a second."), 1 / 8),
    "weight": (gauge("path_weight_ratio", "Share of the peer's traffic that it gets."), 1),
    "queue_ms": (gauge("path_queue_seconds", "How long packets queue on it."), 1e-3),
    "in_flight_bytes": (gauge("path_in_flight_bytes", "Sent and not acknowledged."), 1),
    "tx_bytes": (counter("path_sent_bytes", "UDP payload sent over the path."), 1),
    "rx_bytes": (counter("path_received_bytes", "UDP payload received over the path."), 1),
}
#: no names of members: a network may have thousands, and its records are signed by admins alone
MEMBERS: Final = gauge("members", "Members of the network, by what this one has with them.")
ANCHORS: Final = gauge("anchors", "Anchors of the network, this machine included.")
ANCHORS_ALIVE: Final = gauge("anchors_alive", "Anchors that answer, this machine included.")
NETWORK_WARNINGS: Final = gauge("network_warnings", "What a person should do something about.")
NAT: Final = gauge("nat_mappings", "Local addresses by the kind of NAT that was seen before them.")
#: by the key of status.Nat
NAT_SEARCH: Final = {
    "looking_for": gauge("nat_looking_for", "Peers that a direct way is being looked for to."),
    "met": counter("nat_direct_ways_found", "Direct ways found after a call."),
    "rounds": counter("nat_rounds", "Rounds of trying places."),
    "held_back": counter("nat_held_back_datagrams", "Not sent: too much was tried already."),
}
GATEWAYS: Final = gauge("portmap_gateways", "Routers that were asked to map the port, by state.")
#: by the key of status.Relay
RELAY: Final = {
    "bindings": gauge("relay_bindings", "Receiver indices that are relayed to."),
    "members": gauge("relay_members", "Members that have them."),
}
RELAY_DROPPED: Final = counter("relay_dropped_datagrams", "Not sent on between others, by reason.")
GATEWAY_STATES: Final = ("asking", "mapped", "silent", "refused", "ended")
NAT_KINDS: Final = (
    *("none", "endpoint-independent", "by destination", "several addresses", "unknown"),
)

PROCESS_CPU: Final = counter("process_cpu_seconds", "User and system time of all threads.")
PROCESS_MEMORY: Final = gauge("process_resident_memory_bytes", "Resident set.")
PROCESS_START: Final = gauge("process_start_time_seconds", "When the agent started.")


class _Status:
    """What prometheus_client asks for its families."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families


def text(told: dict[str, Any], peers_max: int, wall_s: float | None = None) -> str:
    """`told`: a status; `wall_s`: when it was taken, UNIX seconds."""
    # Only agents that are asked for metrics pay for the import.
    from prometheus_client.exposition import generate_latest

    wall_s = time.time() if wall_s is None else wall_s
    registry: Any = _Status(_families(told, peers_max, wall_s))
    return generate_latest(registry).decode()


def _families(told: dict[str, Any], peers_max: int, wall_s: float) -> Iterator[Metric]:
    agent, counters = told["agent"], told["counters"]
    names = {k: str(agent[k]) for k in ("interface", "version", "backend", "cipher")}
    yield INFO.told([(names, 1)])
    yield PROCESS_CPU.told([({}, agent["cpu_seconds"])])
    yield PROCESS_MEMORY.told([({}, agent["rss_bytes"])])
    yield PROCESS_START.told([({}, round(wall_s - agent["uptime_s"], 1))])
    for key, family in TOTALS.items():
        yield family.told([({}, counters[key])])
    yield DROPPED.told(_by("reason", counters["drops"]))
    yield REFUSED.told(_by("reason", counters["handshake_drops"]))
    yield SHIELD.told(_by("verdict", told["bpf"].get("shield", {})))
    yield from _of_network(told)
    peers: Sequence[dict[str, Any]] = told["peers"]
    states = Counter(p["state"] for p in peers)
    yield PEERS.told([({"state": s}, states[s]) for s in STATES])
    few = peers if len(peers) <= peers_max else ()
    yield UNTOLD.told([({}, len(peers) - len(few))])
    yield from _of_peers([({"peer": p["name"]}, p) for p in few], wall_s)


def _of_network(told: dict[str, Any]) -> Iterator[Metric]:
    network = told.get("network", {})
    members: Sequence[dict[str, Any]] = network.get("members", ())
    there = Counter(_with(m) for m in members)
    yield MEMBERS.told([({"state": s}, there[s]) for s in ("here", "session", "relayed", "none")])
    anchors = sum(m["anchor"] for m in members)
    yield ANCHORS.told([({}, anchors)])
    yield ANCHORS_ALIVE.told([({}, network.get("anchors_alive", 0))])
    yield NETWORK_WARNINGS.told([({}, len(network.get("warnings", ())))])
    nat = told.get("nat", {})
    kinds = Counter(m["kind"] for m in nat.get("mappings", ()))
    yield NAT.told([({"kind": k}, kinds[k]) for k in NAT_KINDS])
    for key, family in NAT_SEARCH.items():
        yield family.told([({}, nat.get(key, 0))])
    gateways = Counter(g["state"] for g in told.get("portmap", {}).get("gateways", ()))
    yield GATEWAYS.told([({"state": s}, gateways[s]) for s in GATEWAY_STATES])
    relay = told.get("relay", {})
    for key, family in RELAY.items():
        yield family.told([({}, relay.get(key, 0))])
    pairs: Sequence[dict[str, Any]] = relay.get("pairs", ())
    dropped = {reason: sum(p[reason] for p in pairs) for reason in ("elsewhere", "over")}
    dropped |= {reason: relay.get("kernel", {}).get(reason, 0) for reason in ("lost", "hops")}
    yield RELAY_DROPPED.told(_by("reason", dropped))


def _with(member: dict[str, Any]) -> str:
    if member["here"]:
        return "here"
    if not member["session"]:
        return "none"
    return "relayed" if member["reached"] == "relayed" else "session"


def _of_peers(peers: Sequence[tuple[Labels, dict[str, Any]]], wall_s: float) -> Iterator[Metric]:
    yield PEER_UP.told((n, int(p["state"] == "up")) for n, p in peers)
    yield PEER_HANDSHAKE.told(
        (n, 0 if (ago := p["last_handshake_s"]) is None else round(wall_s - ago, 1))
        for n, p in peers
    )
    yield PEER_HANDSHAKE_RTT.told(
        (n, round(rtt * 1e-3, 6)) for n, p in peers if (rtt := p["handshake_rtt_ms"]) is not None
    )
    yield PEER_STAGED.told((n, p["staged"]) for n, p in peers)
    for key, family in PEER.items():
        yield family.told((n, p[key]) for n, p in peers)
    bonds = [(n, m) for n, p in peers if (m := p["multipath"]) is not None]
    for part, families in (("queue", QUEUE), ("reordering", REORDERING)):
        for key, family in families.items():
            yield family.told((n, m[part][key]) for n, m in bonds)
    yield REORDER_WAIT.told((n, round(m["reordering"]["wait_us"] * 1e-6, 6)) for n, m in bonds)
    yield AGAIN.told((n, m["again"]) for n, m in bonds)
    paths = [
        ({**n, "path": str(p["id"]), "interface": p["interface"]}, p)
        for n, m in bonds
        for p in m["paths"]
    ]
    few = paths if len(paths) <= PATHS_MAX else []
    yield PATHS_UNTOLD.told([({}, len(paths) - len(few))])
    paths = few
    yield PATH_UP.told((n, int(p["state"] in _UP)) for n, p in paths)
    yield PATH_HEARD.told(
        (n, 0 if (ago := p["heard_s"]) is None else round(wall_s - ago, 1)) for n, p in paths
    )
    yield PATH_USED.told((n, int(p["usable"])) for n, p in paths)
    for key, (family, scale) in PATH.items():
        yield family.told(
            (n, value if scale == 1 else round(value * scale, 6))
            for n, p in paths
            if (value := p[key]) is not None
        )


def _by(label: str, counts: dict[str, int]) -> list[Value]:
    return [({label: name}, n) for name, n in counts.items()]
