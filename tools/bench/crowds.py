"""Many peers and floods: a thousand idle peers, a thousand at once, forged datagrams."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.bench import load
from tools.bench.contestants import Pair
from tools.bench.model import Options, Values
from tools.netlab import Host, LabError, Link, Process, wait_until
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
#: TEST-NET-3: nobody's address, which the third host drops what is for
NOWHERE = "203.0.113.1"


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


def _flood(pair: Pair, options: Options, make: Callable[[bytes], bytes]) -> Values:
    """A TCP flow by itself, beside a flood to nowhere, beside the same flood to the agent.

    The generator runs on the same cores as the flow, and its own CPU time is no fault of the
    agent's: the cost is told against the flood to nowhere, and (raw) against no flood.
    """
    records = pair.lab.folder / f"{make.__name__}.bin"
    if not records.exists():
        records.write_bytes(make(base64.b64decode(pair.ends[1].public_key)))
    aside = _aside(pair)
    alone = load.finish_tcp(load.start_tcp(pair, options.seconds), options.seconds).gbps
    nowhere, agent = Aim(NOWHERE, *aside), Aim(pair.link.address(pair.b), pair.link, pair.b)
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
    """Where a flood goes: an address, and the link to the host that gets it."""

    address: str
    link: Link
    host: Host


def _aside(pair: Pair) -> tuple[Link, Host]:
    """A third host that drops what is for nowhere; and b can answer the forged sources (to a,
    which drops it): an agent that replies pays for its replies."""
    if pair.aside is not None:
        return pair.aside
    c: Host = pair.lab.host("c")
    link = pair.lab.link(pair.a, c)
    pair.b.ip(f"route add {FORGED} via {pair.link.address(pair.a)}")
    for host in (pair.a, pair.b, c):
        for key in ("ipv4.conf.all.rp_filter", "ipv4.ip_forward"):
            host.run("sysctl", "-qw", f"net.{key}=0")
    pair.aside = (link, c)
    return pair.aside


def _beside(pair: Pair, seconds: float, records: Path, aim: Aim) -> tuple[float, float]:
    """(Gbit/s of a flow, datagrams/s of the flood beside it)."""
    end = pair.ends[1]
    # Whoever floods has a machine of his own; here he comes first on the one that there is.
    flood: Process = pair.a.spawn(
        *("nice", "-n", "-15", load.udpblast(), "flood"),
        *("--to", aim.address, "--port", str(end.port), "--device", aim.link.device(pair.a)),
        *("--mac", load.mac_of(aim.host, aim.link.device(aim.host))),
        *("--size", str(INITIATION_BYTES), "--rate", str(FLOOD_PPS)),
        *("--seconds", f"{seconds + 25:g}", "--records", records),
    )
    try:
        try:
            gbps = load.finish_tcp(load.start_tcp(pair, seconds), seconds).gbps
        except (MeasureError, LabError) as error:
            if flood.poll() is not None or not pair.alive() or aim.address == NOWHERE:
                where = f"a flow beside a flood to {aim.address}"
                raise MeasureError(f"{where}: {error}") from error
            # The agent lives and lets nothing through: that is what the flood costs.
            gbps = 0.0
    finally:
        status = flood.stop(timeout=3)
    if status != 0:
        raise MeasureError(f"the flood failed ({status}): {flood.log().strip()[-200:]}")
    sent = load.last_json(flood.log())
    return gbps, sent["sent"] / sent["seconds"]
