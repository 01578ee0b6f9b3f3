"""Load on a running pair: TCP by iperf3, UDP by udpblast.c, pings; and what it cost."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from tools.bench.contestants import Pair
from tools.bench.model import Options
from tools.benchkit.model import SkipError, Values
from tools.netlab import Host, LabError, Process, run, wait_until
from tools.peers import ROOT
from whalescale.bench import measure
from whalescale.bench.measure import Load, MeasureError

SOURCES = tuple(Path(__file__).with_name(name) for name in ("udpblast.c", "flood.c"))
HEADERS = Path(__file__).with_name("udpblast.h"), ROOT / "csrc/udp/udp_options.h"
BINARY = ROOT / "build/bench/udpblast"

#: what an MTU of 1420 leaves of a UDP/IPv4 packet
MTU_PAYLOAD = 1420 - 28
QUIC_PAYLOAD = 1200
SMALL_PAYLOAD = 64
BLAST_PORT = 5300

# Another for each server: the last one's connections may linger in TIME_WAIT.
_ports = itertools.cycle(range(5201, 5299))


def udpblast() -> Path:
    """The generator, compiled when its source is newer. SkipError: no compiler."""
    changed = max(path.stat().st_mtime for path in (*SOURCES, *HEADERS))
    if BINARY.exists() and BINARY.stat().st_mtime >= changed:
        return BINARY
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SkipError("udpblast needs a C compiler: apt-get install gcc")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    run(compiler, *flags, "-iquote", ROOT / "csrc", "-o", BINARY, *SOURCES)
    return BINARY


@contextlib.contextmanager
def server(pair: Pair) -> Iterator[int]:
    """An iperf3 server on b for one run; yields its port."""
    port = next(_ports)
    process = pair.b.spawn(*measure.iperf_server(pair.target, port))
    try:
        pair.b.wait_listening(port)
        yield port
    finally:
        process.stop(timeout=2)


def tcp(pair: Pair, load: Load) -> Values:
    """One iperf3 run from a to b: throughput, and the machine's CPU time for it."""
    with server(pair) as port:
        before = measure.busy_seconds()
        done = pair.a.run(*load.client(pair.target, port), check=False, timeout=load.timeout)
        spent = measure.busy_seconds() - before
    carried = measure.parse_iperf(done.stdout or done.stderr)
    return {
        "gbps": carried.gbps,
        "cpu_s_per_gb": spent / (carried.bytes / measure.GB),
        "retransmits": float(carried.retransmits),
    }


def start_tcp(pair: Pair, seconds: float) -> tuple[Process, Process]:
    """(client, server) of a flow in the background; `finish_tcp` reads it."""
    port = next(_ports)
    listener = pair.b.spawn(*measure.iperf_server(pair.target, port))
    pair.b.wait_listening(port)
    return pair.a.spawn(*Load(seconds).client(pair.target, port)), listener


def finish_tcp(flow: tuple[Process, Process], seconds: float) -> measure.Carried:
    client, listener = flow
    try:
        client.wait(seconds + 30)
        return measure.parse_iperf(client.log())
    finally:
        client.stop(timeout=2)
        listener.stop(timeout=2)


def udp(
    pair: Pair, seconds: float, size: int, *, gso: bool = False, gro: bool = False, threads: int = 1
) -> Values:
    """As many datagrams of `size` bytes as one sender can make, from a to b, counted on b."""
    program = udpblast()
    sink = pair.b.spawn(
        *(program, "sink", "--listen", pair.target, "--port", str(BLAST_PORT)),
        *("--seconds", f"{seconds + 20:g}", *(["--gro"] if gro else [])),
    )
    try:
        wait_until("the UDP sink", lambda: "ready" in sink.log() or sink.poll() is not None)
        before = measure.busy_seconds()
        sent = last_json(
            pair.a.run(
                *(program, "send", "--to", pair.target, "--port", str(BLAST_PORT)),
                *("--size", str(size), "--seconds", f"{seconds:g}", "--threads", str(threads)),
                *(["--gso"] if gso else []),
                timeout=seconds + 20,
            ).stdout
        )
        spent = measure.busy_seconds() - before
        # It ends by itself once the last of what is queued has come.
        sink.wait(seconds + 30)
        got = last_json(sink.log())
    finally:
        sink.stop(timeout=2)
    if not got["received"]:
        raise MeasureError(f"of {sent['sent']:.0f} datagrams sent none arrived")
    # A tunnel that stalls early must not look fast: never over less than the sending took.
    took = max(got["seconds"], sent["seconds"])
    return {
        "pps": got["received"] / took,
        "gbps": got["bytes"] * 8 / took / 1e9,
        "sent_pps": sent["sent"] / sent["seconds"],
        "lost_percent": 100 * max(0.0, 1 - got["received"] / sent["sent"]),
        "cpu_s_per_gb": spent / (got["bytes"] / measure.GB),
    }


def last_json(output: str) -> dict[str, float]:
    """The last line that udpblast printed. MeasureError: no such."""
    lines = output.strip().splitlines()
    try:
        table = json.loads(lines[-1])
        return {str(k): float(v) for k, v in table.items()}
    except (IndexError, ValueError, AttributeError, TypeError):
        raise MeasureError(f"udpblast said: {lines[-1] if lines else 'nothing'}") from None


def idle_ping(pair: Pair, options: Options) -> Values:
    """Nothing else on the tunnel: round trips 10 ms apart."""
    count = int(options.of(200, 50))
    command = measure.ping_command(pair.target, count, 0.01)
    done = pair.a.run(*command, check=False, timeout=count * 0.01 + 20)
    times = measure.parse_ping(done.stdout)
    if len(times) < count * 0.9:
        raise MeasureError(f"of {count} pings {len(times)} came back")
    worst = measure.percentile(times, 0.99)
    return {"rtt_ms": statistics.median(times), "rtt_p99_ms": worst}


def memory_after_load(name: str, options: Options) -> Values:
    """A fresh pair, then a minute at full load both ways: the larger agent's resident memory."""
    with Pair(name) as pair:
        if not pair.agents:
            raise SkipError("has no agent")
        idle = max(measure.rss_bytes(pid) for pid in pair.agents.values())
        carried = tcp(pair, Load(options.of(60, 10), flows=4, bidir=True))
        loaded = max(measure.rss_bytes(pid) for pid in pair.agents.values())
    return {
        "rss_mb": loaded / measure.MB,
        "rss_idle_mb": idle / measure.MB,
        "gbps": carried["gbps"],
    }


def mac_of(host: Host, device: str) -> str:
    """The hardware address of a device. LabError: no such device."""
    rows = host.ip_json(f"link show dev {device}")
    if not rows:
        raise LabError(f"{host.name} has no device {device}")
    return str(rows[0]["address"])
