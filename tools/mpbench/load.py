"""One flow through a contestant: what is done to the links meanwhile, and the figures of it."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from tools.mpbench import idling, judge
from tools.mpbench.contestants import Stage
from tools.mpbench.model import MPTCP, WS, Flow, Options, Scenario
from tools.netlab import LabError, Process, wait_until
from whalescale.bench import measure
from whalescale.bench.measure import MeasureError

PROGRAM = Path(__file__).with_name("flow.py")
PING_INTERVAL_S = 0.02
IDLE_S = 1.0
#: steps of the capacity that is kept with a flow
CAPACITY_S = 0.1
#: how far the rate falls in the scenario "tenth"
TENTH = 0.1
#: what is still in the queues of the last flow drains in that time
SETTLE_S = 0.3

_DATED = re.compile(r"^\[([\d.]+)\].*\btime=([\d.]+) ms", re.MULTILINE)
_SENT = re.compile(r"(\d+) packets transmitted.*\btime (\d+)ms")
_ports = itertools.cycle(range(6001, 6999))


def carry(
    stage: Stage, name: str, scenario: Scenario, options: Options, congestion: str
) -> tuple[Flow, dict[str, float]]:
    """One flow and its figures. MeasureError: nothing came; LabError: it could not be run."""
    idle: list[float] = []
    if scenario.pings:
        idle = ping(stage, stage.ping_target(name, scenario), IDLE_S)
    began, busy = time.monotonic(), measure.busy_seconds()
    flow = _flow(stage, name, scenario, options, congestion)
    spent = measure.busy_seconds() - busy
    share = spent / (time.monotonic() - began) / len(os.sched_getaffinity(0))
    values = figures(flow, scenario, options) | {"cpu_percent": 100 * share}
    if idle:
        values["idle_ms"] = measure.percentile(idle, 0.5)
    if scenario.recordings:
        times = scenario.warm_s(options), scenario.length_s(options)
        values |= idling.figures(scenario, stage.recorded, stage.numbers, *times)
    time.sleep(SETTLE_S)
    if scenario.kind == "first" and options.counts and name.partition(":")[0] == WS:
        second = _flow(stage, name, scenario, options, congestion)
        values["second_mbps"] = figures(second, scenario, options)["mbps"]
    return flow, values


def ping(stage: Stage, target: str, seconds: float) -> list[float]:
    """Round trips in ms, 20 ms apart. MeasureError: none came back."""
    count = round(seconds / PING_INTERVAL_S)
    command = measure.ping_command(target, count, PING_INTERVAL_S)
    done = stage.two.a.run(*command, check=False, timeout=seconds + 20)
    return measure.parse_ping(done.stdout)


def _flow(stage: Stage, name: str, scenario: Scenario, options: Options, congestion: str) -> Flow:
    stage.speak(congestion)
    two, target, port = stage.two, stage.target(name), str(next(_ports))
    length = scenario.length_s(options)
    common = ["--port", port, "--seconds", f"{length:g}", *(["--mptcp"] if name == MPTCP else [])]
    # MPTCP's later subflows come to the other addresses.
    bind = "0.0.0.0" if name == MPTCP else target  # noqa: S104
    python = (sys.executable, "-I", PROGRAM)
    receiver = two.b.spawn(
        *python, "recv", "--bind", bind, "--devices", ",".join(stage.devices), *common
    )
    running = [receiver]
    pinger: Process | None = None
    pings: list[float] = []
    pings_sent = 0
    events: dict[str, float] = {}
    played = 0.0
    try:
        wait_until(
            "the receiver",
            lambda: "ready\n" in receiver.log() or receiver.poll() is not None,
            interval=0.01,
        )
        if scenario.kind == "first":
            played = stage.play()
        sender = two.a.spawn(*python, "send", "--to", target, "--congestion", congestion, *common)
        running.append(sender)
        if scenario.pings:
            # Started with the flow; the warm-up is cut off below.
            at = stage.ping_target(name, scenario)
            count = round(length / PING_INTERVAL_S)
            program, *words = measure.ping_command(at, count, PING_INTERVAL_S)
            since = time.time()
            pinger = two.a.spawn(program, "-D", *words)
            running.append(pinger)
        if scenario.victim:
            events = _change(stage, scenario, options, receiver)
        receiver.wait(length + 20)
        sender.wait(10)
        got, sent = _result(receiver), _result(sender)
        if pinger is not None:
            pinger.wait(30)
            warm_s = scenario.warm_s(options)
            pings, pings_sent = pings_within(pinger.log(), since + warm_s, since + length)
    finally:
        for process in running:
            process.stop(timeout=1)
        link = stage.link(scenario.victim)
        if link is not None and events:
            link.silence(False)
            link.reshape(rate_mbit=scenario.shapes[scenario.victim - 1].rate_mbit)
    if not got.get("bins"):
        said = got.get("error") or sent.get("error") or "it does not say why"
        raise MeasureError(f"nothing came through: {said}")
    return Flow(
        bins=judge.padded(got["bins"], length, got["bin_s"]),
        bin_s=got["bin_s"],
        began=got["began"],
        device_times=got["device_times"],
        device_bytes=got["device_bytes"],
        sender=sent.get("info", {}),
        receiver=got["info"],
        infos=sent.get("infos", []),
        error=got["error"] or sent.get("error", ""),
        events=events,
        pings=pings,
        pings_sent=pings_sent,
        capacity=_capacity(stage, got["began"] - played, length) if played else [],
    )


def _capacity(stage: Stage, from_s: float, length: float) -> list[float]:
    steps = round(length / CAPACITY_S)
    return [
        round(stage.capacity_mbps(from_s + i * CAPACITY_S, CAPACITY_S), 3) for i in range(steps)
    ]


def _change(
    stage: Stage, scenario: Scenario, options: Options, receiver: Process
) -> dict[str, float]:
    """Do to the victim what the scenario says, phase by phase; returns when each began."""
    link = stage.link(scenario.victim)
    events: dict[str, float] = {}
    due = time.monotonic() + scenario.warm_s(options)
    for phase, seconds in scenario.phases(options):
        while (left := due - time.monotonic()) > 0 and receiver.poll() is None:
            time.sleep(min(left, 0.2))
        due += seconds
        if phase == "before" or link is None:
            continue
        events[phase] = time.monotonic()
        if phase == "silent":
            link.silence(True)
        elif phase == "after":
            link.silence(False)
        elif phase == "tenth":
            link.reshape(rate_mbit=link.shape.rate_mbit * TENTH)
    return events


def _result(process: Process) -> dict[str, Any]:
    lines = process.log().strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        raise LabError(f"flow.py said: {lines[-1] if lines else 'nothing'}") from None


def pings_within(said: str, first_s: float, last_s: float) -> tuple[list[float], int]:
    """Of what `ping -D` said: round trips in ms of those sent in that time (of the day), and how
    many were sent then. MeasureError: none came back at all.

    Not by their number: ping's timer is the kernel's, and 20 ms become 24.
    """
    found = [(float(came), float(ms)) for came, ms in _DATED.findall(said)]
    if not found:
        measure.parse_ping(said)
    interval = PING_INTERVAL_S
    if (sums := _SENT.search(said)) and int(sums[1]) > 1:
        interval = int(sums[2]) / 1000 / (int(sums[1]) - 1)
    times = [ms for came, ms in found if first_s <= came - ms / 1000 < last_s]
    return times, round((last_s - first_s) / interval)


def figures(flow: Flow, scenario: Scenario, options: Options) -> dict[str, float]:
    """The figures of one flow; those of the warm-up count for none but the sender's counters."""
    warm, length = scenario.warm_s(options), scenario.length_s(options)
    bins, bin_s = flow.bins, flow.bin_s
    values = {
        "mbps": judge.mbps(bins, bin_s, warm, length),
        "stall_ms": 1000 * judge.longest_stall_s(bins, bin_s, warm, length),
        "broken": 1.0 if flow.error else 0.0,
    }
    for name in ("retransmits", "dsack_dups", "reord_seen", "reordering"):
        values[name] = float(flow.sender.get(name, 0))
    values["out_of_order"] = float(flow.receiver.get("out_of_order", 0))
    values["rtt_ms"] = flow.sender.get("rtt_us", 0) / 1000
    if flow.capacity:
        values["capacity_mbps"] = sum(flow.capacity) / len(flow.capacity)
    if flow.pings:
        for key, share in (("ping_p50_ms", 0.5), ("ping_p95_ms", 0.95), ("ping_max_ms", 1.0)):
            values[key] = measure.percentile(flow.pings, share)
        values["ping_lost_percent"] = max(0.0, 100 * (1 - len(flow.pings) / flow.pings_sent))
    return values | _phases(flow, scenario, length)


def _phases(flow: Flow, scenario: Scenario, length: float) -> dict[str, float]:
    """What the flow made of what happened to its link."""
    bins, bin_s = flow.bins, flow.bin_s
    if "silent" in flow.events:
        silent, after = flow.since("silent"), flow.since("after")
        values = {
            "mbps_before": judge.mbps(bins, bin_s, 1.0, silent),
            "mbps_silent": judge.mbps(bins, bin_s, silent + 1.0, after),
            "mbps_after": judge.mbps(bins, bin_s, after + 1.0, length),
            "stall_ms": 1000 * judge.longest_stall_s(bins, bin_s, silent, length),
        }
        again = 0.0
        devices = zip(scenario.shapes, flow.device_bytes.values(), strict=False)
        for number, (shape, counts) in enumerate(devices, start=1):
            if number == scenario.victim:
                began, end = flow.began + 1.0, flow.events["silent"]
                carried = judge.counted_mbps(flow.device_times, counts, began, end)
                values["victim_share"] = carried / shape.rate_mbit
            used = judge.used_again_s(
                flow.device_times, counts, flow.events["after"], shape.rate_mbit
            )
            # Never: as long as was looked.
            again = max(again, length - after if used is None else used)
        return values | {"both_again_s": again}
    if "tenth" in flow.events:
        fell = flow.since("tenth")
        return {
            "mbps_before": judge.mbps(bins, bin_s, 1.0, fell),
            "mbps_tenth": judge.mbps(bins, bin_s, fell + 2.0, length),
        }
    return {}
