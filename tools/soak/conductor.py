"""One run from its beginning to its judgement."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.netlab import UAPI_FOLDER, Lab, Process, wait_until
from tools.soak import judge
from tools.soak.actions import Actor, Attacker, Killer, Ledger, Links, Orders, Sleeper
from tools.soak.judge import Gap, Sample
from tools.soak.world import Seat, World, state

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/fuzz/corpus/receive"
#: of a cycle: in the rest of it no agent is killed, so that what grows can be seen to
KILLING_SHARE = 0.7
CYCLE_S = 300.0
#: an agent's memory is compared from this age on: by then its rings have been round once
SETTLED_S = 60.0
PING_INTERVAL_S = 0.1
SAMPLE_S = 0.5


@dataclass
class Outcome:
    """What a run gave; `report.py` makes the file and the table of it."""

    seed: int
    seconds: float
    counts: dict[str, int]
    figures: dict[str, float]
    faults: list[str]


@dataclass
class Watch:
    """Samples of the processes, and how long each waited for a processor."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"a": [], "b": []})
    #: (time, ms waited since the last one), by process
    waited: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    last: dict[str, dict[str, int]] = field(default_factory=dict)

    def starved(self, began: float, ended: float) -> float:
        """Seconds that the processes of the way together waited in this time."""
        return sum(
            sum(s for at, s in rows if began <= at <= ended + SAMPLE_S)
            for rows in self.waited.values()
        )

    def look(self, name: str, pid: int) -> None:
        """/proc/PID/task/*/schedstat: ns on the run queue."""
        now: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, IndexError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                words = (task / "schedstat").read_text().split()
                now[f"{pid}.{task.name}"] = int(words[1])
        before = self.last.get(name, {})
        most = max((ns - before[key] for key, ns in now.items() if key in before), default=0)
        self.last[name] = now
        if most > 10_000_000:
            self.waited.setdefault(name, []).append((time.monotonic(), most / 1e9))


def rss_and_descriptors(pid: int) -> tuple[int, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    kib = int(text.partition("VmRSS:")[2].split()[0])
    return kib, len(os.listdir(f"/proc/{pid}/fd"))


def last_handshake(interface: str) -> str:
    """What the UAPI socket says of the first peer's, without a process for each question."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(str(UAPI_FOLDER / f"{interface}.sock"))
        sock.sendall(b"get=1\n\n")
        said = b""
        while not said.endswith(b"\n\n"):
            data = sock.recv(65536)
            if not data:
                break
            said += data
    found = [line for line in said.decode().splitlines() if line.startswith("last_handshake")]
    return " ".join(found[:2])


class Soak:
    def __init__(self, lab: Lab, seed: int, seconds: float, dataplane: str) -> None:
        self.seed, self.seconds = seed, seconds
        self.ledger = Ledger()
        self.watch = Watch()
        self.world = World(lab, dataplane)
        self.lab = lab
        self.loads: dict[str, Process] = {}
        self.handshakes = {"a": "", "b": ""}
        self.clocks: list[Path] = []
        self._watching = threading.Event()

    def spawn_loads(self) -> None:
        a, b = (self.world.seats[s] for s in "ab")
        env = {"PYTHONPATH": str(ROOT)}
        for seat, other in ((b, a), (a, b)):
            clock = self.lab.folder / f"{seat.name}.clock"
            clock.write_bytes(bytes(8))
            self.clocks.append(clock)
            words = (sys.executable, "-m", "tools.soak.load", seat.name, other.end.inside(4), clock)
            self.loads[seat.name] = seat.host.spawn(*words, env=env)
        wait_until("the loads' connection", self._loads_ready, 20)
        ping = ("ping", "-D", "-n", f"-i{PING_INTERVAL_S:g}", "-s400", "-p5a3c", b.end.inside(4))
        self.ping = a.host.spawn(*ping)

    def _loads_ready(self) -> bool:
        return all("ready" in load.log() for load in self.loads.values())

    def works(self, since: float) -> bool:
        """Whether each end has received a datagram since then."""
        return all(struct.unpack("<d", c.read_bytes())[0] > since for c in self.clocks)

    def spawn_hostile(self) -> Process:
        world = self.world
        plan = {
            "seed": self.seed,
            "devices": sorted(d for d in world.router.link_names() if d != "lo"),
            "targets": world.targets(),
            "forged": [
                *("10.77.0.1", "10.77.0.2", "127.0.0.1", "255.255.255.255"),
                *("224.0.0.1", "10.201.1.1", "10.201.2.2", "10.201.3.1", "10.201.4.2", "192.0.2.9"),
            ],
            "corpus": str(CORPUS) if CORPUS.is_dir() else "",
        }
        path = self.lab.folder / "hostile.json"
        path.write_text(json.dumps(plan))
        words = (sys.executable, "-m", "tools.soak.hostile", path)
        sender = world.router.spawn(*words, env={"PYTHONPATH": str(ROOT)})
        wait_until("the hostile sender", sender.log, 20)
        return sender

    # watching

    def _watch(self) -> None:
        count = 0
        while not self._watching.wait(SAMPLE_S):
            count += 1
            for side, seat in self.world.seats.items():
                self._look(side, seat, count)
            for name, load in self.loads.items():
                self.watch.look(f"load {name}", load.pid)

    def _look(self, side: str, seat: Seat, count: int) -> None:
        process, generation = seat.end.process, seat.generation
        if process is None or not seat.up:
            return
        if process.poll() is not None and seat.up and seat.generation == generation:
            self.ledger.fault(
                f"agent {side} ended by itself ({process.poll()}):\n{process.log()[-3000:]}"
            )
            seat.up = False
            return
        self.watch.look(side, process.pid)
        with contextlib.suppress(OSError, IndexError, ValueError):
            kib, descriptors = rss_and_descriptors(process.pid)
            now = time.monotonic()
            self.watch.samples[side].append(Sample(now, seat.born, kib, descriptors))
            if count % 2 == 0:
                said = last_handshake(seat.end.interface)
                if said and said != self.handshakes[side]:
                    self.handshakes[side] = said
                    self.ledger.did(f"sessions seen at {side}")

    # the run

    def run(self, tell: Callable[[float, dict[str, int], list[str]], None]) -> Outcome:
        """`tell(seconds so far, counts, faults)` is called each second."""
        for side in "ba":
            self.world.seats[side].launch()
            self.world.seats[side].wait_until_up()
        self.world.wait_for_tunnel()
        self.spawn_loads()
        sender = self.spawn_hostile()
        rng = random.Random(self.seed)  # noqa: S311
        seeds = iter(f"{self.seed}-{rng.random()}" for _ in range(9))
        killer = Killer(self.world, self.ledger, next(seeds), self.works)
        others: list[Actor] = [
            Links(self.world, self.ledger, next(seeds)),
            Orders(self.world, self.ledger, next(seeds)),
            Sleeper(self.world, self.ledger, next(seeds)),
            Attacker(self.world, self.ledger, next(seeds), sender),
        ]
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        actors = [killer, *others]
        for actor in actors:
            actor.thread.start()
        try:
            self._phases(killer, others, tell)
        finally:
            for actor in actors:
                actor.stop.set()
            for actor in actors:
                if not actor.stopped.wait(150):
                    self.ledger.fault(f"{type(actor).__name__} did not come to its end")
        try:
            return self._end()
        finally:
            for actor in actors:
                actor.release.set()

    def _phases(
        self,
        killer: Killer,
        others: list[Actor],
        tell: Callable[[float, dict[str, int], list[str]], None],
    ) -> None:
        began = time.monotonic()
        cycle = min(CYCLE_S, self.seconds)
        for actor in others:
            actor.enabled.set()
        while (so_far := time.monotonic() - began) < self.seconds:
            if so_far % cycle < cycle * KILLING_SHARE:
                killer.enabled.set()
            else:
                killer.enabled.clear()
            tell(so_far, dict(self.ledger.counts), list(self.ledger.faults))
            time.sleep(1)

    def _end(self) -> Outcome:
        """Everything is put back, the flows come to their end, the agents go; then it is judged."""
        ledger, world = self.ledger, self.world
        for side in "ab":
            for link in range(2):
                world.restore(side, link)
        seconds = time.monotonic() - ledger.began
        with contextlib.suppress(Exception):
            world.wait_for_tunnel()
        for load in self.loads.values():
            load.stdin.write(b"stop\n")
            load.stdin.flush()
        os.kill(self.ping.pid, signal.SIGINT)
        for load in self.loads.values():
            with contextlib.suppress(Exception):
                load.wait(150)
        self._watching.set()
        figures = self._judge_flows()
        self._judge_agents(figures)
        self._judge_rest()
        return Outcome(self.seed, seconds, dict(ledger.counts), figures, ledger.faults)

    def _judge_flows(self) -> dict[str, float]:
        ledger, world = self.ledger, self.world
        cuts = judge.all_down(ledger.windows, ("cut 0", "cut 1"))
        others = [w for w in ledger.windows if w.kind in judge.RECOVERY_S]
        windows = cuts + others
        offset = time.time() - time.monotonic()
        pings = judge.pings(self.ping.log(), PING_INTERVAL_S, offset)
        figures: dict[str, float] = {"ping_answers": pings.came}
        gaps = pings.gaps
        for fault in pings.faults:
            ledger.fault(fault)
        for at in pings.twice:
            self._twice("an answer to ping", at)
        if not pings.came:
            ledger.fault(f"no ping was answered: {self.ping.log()[-500:]}")
        sums: dict[str, dict[str, int]] = {}
        for name, load in self.loads.items():
            for line in load.log().splitlines():
                try:
                    said: dict[str, Any] = json.loads(line)
                except ValueError:
                    ledger.fault(f"load {name} said: {line}")
                    continue
                if "gap" in said:
                    gaps.append(Gap(said["gap"], said["began"], said["ended"]))
                elif "twice" in said:
                    self._twice(f"datagram {said['twice']} to {name}", said["at"])
                elif "fault" in said:
                    at = said["at"] - ledger.began
                    ledger.fault(f"load {name} at {at:.1f} s: {said['fault']}")
                sums[name] = said.get("sum", sums.get(name, {}))
        for name, other in (("a", "b"), ("b", "a")):
            mine = sums.get(name)
            if not mine or not sums.get(other):
                ledger.fault(f"load {name} gave no sums")
                continue
            figures[f"stream_bytes_to_{name}"] = mine["stream_bytes"]
            figures[f"udp_sent_by_{name}"] = mine["udp_sent"]
            figures[f"udp_received_by_{name}"] = mine["udp_received"]
            if mine["records_acked"] > sums[other]["records_received"]:
                ledger.fault(f"acknowledged to {name}, and lost: {mine} {sums[other]}")
        figures["connections"] = sums.get("a", {}).get("connections", 0)
        excused = 0
        for gap in gaps:
            starved = self.watch.starved(gap.began, gap.ended)
            over = judge.beyond(gap, windows, starved, world.tcp_rto_s)
            key = f"longest_beyond_{gap.flow}_s"
            figures[key] = max(figures.get(key, 0.0), over)
            if over > judge.STALL_S:
                near = [
                    w for w in ledger.windows if w.ended > gap.began - 2 and w.began < gap.ended
                ]
                told = ", ".join(
                    f"{w.kind} {w.began - ledger.began:.1f}-{w.ended - ledger.began:.1f}"
                    for w in sorted(near, key=lambda w: w.began)
                )
                ledger.fault(
                    f"{gap.flow} stood from {gap.began - ledger.began:.1f} to "
                    f"{gap.ended - ledger.began:.1f} s, {over:.1f} s more than it costs "
                    f"(starved {starved:.1f} s; {told})"
                )
            starved_only = judge.beyond(gap, windows, 0.0, world.tcp_rto_s) > judge.STALL_S
            excused += starved_only and over <= judge.STALL_S
        figures["gaps"] = len(gaps)
        figures["gaps_excused"] = excused
        figures["recoveries"] = len(ledger.recoveries)
        if ledger.recoveries:
            ordered = sorted(ledger.recoveries)
            figures["recovery_median_s"] = ordered[len(ordered) // 2]
            figures["recovery_most_s"] = ordered[-1]
        return figures

    def _twice(self, what: str, at: float) -> None:
        """A packet came a second time."""
        if judge.forgotten(at, self.ledger.windows):
            self.ledger.did("packets twice, across a kill")
        else:
            self.ledger.fault(f"{what} came twice at {at - self.ledger.began:.1f} s")

    def _judge_agents(self, figures: dict[str, float]) -> None:
        for side, seat in self.world.seats.items():
            kib, descriptors = judge.growth(self.watch.samples[side], SETTLED_S)
            figures[f"growth_kib_{side}"] = kib
            figures[f"growth_descriptors_{side}"] = descriptors
            figures[f"rss_kib_{side}"] = max(
                (s.rss_kib for s in self.watch.samples[side]), default=0
            )
            if kib > judge.GROWTH_KIB:
                self.ledger.fault(f"agent {side} gained {kib} KiB")
            if descriptors > judge.GROWTH_DESCRIPTORS:
                self.ledger.fault(f"agent {side} gained {descriptors} descriptors")
            process = seat.end.process
            logs = [*seat.old_logs, process.log() if process else ""]
            for line in dict.fromkeys(x for log in logs for x in judge.wrong_lines(log)):
                self.ledger.fault(f"agent {side} logged: {line}")

    def _judge_rest(self) -> None:
        """`ws down`, and nothing of the tunnel is left."""
        for side, seat in self.world.seats.items():
            end = seat.end
            process = end.process
            if process is None or process.poll() is not None:
                continue
            done = end.ws("down", "-i", end.interface, check=False)
            if done.returncode or process.wait(15) != 0:
                self.ledger.fault(f"ws down at {side}: {done.stderr} {process.log()[-500:]}")
            for line in judge.wrong_lines(process.log()):
                self.ledger.fault(f"agent {side} logged at its end: {line}")
            for left in judge.left_behind(self.world.clean[side], state(seat.host)):
                self.ledger.fault(f"left at {side}: {left}")
            sockets = [p for p in end.runtime.rglob("*") if p.is_socket()]
            sockets += [p for p in [UAPI_FOLDER / f"{end.interface}.sock"] if p.exists()]
            for path in sockets:
                self.ledger.fault(f"left at {side}: {path}")
            if set(seat.host.pids()) - {self.loads[side].pid, self.ping.pid}:
                self.ledger.fault(f"processes left at {side}: {seat.host.pids()}")


def soak(seed: int, seconds: float, dataplane: str, tell: Any) -> Outcome:
    """A run in a lab of its own, and whether the lab left nothing either."""
    with Lab(seed) as lab:
        outcome = Soak(lab, seed, seconds, dataplane).run(tell)
        prefix = lab.prefix
    left = [n for n in os.listdir("/run/netns") if n.startswith(prefix)]
    outcome.faults += [f"left: namespace {name}" for name in left]
    return outcome
