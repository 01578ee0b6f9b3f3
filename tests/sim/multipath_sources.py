"""What sends over a World: a greedy source, a steady one, pings, and two kinds of TCP."""

from __future__ import annotations

from collections import deque

from multipath_core import MS
from multipath_world import NEVER, PACKET, SECOND, World


class _Source:
    world: World

    def begin(self, world: World) -> None:
        self.world = world

    def due(self) -> int:
        return NEVER

    def act(self, now: int) -> None:
        pass

    def delivered(self, serial: int, size: int, now: int) -> None:
        pass

    def answered(self, packet: bytes, now: int) -> None:
        pass


class Greedy(_Source):
    """Never lets our queue run empty."""

    def __init__(self, waiting: int = 150) -> None:
        self.waiting, self.serial, self._due = waiting, 0, 0

    def due(self) -> int:
        return self._due

    def act(self, now: int) -> None:
        self._due = now + MS
        short = self.waiting - int(self.world.a.stats.queue_packets)
        if short > 0:
            packets = [self.world.packet(self, self.serial + i) for i in range(short)]
            self.serial += short
            self.world.send(packets)


class Steady(_Source):
    """So many bits a second, in packets of `size`, from `start_ms` on."""

    def __init__(self, rate_mbps: float, size: int = PACKET, start_ms: float = 0) -> None:
        self.gap = int(size * 8e3 / rate_mbps)
        self.size, self.serial, self._start_ms, self._due = size, 0, start_ms, 0
        self.sent_at: dict[int, int] = {}
        self.delays_ms: list[float] = []

    def begin(self, world: World) -> None:
        super().begin(world)
        self._due = world.now + int(self._start_ms * MS)

    def due(self) -> int:
        return self._due

    def act(self, now: int) -> None:
        self._due += self.gap
        self.sent_at[self.serial] = now
        self.world.send([self.world.packet(self, self.serial, self.size)])
        self.serial += 1

    def delivered(self, serial: int, size: int, now: int) -> None:
        self.delays_ms.append((now - self.sent_at.pop(serial)) / MS)


class Ping(_Source):
    """84 bytes of ICMP every 20 ms, answered by B."""

    def __init__(self) -> None:
        self.serial, self._due = 0, 0
        self.sent_at: dict[int, int] = {}
        self.rtts_ms: list[float] = []

    def due(self) -> int:
        return self._due

    def act(self, now: int) -> None:
        self._due = now + 20 * MS
        self.sent_at[self.serial] = now
        self.world.send([self.world.packet(self, self.serial, 84, protocol=1)])
        self.serial += 1

    def delivered(self, serial: int, size: int, now: int) -> None:
        self.world.answer(self.world.packet(self, serial, 84, protocol=1))

    def answered(self, packet: bytes, now: int) -> None:
        _, serial = self.world.parse(packet)
        if serial in self.sent_at:
            self.rtts_ms.append((now - self.sent_at.pop(serial)) / MS)


class Tcp(_Source):
    """One bulk flow, selective ACKs, RACK loss detection with an adaptive reordering window.

    control: "cubic" (RFC 9438, HyStart's delay exit left out) or "bbr" (v1 without its RTT probe).
    An ACK carries the receiver's cumulative serial; what it holds beyond is read from the receiver
    directly, as SACK would tell.
    """

    def __init__(self, control: str = "cubic") -> None:
        self.control = control
        self.cwnd, self.ssthresh = 10.0, 1e9
        self.next_serial = 0
        self.flying: dict[int, tuple[int, int]] = {}  # serial -> sent at, delivered count then
        self.lost: deque[int] = deque()
        self.retransmits = self.spurious = self.timeouts = 0
        self.again: dict[int, int] = {}
        # receiver
        self.expected = 0
        self.beyond: set[int] = set()
        self._unacked = 0
        self._ack_at = NEVER
        self._acks: dict[int, list[int]] = {}
        self._ack_serial = 0
        self._fresh: list[int] = []
        # sender
        self.srtt = 0.0
        self.rtt_min = 1e18
        self.reorder_window = 0.25
        self.recovery_until = 0
        self.w_max, self.epoch = 0.0, 0
        self.before: tuple[float, float, float, int] | None = None
        self.wrongly = 0  # sent again in this recovery, and not yet seen to have come
        self.count = 0  # delivered
        self.newest_sent = 0
        self._due = 0
        self._timeout = NEVER
        # bbr
        self.bw: deque[tuple[int, float]] = deque()
        self.round_at, self.full_bw, self.full_rounds, self.filled = 0, 0.0, 0, False
        self.cycle, self.cycle_at = 0, 0
        self.pace_at = 0
        self.goodput = 0
        self.full = False  # the last sending was stopped by the window
        self.burst_at, self.burst = 0, 0.0
        self.extra: deque[tuple[int, float]] = deque()

    # -- receiver, at B

    def delivered(self, serial: int, size: int, now: int) -> None:
        if serial >= self.expected and serial not in self.beyond:
            self.beyond.add(serial)
            self.goodput += size
        out_of_order = serial != self.expected
        while self.expected in self.beyond:
            self.beyond.discard(self.expected)
            self.expected += 1
        self._fresh.append(serial)
        self._unacked += 1
        # GRO hands over a few at a time; what is out of order is told at once
        if self._unacked >= 8 or out_of_order:
            self._acknowledge()
        else:
            self._ack_at = min(self._ack_at, now + MS // 2)

    def _acknowledge(self) -> None:
        self._unacked, self._ack_at = 0, NEVER
        self._acks[self._ack_serial] = [self.expected, *self._fresh]
        self._fresh = []
        self.world.answer(self.world.packet(self, self._ack_serial, 40, protocol=6))
        self._ack_serial += 1

    # -- sender, at A

    def due(self) -> int:
        return min(self._due, self._ack_at, self._timeout)

    def act(self, now: int) -> None:
        if self._ack_at <= now:
            self._acknowledge()
            return
        if self._timeout <= now:
            self.timeouts += 1
            self._timeout = now + SECOND // 2
            self.lost = deque(sorted(self.flying))
            self.flying.clear()
            self.cwnd, self.ssthresh = 2.0, max(self.cwnd / 2, 2)
        self._transmit(now)

    def answered(self, packet: bytes, now: int) -> None:
        _, ack = self.world.parse(packet)
        expected, *fresh = self._acks.pop(ack)
        sample = 0.0
        rate = 0.0
        for serial in fresh:
            flight = self.flying.pop(serial, None)
            if flight is None:
                if serial in self.again:  # came after all: DSACK
                    self.spurious += 1
                    self._undo()
                    self.reorder_window = min(1.0, self.reorder_window + 0.25)
                    if serial in self.lost:
                        self.lost.remove(serial)
                    del self.again[serial]
                continue
            self.count += 1
            sent, count = flight
            if serial not in self.again:
                sample = float(now - sent)
                self.newest_sent = max(self.newest_sent, sent)
            rate = max(rate, (self.count - count) * 1e9 / max(now - sent, 1))
        while self.lost and self.lost[0] < expected:
            self.lost.popleft()
            self.spurious += 1
        if ack % 64 == 0:  # those whose ACK was lost
            for serial in [s for s in self.flying if s < expected]:
                del self.flying[serial]
        if sample:
            self.srtt = sample if not self.srtt else self.srtt + (sample - self.srtt) / 8
            self.rtt_min = min(self.rtt_min, sample)
        self._detect(now)
        grown = len(fresh)
        if self.control == "bbr":
            self._bbr(rate, grown, now)
        else:
            self._cubic(grown, now)
        # An ACK clears the timer only if it moves something on.
        self._timeout = now + max(SECOND // 5, int(2 * self.srtt) + 50 * MS)
        self._due = now

    def _detect(self, now: int) -> None:
        """RACK (RFC 8985): lost if one sent so much later has arrived."""
        limit = self.newest_sent - self.reorder_window * min(self.srtt, self.rtt_min)
        late = []
        for serial, (sent, _) in self.flying.items():
            if sent >= limit:
                break  # in order of sending
            late.append(serial)
        for serial in late:
            del self.flying[serial]
            self.lost.append(serial)
            self.again[serial] = now
        self.wrongly += len(late)
        if late and now > self.recovery_until:
            self.recovery_until = now + int(self.srtt)
            if self.control == "cubic":
                self.before = (self.cwnd, self.ssthresh, self.w_max, self.epoch)
                self.wrongly = len(late)
                self.w_max = self.cwnd
                self.cwnd = max(self.cwnd * 0.7, 2.0)
                self.ssthresh, self.epoch = self.cwnd, now

    def _undo(self) -> None:
        """All that was sent again came after all: as if nothing had been (RFC 4015)."""
        self.wrongly -= 1
        if self.wrongly == 0 and self.before:
            cwnd, ssthresh, self.w_max, self.epoch = self.before
            self.cwnd, self.ssthresh = max(self.cwnd, cwnd), max(self.ssthresh, ssthresh)
            self.recovery_until, self.before = 0, None

    def _cubic(self, acked: int, now: int) -> None:
        if now < self.recovery_until or not self.full:
            return
        self.full = False
        if self.cwnd < self.ssthresh:
            self.cwnd += acked
            return
        if not self.epoch:
            self.epoch, self.w_max = now, self.cwnd
        k = (self.w_max * 0.3 / 0.4) ** (1 / 3)
        target = 0.4 * ((now - self.epoch + self.srtt) / SECOND - k) ** 3 + self.w_max
        if target > self.cwnd:
            self.cwnd += min(target - self.cwnd, self.cwnd / 2) / self.cwnd * acked
        else:
            self.cwnd += 0.01 * acked / self.cwnd

    def _bbr(self, rate: float, acked: int, now: int) -> None:
        span = int(10 * max(self.srtt, 1e6))
        if rate:
            while self.bw and self.bw[-1][1] <= rate:
                self.bw.pop()
            self.bw.append((now, rate))
        while self.bw and now - self.bw[0][0] > span:
            self.bw.popleft()
        best = self.bw[0][1] if self.bw else 100.0
        if now - self.round_at > self.srtt:
            self.round_at = now
            if not self.filled:
                if best > self.full_bw * 1.25:
                    self.full_bw, self.full_rounds = best, 0
                else:
                    self.full_rounds += 1
                    self.filled = self.full_rounds >= 3
            self.cycle = (self.cycle + 1) % 8
        gain = 2.0 if self.filled else 2.89
        # ACKs that come in bursts: what came beyond the rate may be in flight as well (Linux).
        expected = best * (now - self.burst_at) / 1e9
        if self.burst <= expected:
            self.burst, self.burst_at, expected = 0.0, now, 0.0
        self.burst += acked
        more = min(self.burst - expected, self.cwnd, best / 10)
        while self.extra and self.extra[-1][1] <= more:
            self.extra.pop()
        self.extra.append((now, more))
        while now - self.extra[0][0] > 10 * self.srtt and len(self.extra) > 1:
            self.extra.popleft()
        self.cwnd = max(gain * best * self.rtt_min / 1e9 + 6 + self.extra[0][1], 10.0)

    def _pace_bps(self) -> float:
        best = self.bw[0][1] if self.bw else 1000.0
        gain = 2.89 if not self.filled else {0: 1.25, 1: 0.75}.get(self.cycle, 1.0)
        return max(best * gain, 100.0)

    def _transmit(self, now: int) -> None:
        self._due = NEVER
        room = int(self.cwnd) - len(self.flying)
        if self.control == "bbr" and self.bw:
            if self.pace_at > now:
                self._due = self.pace_at
                return
            burst = max(2, int(self._pace_bps() / 1000))
            if room > 0:
                room = min(room, burst)
                self.pace_at = max(self.pace_at, now - MS) + int(room * 1e9 / self._pace_bps())
                self._due = self.pace_at
        packets = []
        while room > 0:
            if self.lost:
                serial = self.lost.popleft()
                if serial < self.expected or serial in self.beyond:
                    continue  # SACKed meanwhile
                self.retransmits += 1
            else:
                serial = self.next_serial
                self.next_serial += 1
            self.flying[serial] = (now, self.count)
            packets.append(self.world.packet(self, serial))
            room -= 1
        self.full = self.full or len(self.flying) >= int(self.cwnd) - 1
        if packets:
            if self._timeout == NEVER:
                self._timeout = now + SECOND
            self.world.send(packets)
