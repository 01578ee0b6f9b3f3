"""What has to be reached (must) and what is wanted (aim), and what each metric is called."""

from __future__ import annotations

from tools.bench.groups import EVERY
from tools.bench.model import Metric, Target

_METRICS = (
    Metric("gbps", "throughput", "Gbit/s"),
    Metric("cpu_s_per_gb", "CPU of the whole machine", "s/GB", "less"),
    Metric("retransmits", "TCP segments sent again", "", "less", 0),
    Metric("pps", "datagrams received", "/s", "more", 0),
    Metric("sent_pps", "datagrams sent", "/s", "more", 0),
    Metric("lost_percent", "datagrams lost", "%", "less", 1),
    Metric("rtt_ms", "round trip, median", "ms", "less", 3),
    Metric("rtt_p99_ms", "round trip, 99 of 100", "ms", "less", 3),
    Metric("rss_mb", "resident memory after full load", "MB", "less", 1),
    Metric("rss_idle_mb", "resident memory before it", "MB", "less", 1),
    Metric("kb_per_peer", "resident memory of an idle peer", "KB", "less", 1),
    Metric("storm_s", "until every peer is connected", "s", "less", 2),
    Metric("storm_complete", "peers connected", "", "more", 0),
    Metric("storm_driver_cpu_s", "CPU of the load driver itself", "s", "less", 2),
    Metric("cost_percent", "cost of the flood to the flow", "%", "less", 1),
    Metric("cost_raw_percent", "the same, the generator's CPU included", "%", "less", 1),
    Metric("agent_s_per_gb", "CPU of this agent", "s/GB", "less"),
    Metric("foreign_rx_percent", "runs of datagrams that came to a foreign worker", "%", "less", 1),
    Metric("foreign_tx_percent", "packets read by a foreign worker", "%", "less", 1),
    Metric("ns_per_packet", "a packet of 1,420 bytes", "ns", "less", 0),
    Metric("s_per_gb", "the same as CPU time", "s/GB", "less", 3),
    *(Metric(f"share_{g.key}", g.title, "%", "less", 1) for g in EVERY),
    Metric("perf_samples", "samples", "", "more", 0),
    Metric("flood_pps", "forged datagrams sent", "/s", "more", 0),
)
METRICS = {m.key: m for m in _METRICS}

WS, NEW, OLD, BARE = "whalescale", "wireguard-go", "wireguard-go-debian", "bare"
TO_WS, FROM_WS = "vanilla-receives", "vanilla-sends"

#: less is not the flood that the figure is about
FULL_FLOOD = ("flood_pps", 180_000.0)

TARGETS = (
    Target("tcp-newest", "one TCP flow / wireguard-go newest", "tcp1", "gbps", WS, NEW, 2.0, 3.0,
           "more"),
    Target("tcp-debian", "one TCP flow / wireguard-go of Debian", "tcp1", "gbps", WS, OLD, 9.0,
           14.0, "more"),
    Target("tcp-bare", "one TCP flow / no tunnel", "tcp1", "gbps", WS, BARE, 0.28, 0.42, "more"),
    Target("vanilla-sends", "vanilla mode, whalescale sends / wireguard-go on both", "tcp1",
           "gbps", FROM_WS, NEW, 1.2, 1.5, "more"),
    Target("vanilla-receives", "vanilla mode, whalescale receives / wireguard-go on both", "tcp1",
           "gbps", TO_WS, NEW, 1.2, 1.5, "more"),
    Target("pps64", "64-byte UDP received, sent in runs / wireguard-go newest", "pps64", "pps", WS,
           NEW, 4.0, 8.0, "more"),
    Target("pps64-single", "64-byte UDP received, sent singly / wireguard-go newest",
           "pps64-single", "pps", WS, NEW, 4.0, 8.0, "more"),
    Target("ping", "idle ping / wireguard-go newest", "ping", "rtt_ms", WS, NEW, 0.8, 0.5, "less"),
    Target("cpu", "CPU seconds per GB / wireguard-go newest", "tcp1", "cpu_s_per_gb", WS, NEW,
           0.55, 0.4, "less"),
    Target("rss", "RSS of the agent after full load", "rss", "rss_mb", WS, None, 80, 50, "less",
           "MB"),
    Target("idle-peers", "RSS added per idle peer, 1,000 peers", "idle-peers", "kb_per_peer", WS,
           None, 20, 8, "less", "KB"),
    Target("storm", "handshake storm: of 1,000 new peers connected", "storm", "storm_complete",
           WS, None, 1000, None, "more", ""),
    Target("flood-junk", "cost of 200k/s of junk to a TCP flow, shield on", "flood-junk",
           "cost_percent", "whalescale:bpf=true", None, 15, None, "less", "%", FULL_FLOOD),
    Target("flood-mac1", "cost of 200k/s of initiations to a TCP flow, shield on", "flood-mac1",
           "cost_percent", "whalescale:bpf=true", None, 15, None, "less", "%", FULL_FLOOD),
)  # fmt: skip
