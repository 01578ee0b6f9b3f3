"""Every scenario, in the order in which they run."""

from __future__ import annotations

from tools.bench import crowds, limit, load, profiles, steer
from tools.bench.contestants import MAIN, VARIANTS, Pair
from tools.bench.model import Options, Scenario
from tools.bench.targets import BARE, NEW, OLD, WS
from tools.benchkit.model import Values, by_name
from whalescale.bench.measure import Load

_TCP = ("gbps", "cpu_s_per_gb", "retransmits")
_UDP = ("pps", "gbps", "lost_percent", "sent_pps", "cpu_s_per_gb")
_SHORT = (BARE, OLD, NEW, WS)
_TUNNELS = (OLD, NEW, WS)
_BPF = (f"{WS}:bpf=true", f"{WS}:bpf=false")


def _tcp1(pair: Pair, o: Options) -> Values:
    return load.tcp(pair, Load(o.seconds))


def _tcp4(pair: Pair, o: Options) -> Values:
    return load.tcp(pair, Load(o.seconds, flows=4))


def _tcp16(pair: Pair, o: Options) -> Values:
    return load.tcp(pair, Load(o.seconds, flows=16))


def _both_ways(pair: Pair, o: Options) -> Values:
    return load.tcp(pair, Load(o.seconds, bidir=True))


def _pps64(pair: Pair, o: Options) -> Values:
    return load.udp(pair, o.seconds, load.SMALL_PAYLOAD, gso=True, gro=True)


def _pps64_single(pair: Pair, o: Options) -> Values:
    # Each goes the kernel's whole way by itself, at 3 us here: the sender is the limit.
    return load.udp(pair, o.seconds, load.SMALL_PAYLOAD)


def _udp_mtu(pair: Pair, o: Options) -> Values:
    return load.udp(pair, o.seconds, load.MTU_PAYLOAD)


def _quic(pair: Pair, o: Options) -> Values:
    return load.udp(pair, o.seconds, load.QUIC_PAYLOAD, gso=True, gro=True)


def _ping(pair: Pair, o: Options) -> Values:
    return load.idle_ping(pair, o)


SCENARIOS = (
    Scenario("tcp1", "one TCP flow", MAIN, _TCP, _tcp1, plotted="gbps"),
    Scenario("tcp4", "4 TCP flows", _SHORT, _TCP, _tcp4, plotted="gbps"),
    Scenario("tcp16", "16 TCP flows", _SHORT, _TCP, _tcp16, plotted="gbps"),
    Scenario("bidir", "TCP both ways at once, sum", _SHORT, _TCP, _both_ways, plotted="gbps"),
    Scenario("tcp1-v6", "one TCP flow, IPv6 outside", _SHORT, _TCP, _tcp1, family=6,
             plotted="gbps"),
    Scenario("pps64", "64-byte UDP, sent in runs (UDP_SEGMENT)", MAIN, _UDP, _pps64,
             plotted="pps"),
    Scenario("pps64-single", "64-byte UDP, sent singly", MAIN, _UDP, _pps64_single, plotted="pps"),
    Scenario("udp-mtu", "UDP at MTU size", _SHORT, _UDP, _udp_mtu, plotted="gbps"),
    Scenario("quic", "QUIC-like: 1,200-byte UDP by UDP_SEGMENT", _SHORT, _UDP, _quic,
             plotted="gbps"),
    Scenario("ping", "idle ping", MAIN, ("rtt_ms", "rtt_p99_ms"), _ping,
             estimate=lambda o: o.of(3.0, 1.5), plotted="rtt_ms"),
    Scenario("variants-tcp1", "one TCP flow, part by part", (WS, *VARIANTS), _TCP, _tcp1,
             plotted="gbps"),
    Scenario("variants-pps64", "64-byte UDP, part by part", (WS, *VARIANTS), _UDP, _pps64,
             plotted="pps"),
    Scenario("variants-quic", "QUIC-like UDP, part by part", (WS, *VARIANTS), _UDP, _quic,
             plotted="gbps"),
    Scenario("steer", f"TCP from {steer.PEERS} peers at once: steering against hashing",
             steer.CONTESTANTS, steer.METRICS, measure_alone=steer.flows,
             estimate=lambda o: o.seconds + 10, plotted="agent_s_per_gb"),
    Scenario("limit", "the distance to the limit: one packet, part by part", limit.CONTESTANTS,
             limit.METRICS, measure_alone=limit.measure,
             # three rows of eleven have a flow
             estimate=lambda o: 1 + 3 * (o.seconds + 8) / 11, plotted="ns_per_packet"),
    Scenario("profile-sender", "where the sending agent's CPU time goes, one TCP flow", (WS,),
             profiles.METRICS, profiles.sender, estimate=lambda o: o.seconds + 4,
             plotted="share_aead", by_metric=True),
    Scenario("profile-receiver", "where the receiving agent's CPU time goes, one TCP flow", (WS,),
             profiles.METRICS, profiles.receiver, estimate=lambda o: o.seconds + 4,
             plotted="share_aead", by_metric=True),
    Scenario("flood-junk", "a TCP flow under 200k/s of junk", (*_BPF, WS, NEW),
             ("cost_percent", "cost_raw_percent", "flood_pps", "gbps"),
             crowds.flood_junk, estimate=lambda o: 3 * o.seconds + 8,
             plotted="cost_percent"),
    Scenario("flood-mac1", "a TCP flow under 200k/s of forged initiations", (*_BPF, WS, NEW),
             ("cost_percent", "cost_raw_percent", "flood_pps", "gbps"),
             crowds.flood_mac1, estimate=lambda o: 3 * o.seconds + 8,
             plotted="cost_percent"),
    Scenario("storm", "1,000 new peers at once", (NEW, WS),
             ("storm_s", "storm_complete", "storm_driver_cpu_s"),
             measure_alone=crowds.storm, estimate=lambda o: o.of(20, 12), plotted="storm_s"),
    Scenario("idle-peers", "1,000 idle peers", (NEW, WS), ("kb_per_peer",), rounds=1,
             measure_alone=crowds.idle_peers, estimate=lambda o: o.of(20, 10),
             plotted="kb_per_peer"),
    Scenario("rss", "the agent's memory after a minute at full load", _TUNNELS,
             ("rss_mb", "rss_idle_mb", "gbps"), measure_alone=load.memory_after_load, rounds=1,
             estimate=lambda o: o.of(64, 14), plotted="rss_mb"),
)  # fmt: skip

#: of any of them
CONTESTANTS = tuple(dict.fromkeys(c for s in SCENARIOS for c in s.contestants))


def named(name: str) -> list[Scenario]:
    """The scenario of this name, or all whose name begins with it. ValueError: none does."""
    return by_name(SCENARIOS, name, (s.name for s in SCENARIOS))
