#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""One flow over a pair of recorded or made radio links, in virtual time, with the real C core.

    python -m tools.bondsim [--links FOLDER] [--seconds 30] [--seed 1] [--json]
                            [--inner cubic|bbr] [PAIR ...]

A PAIR is A+B; each is NAME[:DELAY_MS[:QUEUE_KB[:LOSS_PERCENT[:JITTER_MS]]]] with NAME a recording
FOLDER/NAME.ms.gz (a line for each millisecond: bytes that may leave), a rate in Mbit/s, or
one that is made: fading=MBPS, lumps=MBPS/MS, steps=MBPS/MBPS/...@SECONDS, handovers=MBPS/EVERY_S/S,
or policed=MBPS/MBPS, of which the second is what passes.
Without any: made links, from the seed. Goodput is told as a share of what both links may carry,
headers taken off; pings are what they take above the quicker link's own round trip.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))

from multipath_bbr import Bbr
from multipath_sources import Cubic, Ping
from multipath_world import HEADERS, PACKET, Link, LinkSpec, World
from recorded_links import RecordedLink

from tools.recordings import made, read

START_MS = 100
#: UDP payload of a full packet in a data frame, and what is around it
WIRE = 32 + 8 + PACKET + HEADERS
MADE = ("fading=10:30:400+fading=6:35:400", "fading=80:20:600+fading=50:15:600",
        "fading=10:30:400+20:15:150", "100:20:300+50:5:200", "20:20:200:2+20:20:200:2",
        "70:35:400:0.4:12+30:6:200:0.3:4", "2:40:100:10+1:60:100", "lumps=40/10:20+20:20",
        "handovers=60/5/0.5:30+20:20:200", "steps=50/5@3:20:300+20:20:200")  # fmt: skip


@dataclass
class Result:
    pair: str
    inner: str
    goodput_mbps: float
    capacity_mbps: float
    share: float
    first_3s_share: float
    longest_stall_ms: float
    ping_ms: tuple[float, float, float]  # more than idle: median, 95 %, worst
    retransmissions: int
    timeouts: int
    skipped: int
    dropped: tuple[int, ...]


def link(text: str, folder: Path | None, world: World, seed: int, seconds: int) -> Link:
    name, *rest = text.split(":")
    numbers = [float(one) for one in rest]
    delay, queue, loss, jitter = (*numbers, *(20.0, 400.0, 0.0, 0.0)[len(numbers) :])
    if "=" not in name and name.replace(".", "").isdigit():
        rate = float(name)
        spec = LinkSpec(rate, delay, jitter, loss / 100, buffer_ms=queue * 8 / rate)
        return Link(spec, world.rng)
    if name.startswith("policed="):
        rate, passes = (float(one) for one in name.partition("=")[2].split("/"))
        spec = LinkSpec(rate, delay, jitter, loss / 100, queue * 8 / rate, passes)
        return Link(spec, world.rng)
    if "=" in name:
        recording = made(name, seed, seconds)
    elif folder is None:
        raise ValueError(f"{name}: name the folder of recordings: --links")
    else:
        recording = read(folder / f"{name}.ms.gz")
    one = RecordedLink(recording, delay, int(queue * 1000), world)
    one.loss = loss / 100
    return one


def capacity(one: Link, seconds: int) -> float:
    """Bits that may leave."""
    if isinstance(one, RecordedLink):
        return 8.0 * one.capacity(seconds * 1000)
    return (one.police_bps or one.rate_bps) * seconds


def run(pair: str, inner: str, folder: Path | None, seconds: int, seed: int) -> Result:
    # By then the paths have been probed, as before any flow.
    tcp = Cubic(START_MS, first=True) if inner == "cubic" else Bbr(START_MS, seed)
    ping = Ping()
    delays = [float([*text.split(":"), "20"][1]) for text in pair.split("+")]
    world = World([LinkSpec(20, one) for one in delays], [tcp, ping], seed=seed)
    try:
        for i, text in enumerate(pair.split("+")):
            world.out[i] = link(text, folder, world, seed + i, seconds)
            world.back[i] = Link(LinkSpec(20, world.out[i].delay / 1e6), world.rng)
        may = sum(capacity(one, seconds) for one in world.out) / seconds
        world.run(3000)
        begin = world.delivered_bytes * 8 / 3
        world.run((seconds - 3) * 1000)
        least = 2 * min(one.delay for one in world.out) / 1e6
        rtts = sorted(rtt - least for rtt in ping.rtts_ms)
        pings = tuple(round(rtts[int(part * (len(rtts) - 1))], 1) for part in (0.5, 0.95, 1))
        good = tcp.goodput * 8 / seconds
        return Result(
            pair, inner, round(good / 1e6, 2), round(may / 1e6, 2),
            round(good / may * WIRE / PACKET, 3), round(begin / may * WIRE / PACKET, 3),
            round(tcp.longest_wait / 1e6, 1), (pings[0], pings[1], pings[2]),
            tcp.retransmits, tcp.timeouts, int(world.b.stats.skipped),
            tuple(one.dropped for one in world.out),
        )  # fmt: skip
    finally:
        world.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="*", metavar="PAIR")
    parser.add_argument("--links", type=Path)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inner", choices=("cubic", "bbr"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.seconds < 4:
        parser.error("--seconds is 4 at least")
    for pair in options.pairs or MADE:
        if pair.count("+") != 1:
            parser.error(f"{pair}: a pair is A+B")
        for inner in (options.inner,) if options.inner else ("cubic", "bbr"):
            try:
                r = run(pair, inner, options.links, options.seconds, options.seed)
            except (OSError, ValueError, IndexError) as error:
                parser.error(f"{pair}: {error}")
            if options.json:
                print(json.dumps(asdict(r)), flush=True)
                continue
            print(
                f"{pair:36} {inner:5} {r.goodput_mbps:7.2f} of {r.capacity_mbps:7.2f} Mbit/s "
                f"{r.share:5.2f}, first 3 s {r.first_3s_share:4.2f}, "
                f"stall {r.longest_stall_ms:5.0f} ms, "
                f"ping +{r.ping_ms[0]:.0f}/{r.ping_ms[1]:.0f}/{r.ping_ms[2]:.0f} ms",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
