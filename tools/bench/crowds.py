"""Many peers and floods: a thousand idle peers, a thousand at once, forged datagrams."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench import load
from tools.bench.contestants import Pair
from tools.bench.model import Options
from tools.benchkit.model import SkipError, Values
from tools.netlab import LabError, Process, wait_until
from tools.peers import ROOT, HostEnd
from whalescale.bench import measure
from whalescale.bench.measure import MeasureError
from whalescale.identity import Identity
from whalescale.protocol.cookie import CookieGenerator
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import INITIATION_BYTES, NOISE_1_BYTES, encode_initiation

PEERS = 1000
FLOOD_PPS = 200_000
FLOOD_RECORDS = 8192
STORM_SECONDS = 60.0
#: Below that a flow is broken, not slow, and what a flood does to it says nothing.
FLOW_GBPS_MIN = 0.05
#: RFC 2544's range, which the forged sources are of
FORGED = "198.18.0.0/15"
#: a device that drops everything, which the flood goes to when only the generator is to be seen
NOWHERE = "nowhere"
#: classic BPF at tc ingress: what comes from FORGED is dropped (2), the rest goes on
DROP_FORGED = (
    "5,32 0 0 26,84 0 0 4294836224,21 0 1 3323068416,6 0 0 2,6 0 0 4294967295"  # ld [26]; /15; jeq
)
#: where nobody of ours listens
OTHER_PORT = 9


def add_peers(end: HostEnd, identities: list[Identity]) -> None:
    """Add that many peers over the UAPI socket, as `wg addconf` does, and see them there."""
    lines: list[str] = []
    for number, identity in enumerate(identities):
        key = base64.b64encode(identity.static_public).decode()
        address = f"10.78.{number >> 8}.{number & 255}/32"
        lines += ["[Peer]", f"PublicKey = {key}", f"AllowedIPs = {address}"]
    path = end.host.lab.folder / f"{end.interface}-crowd.conf"
    path.write_text("\n".join(lines) + "\n")
    before = _peers(end)
    end.run("wg", "addconf", end.interface, path)
    wait_until(
        f"{len(identities)} more peers", lambda: _peers(end) == before + len(identities), 30, 0.2
    )


def _peers(end: HostEnd) -> int:
    return len(end.run("wg", "show", end.interface, "peers").stdout.split())


def settled_rss(pid: int, timeout: float = 20.0) -> int:
    """Resident memory once it has stood still (within 64 KB) for 1.5 s."""
    deadline = time.monotonic() + timeout
    last = measure.rss_bytes(pid)
    since = time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        value = measure.rss_bytes(pid)
        if abs(value - last) > 65536:
            last, since = value, time.monotonic()
        elif time.monotonic() - since > 1.5:
            return value
    raise MeasureError("the agent's memory does not come to rest")


def idle_peers(name: str, _options: Options) -> Values:
    """What 1,000 peers that never speak add to one agent."""
    with Pair(name) as pair:
        end, pid = pair.ends[1], pair.agents["b"]
        before = settled_rss(pid)
        add_peers(end, [Identity.generate(os.urandom) for _ in range(PEERS)])
        added = settled_rss(pid) - before
    return {"kb_per_peer": added / 1000 / PEERS}


def storm(name: str, _options: Options) -> Values:
    """1,000 initiations at once against one agent, until every one has its session."""
    identities = [Identity.generate(os.urandom) for _ in range(PEERS)]
    with Pair(name) as pair:
        end = pair.ends[1]
        add_peers(end, identities)
        job = {
            "agent_key": base64.b64decode(end.public_key).hex(),
            "seeds": [bytes(identity.seed).hex() for identity in identities],
            "address": pair.link.address(pair.b),
            "port": end.port,
            "seconds": STORM_SECONDS,
        }
        done = pair.a.run(
            *(sys.executable, "-m", "tools.bench.storm"),
            stdin=json.dumps(job),
            timeout=STORM_SECONDS + 60,
            env={"PYTHONPATH": str(ROOT)},
        )
        result = json.loads(done.stdout.splitlines()[-1])
        _confirmed(end, identities, int(result["complete"]))
    if result["complete"] < PEERS:
        # Time until all are connected is not known, so it is not among the values.
        return {
            "storm_complete": result["complete"],
            "storm_driver_cpu_s": result["driver_cpu_s"],
        }
    return {
        "storm_s": result["seconds"],
        "storm_complete": result["complete"],
        "storm_driver_cpu_s": result["driver_cpu_s"],
    }


def _confirmed(end: HostEnd, identities: list[Identity], complete: int) -> None:
    """The agent itself says that so many have shaken hands. MeasureError: it does not."""
    ours = {base64.b64encode(i.static_public).decode() for i in identities}

    def shaken() -> int:
        rows = end.run("wg", "show", end.interface, "latest-handshakes").stdout.splitlines()
        pairs = (row.split("\t") for row in rows)
        return sum(key in ours and int(when) > 0 for key, when in pairs)

    try:
        wait_until("the agent to have them all", lambda: shaken() >= complete, 10, 0.2)
    except LabError:
        raise MeasureError(
            f"{complete} peers have a session, the agent knows of {shaken()}"
        ) from None


def junk(_public_key: bytes) -> bytes:
    """Random bytes in the length of an initiation."""
    return os.urandom(FLOOD_RECORDS * INITIATION_BYTES)


def forged_initiations(public_key: bytes) -> bytes:
    """Initiations with a true mac1 and a random ephemeral: each costs its receiver a Diffie-Hellman
    before it can tell that the rest is random too."""
    generator = CookieGenerator(public_key)
    limits = Limits()
    records = []
    for _ in range(FLOOD_RECORDS):
        message = encode_initiation(int.from_bytes(os.urandom(4)), os.urandom(NOISE_1_BYTES))
        records.append(generator.add_macs(message, 0, limits))
    return b"".join(records)


def flood_junk(pair: Pair, options: Options) -> Values:
    return _flood(pair, options, junk)


def flood_mac1(pair: Pair, options: Options) -> Values:
    return _flood(pair, options, forged_initiations)


def floor(pair: Pair, options: Options) -> float:
    """Percent of a flow that the same flood costs when b's kernel drops it as early as a program
    may, by one compare: what no shield at tc can save. Goes with `flood_mac1`, before or after."""
    records = pair.lab.folder / f"{forged_initiations.__name__}.bin"
    if not records.exists():
        records.write_bytes(forged_initiations(base64.b64decode(pair.ends[1].public_key)))
    nowhere, agent = _aims(pair)
    device = pair.link.device(pair.b)
    pair.b.run("tc", "qdisc", "add", "dev", device, "clsact")
    try:
        words = ("filter", "add", "dev", device, "ingress", "bpf", "da", "bytecode", DROP_FORGED)
        pair.b.run("tc", *words)
        beside, _ = _beside(pair, options.seconds, records, nowhere)
        under, _ = _beside(pair, options.seconds, records, replace(agent, port=OTHER_PORT))
    finally:
        pair.b.run("tc", "qdisc", "del", "dev", device, "clsact")
    return 100 * (1 - under / beside)


def _flood(pair: Pair, options: Options, make: Callable[[bytes], bytes]) -> Values:
    """A TCP flow by itself, beside a flood to nowhere, beside the same flood to the agent.

    The generator runs on the same cores as the flow, and its own CPU time is no fault of the
    agent's: the cost is told against the flood to nowhere, and (raw) against no flood. All that
    the kernel does on the way in, and the shield, count as the cost.
    """
    records = pair.lab.folder / f"{make.__name__}.bin"
    if not records.exists():
        records.write_bytes(make(base64.b64decode(pair.ends[1].public_key)))
    nowhere, agent = _aims(pair)
    alone = load.finish_tcp(load.start_tcp(pair, options.seconds), options.seconds).gbps
    beside, _ = _beside(pair, options.seconds, records, nowhere)
    if beside < 0.05 * alone or alone < FLOW_GBPS_MIN:
        raise MeasureError(
            f"the flow is sick without any flood to the agent: {alone:.3f} Gbit/s by itself, "
            f"{beside:.3f} beside a flood to nowhere"
        )
    under, sent = _beside(pair, options.seconds, records, agent)
    return {
        "cost_percent": 100 * (1 - under / beside),
        "cost_raw_percent": 100 * (1 - under / alone),
        "flood_pps": sent,
        "gbps": under,
    }


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a flood goes. `device` is a's."""

    device: str
    mac: str
    address: str
    port: int
    to_agent: bool


def _aims(pair: Pair) -> tuple[Aim, Aim]:
    """(nowhere: a device that drops what it is told to send; the agent on b).

    b can answer the forged sources (to a, which drops it): an agent that replies pays for it.
    """
    if NOWHERE not in pair.a.link_names():
        # Whichever this kernel has: ifb drops what no filter sent it.
        kinds = ("dummy", "ifb")
        if not any(pair.a.ip(f"link add {NOWHERE} type {kind}", check=False) for kind in kinds):
            raise SkipError("this kernel has neither dummy nor ifb devices to flood in its place")
        pair.a.ip(f"link set {NOWHERE} up")
        pair.b.ip(f"route add {FORGED} via {pair.link.address(pair.a)}")
        for host in (pair.a, pair.b):
            for key in ("ipv4.conf.all.rp_filter", "ipv4.ip_forward"):
                host.sysctl(f"net.{key}", 0)
    mac, address = load.mac_of(pair.b, pair.link.device(pair.b)), pair.link.address(pair.b)
    port = pair.ends[1].port
    nowhere = Aim(NOWHERE, mac, address, port, to_agent=False)
    return nowhere, Aim(pair.link.device(pair.a), mac, address, port, to_agent=True)


def _beside(pair: Pair, seconds: float, records: Path, aim: Aim) -> tuple[float, float]:
    """(Gbit/s of a flow, datagrams/s of the flood beside it)."""
    # Whoever floods has a machine of his own; here he comes first on the one that there is.
    flood: Process = pair.a.spawn(
        *("nice", "-n", "-15", load.udpblast(), "flood"),
        *("--to", aim.address, "--port", str(aim.port), "--device", aim.device, "--mac", aim.mac),
        *("--size", str(INITIATION_BYTES), "--rate", str(FLOOD_PPS)),
        *("--seconds", f"{seconds + 25:g}", "--records", records),
    )
    try:
        try:
            gbps = load.finish_tcp(load.start_tcp(pair, seconds), seconds).gbps
        except (MeasureError, LabError) as error:
            if flood.poll() is not None or not pair.alive() or not aim.to_agent:
                where = f"a flow beside a flood into {aim.device}"
                raise MeasureError(f"{where}: {error}") from error
            # The agent lives and lets nothing through: that is what the flood costs.
            gbps = 0.0
    finally:
        status = flood.stop(timeout=3)
    if status != 0:
        raise MeasureError(f"the flood failed ({status}): {flood.log().strip()[-200:]}")
    sent = load.last_json(flood.log())
    return gbps, sent["sent"] / sent["seconds"]
