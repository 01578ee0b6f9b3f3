"""What is done to the two agents and their networks, each by a thread of its own with its own seed.

Which things are done, in which order, follows from the seed; when, from the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.netlab import LabError, Process, run
from tools.soak.world import SUSPEND_S, Seat, Window, World

#: datagrams and datagrams a second: a trickle, and a flood
TRICKLE, FLOOD = (400, 2_000), (20_000, 20_000)
#: how long a kill's recovery is waited for; that it took too long is the gaps' to say
WORKS_S = 20.0
#: a command's answer, on a machine that does much else
ORDER_S = 120.0
SPARE_NETWORKS = ("10.99.1.0/24", "10.99.2.0/24")


@dataclass
class Ledger:
    """What was done, when packets may have been lost for it, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    windows: list[Window] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    began: float = field(default_factory=time.monotonic)
    #: seconds from the start of a killed agent to packets both ways
    recoveries: list[float] = field(default_factory=list)

    def did(self, what: str, window: Window | None = None, count: int = 1) -> None:
        with self.lock:
            self.counts[what] += count
            if window is not None:
                self.windows.append(window)

    def note_recovery(self, seconds: float) -> None:
        with self.lock:
            self.recoveries.append(seconds)

    def fault(self, what: str) -> None:
        with self.lock:
            self.faults.append(f"{time.monotonic() - self.began:.1f} s: {what}")


class Actor:
    """One thread of doings. `enabled` lets the conductor hold it back for a phase."""

    #: seconds between two doings, at least and at most
    pause = (0.5, 1.5)

    def __init__(self, world: World, ledger: Ledger, seed: str) -> None:
        self.world, self.ledger = world, ledger
        self.rng = random.Random(seed)  # noqa: S311
        self.enabled = threading.Event()
        self.stop = threading.Event()
        self.stopped = threading.Event()
        #: a process that the lab started goes with the thread that started it
        self.release = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.stop.is_set():
            if not self.enabled.wait(0.2):
                continue
            try:
                self.act()
            except (LabError, OSError, ValueError, subprocess.SubprocessError) as e:
                self.ledger.fault(f"{type(self).__name__}: {e}")
            self.stop.wait(self.rng.uniform(*self.pause))
        self.stopped.set()
        self.release.wait()

    def act(self) -> None:
        raise NotImplementedError


class Killer(Actor):
    """kill -9 and a start, over and over, of one agent or of both at once.

    The next one waits until packets come again: else nobody would see whether they do.
    """

    pause = (0.0, 0.6)

    def __init__(
        self, world: World, ledger: Ledger, seed: str, works: Callable[[float], bool]
    ) -> None:
        """`works(since)`: whether each end has received something since then."""
        super().__init__(world, ledger, seed)
        self.works = works

    def act(self) -> None:
        seats = self.rng.choices(
            [[self.world.seats[s] for s in names] for names in ("a", "b", "ab", "ba")], [3, 3, 1, 1]
        )[0]
        with contextlib.ExitStack() as stack:
            for seat in sorted(seats, key=lambda s: s.name):
                stack.enter_context(seat.lock)
            began = time.monotonic()
            for seat in seats:
                seat.kill()
            for seat in seats:
                seat.launch()
            early = self.rng.choice((0, 1, 2, 3, 4))
            for _ in range(early):
                # At any moment of its start, too: what is half made must not be in its way.
                time.sleep(self.rng.uniform(0.05, 1.2))
                seats[0].kill()
                seats[0].launch()
            for seat in seats:
                seat.wait_until_up()
            up = time.monotonic()
        for _ in seats:
            self.ledger.did("kills", Window("kill", began, up))
        self.ledger.did("kills", count=early)
        self.ledger.did("kills while it starts", count=early)
        if len(seats) > 1:
            self.ledger.did("kills of both at once")
        while not self.works(up) and time.monotonic() < up + WORKS_S and not self.stop.is_set():
            time.sleep(0.02)
        self.ledger.note_recovery(time.monotonic() - up)


class Links(Actor):
    """Cuts, addresses and NAT."""

    pause = (0.1, 0.8)

    def act(self) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.cut, 5),
            (self.cut_all, 1),
            (self.readdress, 4),
            (self.rebind, 2),
        ]
        doing = self.rng.choices([k for k, _ in kinds], [n for _, n in kinds])[0]
        doing()

    def cut(self, links: tuple[int, ...] = ()) -> None:
        """One link, or those named, for a moment: silent, or down at either end."""
        seconds = self.rng.uniform(0.1, 1.0)
        began = time.monotonic()
        ways = [
            (link, self.rng.choice(("silent", "a", "b")))
            for link in links or (self.rng.randrange(2),)
        ]
        for link, way in ways:
            if way == "silent":
                self.world.silence(link, True)
            else:
                self.world.down(way, link)
        time.sleep(seconds)
        for link, way in ways:
            if way == "silent":
                self.world.silence(link, False)
            else:
                self.world.restore(way, link)
        ended = time.monotonic()
        for link, _ in ways:
            self.ledger.did("cuts", Window(f"cut {link}", began, ended))
        if len(ways) > 1:
            self.ledger.did("cuts of every link")

    def cut_all(self) -> None:
        self.cut((0, 1))

    def readdress(self) -> None:
        """An address becomes another. Not the server's first: who restarts knows no other."""
        places = [(s, k, f) for s, k, f in self.world.parts if (s, k, f) != ("b", 0, 4)]
        side, link, family = self.rng.choice(places)
        part = self.rng.choice(
            [p for p in range(11, 200) if p != self.world.parts[side, link, family]]
        )
        began = time.monotonic()
        self.world.readdress(side, link, family, part)
        self.ledger.did("readdressings", Window(f"readdress {link}", began, time.monotonic()))

    def rebind(self) -> None:
        began = time.monotonic()
        self.world.rebind_nat()
        self.ledger.did("NAT rebindings", Window("rebind", began, time.monotonic()))


class Orders(Actor):
    """What a user says meanwhile: reload, `wg set`, questions."""

    pause = (0.5, 2.0)

    def act(self) -> None:
        seat = self.world.seats[self.rng.choice("ab")]
        self.rng.choice((self.reload, self.wg_set, self.wg_peer, self.ask))(seat)

    def order(self, what: str, seat: Seat, command: Callable[[], None]) -> None:
        """Counts it; refused is allowed only while the agent is away."""
        before = seat.generation, seat.up
        try:
            command()
        except LabError as e:
            if seat.up and before == (seat.generation, True):
                self.ledger.fault(f"{what} at {seat.name}: {e}")
            return
        self.ledger.did(what)

    def reload(self, seat: Seat) -> None:
        """With changes of the file more often than not; a killed agent may find it half-way."""
        end, config = seat.end, seat.end.config
        text = config.read_text().splitlines()
        kept = [line for line in text if not line.startswith("persistent_keepalive")]
        keepalive = self.rng.choice((0, 5, 7))
        if keepalive:
            kept.insert(kept.index("[[peers]]") + 1, f"persistent_keepalive = {keepalive}")
        for at, line in enumerate(kept):
            if line.startswith("allowed_ips"):
                nets = [n for n in line.split('"')[1::2] if n not in SPARE_NETWORKS]
                extra = SPARE_NETWORKS[0] if seat.name == "a" else SPARE_NETWORKS[1]
                nets += [extra] if self.rng.random() < 0.5 else []
                kept[at] = f"allowed_ips = [{', '.join(json.dumps(n) for n in nets)}]"
        fresh = config.with_suffix(".new")
        fresh.write_text("\n".join(kept) + "\n")
        fresh.chmod(0o600)
        fresh.replace(config)
        self.order(
            "reloads", seat, lambda: void(end.ws("reload", "-i", end.interface, timeout=ORDER_S))
        )

    def wg_set(self, seat: Seat) -> None:
        key, end = seat.peer.public_key, seat.end
        words = self.rng.choice(
            (
                ["peer", key, "persistent-keepalive", str(self.rng.choice((0, 3, 9)))],
                ["fwmark", str(self.rng.choice((0, 77)))],
                *([["listen-port", str(self.rng.randrange(51830, 51840))]] * (seat.name == "a")),
            )
        )
        self.order("wg set", seat, lambda: void(end.run("wg", "set", end.interface, *words)))

    def wg_peer(self, seat: Seat) -> None:
        """A peer that comes and goes."""
        end = seat.end
        key = run("wg", "pubkey", stdin=run("wg", "genkey").stdout).stdout.strip()
        add = ("peer", key, "allowed-ips", "10.98.0.0/24,fd98::/64", "endpoint", "10.201.2.1:9")

        def both() -> None:
            end.run("wg", "set", end.interface, *add)
            end.run("wg", "set", end.interface, "peer", key, "remove")

        self.order("wg set", seat, both)

    def ask(self, seat: Seat) -> None:
        end = seat.end
        words = self.rng.choice((("status", "--json"), ("paths",), ("status",)))
        self.order(
            "questions", seat, lambda: void(end.ws(*words, "-i", end.interface, timeout=ORDER_S))
        )


def void(_: object) -> None:
    """Only that it came back matters."""


class Sleeper(Actor):
    """A suspend: the agent stands still for longer than a key lives, its clock goes on."""

    pause = (8.0, 16.0)

    def act(self) -> None:
        seat = self.world.seats[self.rng.choice("ab")]
        with seat.lock:
            seat.up = False
            seat.generation += 1
            began = time.monotonic()
            os.kill(agent_pid(seat), signal.SIGSTOP)
            self.stop.wait(SUSPEND_S)
            os.kill(agent_pid(seat), signal.SIGCONT)
            seat.generation += 1
            seat.up = True
        self.ledger.did("suspends", Window("suspend", began, time.monotonic()))


def agent_pid(seat: Seat) -> int:
    """`ip netns exec` and `setpriv` become the command they start."""
    return seat.process.pid


class Attacker(Actor):
    """Hostile datagrams from the router: a trickle, now and then a flood."""

    pause = (0.0, 0.3)

    def __init__(self, world: World, ledger: Ledger, seed: str, sender: Process) -> None:
        super().__init__(world, ledger, seed)
        self.sender = sender
        self.answers = 1  # "ready"

    def act(self) -> None:
        count, rate = FLOOD if self.rng.random() < 0.03 else TRICKLE
        for order in ({"targets": self.world.targets()}, {"count": count, "rate": rate}):
            self.sender.stdin.write(json.dumps(order).encode() + b"\n")
        self.sender.stdin.flush()
        self.answers += 1
        deadline = time.monotonic() + 60
        while len(lines := self.sender.log().splitlines()) < self.answers:
            if self.sender.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"the hostile sender is gone: {self.sender.log()[-2000:]}")
            time.sleep(0.02)
        with contextlib.suppress(json.JSONDecodeError):
            self.ledger.did("hostile datagrams", count=json.loads(lines[-1])["sent"])
            if rate == FLOOD[1]:
                self.ledger.did("floods")
