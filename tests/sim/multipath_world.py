"""Two multipath cores, joined by emulated links, under one fake clock.

    A ──link 0──► B     each link: rate, one-way delay, jitter, random loss, a drop-tail queue;
    A ◄─link 0'── B     the same both ways. A sends the data of the sources, B the TCP ACKs.

Nothing sleeps: `World.run` goes from event to event. All randomness comes from one seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from multipath_core import MS, Core

from whalescale.protocol.paths.types import MultipathSettings

SECOND = 1000 * MS
#: the serial of a handshake's packets, and what they offer (RFC 7323)
SYN = 1 << 40
WINDOW_SCALE = 10
NEVER = (1 << 64) - 1
HEADERS = 28  # IPv4 and UDP
PACKET = 1400
#: of a policer, as tools/linkemu.c has it
POLICE_BYTES = 30_000.0
TICK = 100 * MS
PROBE = 250 * MS
Frame = tuple[bytes, bytes] | bytes


@dataclass(frozen=True)
class LinkSpec:
    rate_mbps: float
    delay_ms: float
    jitter_ms: float = 0.0
    loss: float = 0.0
    #: of the queue, ms at the rate
    buffer_ms: float = 100.0
    #: what a policer lets pass, behind a bucket of POLICE_BYTES; 0: there is none
    police_mbps: float = 0.0


class Link:
    """One direction of one link. Frames keep their order (as tools/linkemu.c has it)."""

    def __init__(self, spec: LinkSpec, rng: random.Random) -> None:
        self.rng = rng
        self.rate_bps = spec.rate_mbps * 1e6
        self.delay, self.jitter = int(spec.delay_ms * MS), int(spec.jitter_ms * MS)
        self.loss = spec.loss
        self.buffer_bytes = spec.rate_mbps * 1e3 / 8 * spec.buffer_ms + 3000
        self.police_bps, self.bucket, self.bucket_at = spec.police_mbps * 1e6, 0.0, 0
        self.silent = False
        self.busy = self.last = 0
        self.pipe: deque[tuple[int, int, tuple[int, int, int, Frame] | int]] = deque()
        self.dropped = 0
        self.queue_sum = self.queue_count = 0

    def queue_ns(self, now: int) -> int:
        return max(0, self.busy - now)

    def _polices(self, now: int, size: int) -> bool:
        """Whether its bucket does not cover the frame."""
        covered = self.bucket + (now - self.bucket_at) * self.police_bps / 8e9
        self.bucket, self.bucket_at = min(covered, POLICE_BYTES), now
        if self.bucket < size:
            return True
        self.bucket -= size
        return False

    def send(self, now: int, size: int, what: tuple[int, int, int, Frame] | int) -> None:
        waits = max(0, self.busy - now)
        if self.silent or self.rng.random() < self.loss:
            return
        if self.police_bps and self._polices(now, size + HEADERS):
            self.dropped += 1
            return
        if waits * self.rate_bps / 8e9 > self.buffer_bytes:
            self.dropped += 1
            return
        self.queue_sum += waits
        self.queue_count += 1
        self.busy = now + waits + int((size + HEADERS) * 8e9 / self.rate_bps)
        spread = self.rng.randint(-self.jitter, self.jitter) if self.jitter else 0
        self.last = max(self.last, self.busy + self.delay + spread)
        self.pipe.append((self.busy, self.last, what))

    def set_rate(self, now: int, rate_mbps: float) -> None:
        """What waits leaves at the new rate."""
        ratio = self.rate_bps / (rate_mbps * 1e6)
        self.rate_bps = rate_mbps * 1e6
        moved: deque[tuple[int, int, tuple[int, int, int, Frame] | int]] = deque()
        for leaves, arrives, what in self.pipe:
            later = int((leaves - now) * (ratio - 1)) if leaves > now else 0
            moved.append((leaves + later, arrives + later, what))
        self.pipe = moved
        if moved:
            self.last = moved[-1][1]
        if self.busy > now:
            self.busy = now + int((self.busy - now) * ratio)

    def set_silent(self, silent: bool) -> None:
        self.silent = silent
        if silent:
            self.pipe.clear()


class Source(Protocol):
    """Makes packets for A's TUN device, and sees what B's delivers."""

    #: of a host whose TCPs are BBRs
    bbr: bool

    def begin(self, world: World) -> None: ...
    def due(self) -> int: ...
    def act(self, now: int) -> None: ...
    def delivered(self, serial: int, size: int, now: int) -> None: ...
    def answered(self, packet: bytes, now: int) -> None: ...


def turned(packet: bytes) -> bytes:
    """The other way: from where it went."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


class World:
    """links[i] both ways; the sources' packets are numbered by `packet`."""

    def __init__(
        self,
        links: list[LinkSpec],
        sources: list[Source],
        settings: MultipathSettings | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 10 * SECOND
        self.start = self.now
        self.rng = random.Random(seed)  # noqa: S311
        self.out = [Link(spec, self.rng) for spec in links]
        self.back = [Link(spec, self.rng) for spec in links]
        self.specs = links
        settings = settings or MultipathSettings(bbr=any(source.bbr for source in sources))
        self.a = Core(settings, self._leaves(self.out), self._at_a, self._silent_at_a)
        self.b = Core(settings, self._leaves(self.back), self._at_b, self._silent_at_b)
        self.failed: dict[Core, dict[int, int]] = {self.a: {}, self.b: {}}
        self.paths = list(range(len(links)))
        self._tick = self.now
        self.sources = sources
        self.plan: list[tuple[int, Callable[[], None]]] = []
        #: serials as they came out at B, with times; only kept if wanted
        self.keep_log = False
        self.log: list[tuple[int, int]] = []
        self.delivered_bytes = 0
        self.last_delivery = self.now
        self.longest_stall = 0
        self.paths_bytes: list[int] = [0 for _ in links]
        self.silences: list[tuple[int, str, int]] = []
        for core in (self.a, self.b):
            for path, spec in enumerate(links):
                core.tuner.add(path, int(2000 * spec.delay_ms))
                core.tuner.set_limits(path, False, 0, 1.0, 65535, usable=True)
            bits = (1 << len(links)) - 1
            core.set_paths(bits, bits, self.now)
            core.sample(self.paths, self.now)
        for source in sources:
            source.begin(self)

    def close(self) -> None:
        self.a.close()
        self.b.close()

    # -- packets: an IPv4 header, UDP or TCP or ICMP, then source and serial

    def packet(
        self, source: Source, serial: int, size: int = PACKET, protocol: int = 17, ack: int = 0
    ) -> bytes:
        """size: of the inner packet. Protocol 1 is urgent; 6 of size 40 is TCP without data, whose
        window is the largest of the scale that `syn` offers."""
        head = bytes((0x45, 0, size >> 8, size & 255, 0, 0, 0, 0, 64, protocol, 0, 0))
        head += bytes((10, 0, 0, self.sources.index(source), 10, 0, 1, 1))  # each its own flow
        seq = (serial * (size - 40)) & 0xFFFFFFFF  # of a TCP with data
        if protocol == 6 and size == 40:
            seq = serial
        l4 = bytes(4) + seq.to_bytes(4, "big") + ack.to_bytes(4, "big") + b"\x50\x10\xff\xff"
        l4 += bytes(4)
        if protocol == 6 and size == 40:
            return head + l4
        body = self.sources.index(source).to_bytes(1, "big") + serial.to_bytes(8, "big")
        return (head + l4 + body).ljust(size, b"\0")

    def syn(self, source: Source, flags: int) -> bytes:
        """Of a TCP, or the answer; with SACK and a window scale of WINDOW_SCALE."""
        answers = flags & 0x10
        head = bytearray(self.packet(source, 0, 40, 6, ack=1 if answers else 0))
        head[3], head[32], head[33] = 48, 0x70, flags
        return bytes(head) + bytes((4, 2, 3, 3, WINDOW_SCALE, 0, 0, 0))

    @staticmethod
    def parse(packet: bytes) -> tuple[int, int]:
        """(source, serial)"""
        if packet[9] == 6 and len(packet) == 48:
            return packet[15], SYN
        if packet[9] == 6 and len(packet) == 40:
            return packet[15], int.from_bytes(packet[24:28], "big")
        return packet[40], int.from_bytes(packet[41:49], "big")

    def _at_b(self, packet: bytes) -> None:
        now = self.b.now
        source, serial = self.parse(packet)
        self.delivered_bytes += len(packet)
        self.longest_stall = max(self.longest_stall, now - self.last_delivery)
        self.last_delivery = now
        if self.keep_log:
            self.log.append((now, serial))
        self.sources[source].delivered(serial, len(packet), now)

    def _at_a(self, packet: bytes) -> None:
        packet = turned(packet)
        source, _ = self.parse(packet)
        self.sources[source].answered(packet, self.a.now)

    def _leaves(self, links: list[Link]) -> Callable[[int, int, int, Frame], None]:
        def transmit(path: int, number: int, size: int, frame: Frame) -> None:
            links[path].send(self.now, size, (path, number, size, frame))

        return transmit

    # -- a path manager of a few lines: silent paths are left, probed, and taken up again

    def _silent_at_a(self, path: int) -> None:
        self._silent(self.a, path)

    def _silent_at_b(self, path: int) -> None:
        self._silent(self.b, path)

    def _silent(self, core: Core, path: int) -> None:
        self.silences.append((self.now, "a" if core is self.a else "b", path))
        self.failed[core].setdefault(path, self.now)

    def _usable(self, core: Core) -> int:
        return sum(1 << path for path in self.paths if path not in self.failed[core])

    def _manage(self) -> None:
        bits = (1 << len(self.paths)) - 1
        for core, links in ((self.a, self.out), (self.b, self.back)):
            for path, due in list(self.failed[core].items()):
                if due <= self.now:
                    self.failed[core][path] = self.now + PROBE
                    links[path].send(self.now, 100, 0)  # a probe
            core.set_paths(bits, self._usable(core), self.now)

    def _probed(self, path: int, kind: int, at_a: bool) -> None:
        if kind == 0:
            (self.back if not at_a else self.out)[path].send(self.now, 100, 1)
            return
        core = self.a if at_a else self.b
        if self.failed[core].pop(path, None) is not None:
            core.tuner.restart(path)
            core.set_paths((1 << len(self.paths)) - 1, self._usable(core), self.now)

    # -- time

    def at(self, after_ms: float, what: Callable[[], None]) -> None:
        """Once, so long after the world began."""
        self.plan.append((self.start + int(after_ms * MS), what))
        self.plan.sort(key=lambda entry: entry[0])

    def send(self, packets: list[bytes]) -> None:
        self.a.send(packets, self.now)

    def answer(self, packet: bytes) -> None:
        self.b.send([turned(packet)], self.now)

    def run(self, ms: float) -> float:
        """So long; returns what was delivered at B, inner bits a second."""
        end = self.now + int(ms * MS)
        before = self.delivered_bytes
        a, b, out, back, sources = self.a, self.b, self.out, self.back, self.sources
        due_a, due_b = a.deadline(), b.deadline()
        again = 0
        while True:
            at = min(due_a, due_b, self._tick)
            link: Link | None = None
            for each in (*out, *back):
                if each.pipe and each.pipe[0][1] <= at:
                    at, link = each.pipe[0][1], each
            source: Source | None = None
            for one in sources:
                if one.due() < at:
                    at, source, link = one.due(), one, None
            if self.plan and self.plan[0][0] < at:
                at, source, link = self.plan[0][0], None, None
            if at > end:
                break
            self.now = max(self.now, at)
            if source is not None:
                source.act(self.now)
                due_a, due_b = a.deadline(), b.deadline()
            elif link is not None:
                self._arrive(link)
                due_a, due_b = a.deadline(), b.deadline()
            elif self.plan and self.plan[0][0] <= self.now:
                self.plan.pop(0)[1]()
                due_a, due_b = a.deadline(), b.deadline()
            elif self._tick <= self.now:
                self._tick += TICK
                self._manage()
                a.sample(self.paths, self.now)
                b.sample(self.paths, self.now)
                due_a, due_b = a.deadline(), b.deadline()
            else:
                for core, due in ((a, due_a), (b, due_b)):
                    if due <= self.now:
                        core.settle(self.now)
                due_a, due_b = a.deadline(), b.deadline()
                # New parameters, read in the middle of a turn, may make something else due.
                again = again + 1 if min(due_a, due_b) <= self.now else 0
                assert again < 4, "due at once, again and again: time would stand still"
        self.now = end
        self.longest_stall = max(self.longest_stall, end - self.last_delivery)
        return (self.delivered_bytes - before) * 8e3 / ms

    def _arrive(self, link: Link) -> None:
        _, _, what = link.pipe.popleft()
        forth = link in self.out
        if isinstance(what, int):
            self._probed((self.out if forth else self.back).index(link), what, not forth)
            return
        path, number, size, frame = what
        if forth:
            self.paths_bytes[path] += size
        (self.b if forth else self.a).receive(path, number, size, frame, self.now)
