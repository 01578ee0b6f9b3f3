"""Where an agent's CPU time goes: `perf record` on one agent during one TCP flow.

Only that process is sampled. What the kernel does for a packet counts where it runs: veth carries a
datagram to the other host's socket within the sender's own sendmsg, so the receiving half of the
network stack stands in the sender's table.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tools.bench import load
from tools.bench.contestants import Pair
from tools.bench.groups import EVERY, KERNEL, UNKNOWN, nameless, parse, shares, sources, top
from tools.bench.model import Options
from tools.benchkit.model import SkipError, Values
from tools.netlab import LabError, run
from tools.peers import ROOT
from whalescale.bench import measure
from whalescale.bench.measure import MeasureError

HZ = 999
#: of a flow, before the sampling begins
SETTLE_S = 0.5
SAMPLES_MIN = 200
#: of the kernel's samples; with more the table would say nothing
NAMELESS_MAX = 0.5
METRICS = (*(f"share_{g.key}" for g in EVERY), "agent_s_per_gb", "gbps", "perf_samples")


def sender(pair: Pair, options: Options) -> Values:
    return profile(pair, "a", options)


def receiver(pair: Pair, options: Options) -> Values:
    return profile(pair, "b", options)


def profile(pair: Pair, side: str, options: Options) -> Values:
    """Shares of the agent on this side, and under "symbol: ..." those of its first functions."""
    if shutil.which("perf") is None:
        raise SkipError("perf is not installed: apt-get install linux-perf")
    pid = pair.agents[side]
    data = pair.lab.folder / f"perf-{side}.data"
    spent = measure.process_seconds(pid)
    flow = load.start_tcp(pair, options.seconds)
    try:
        time.sleep(SETTLE_S)
        _record(pair, pid, data, max(0.5, options.seconds - 2 * SETTLE_S))
    finally:
        carried = load.finish_tcp(flow, options.seconds)
    spent = measure.process_seconds(pid) - spent
    script = run("perf", "script", "-i", data, "-F", "ip,sym,dso").stdout
    samples = parse(script, sources(ROOT / "csrc"))
    data.unlink()
    if len(samples) < SAMPLES_MIN:
        raise MeasureError(f"perf took {len(samples)} samples, which is too few to tell")
    if nameless(samples) > NAMELESS_MAX:
        raise SkipError(f"perf knows most of the {KERNEL}'s functions as {UNKNOWN} here")
    return {
        **{f"share_{key}": share for key, share in shares(samples).items()},
        "agent_s_per_gb": spent / (carried.bytes / measure.GB),
        "gbps": carried.gbps,
        "perf_samples": float(len(samples)),
        **{f"symbol: {name}": share for name, share in top(samples).items()},
    }


def _record(pair: Pair, pid: int, data: Path, seconds: float) -> None:
    done = run(
        *("perf", "record", "-q", "-e", "cpu-clock", "-F", str(HZ), "-o", data),
        *("-p", str(pid), "--", "sleep", f"{seconds:g}"),
        check=False,
        timeout=seconds + 30,
    )
    if done.returncode == 0:
        return
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if not pair.alive():
        raise LabError(f"the agent ended while perf watched it: {said}")
    raise SkipError(f"perf cannot sample here: {said}")
