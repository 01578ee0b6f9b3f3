"""What sends over a World: a greedy source, a steady one, pings, and TCP."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from multipath_core import MS
from multipath_world import NEVER, PACKET, SECOND, SYN, WINDOW_SCALE, World


class _Source:
    bbr = False
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


@dataclass(slots=True)
class Flight:
    """A packet on its way, and what tcp_rate.c notes of it: packets, ns."""

    sent: int
    first_sent: int
    delivered: int
    delivered_at: int
    again: bool


class Tcp(_Source):
    """One bulk flow, selective ACKs, RACK loss detection with an adaptive reordering window.

    An ACK carries the receiver's cumulative serial; what it holds beyond is read from the receiver
    directly, as SACK would tell. Its congestion control is Cubic here or Bbr (multipath_bbr.py).
    """

    def __init__(self, start_ms: float = 0, *, connected: bool = False) -> None:
        self.start_ms = start_ms
        self.connected = connected
        self.syn_at = 1 if connected else 0
        self.cwnd = 10.0
        self.next_serial = 0
        #: when it last had something for the application, and the longest time without
        self.handed_on = self.longest_wait = 0
        self.flights: dict[int, Flight] = {}  # by serial, in order of sending
        self.lost: deque[int] = deque()
        self.given_up: dict[int, Flight] = {}  # in flight when the timer ran out
        self.retransmits = self.spurious = self.timeouts = 0
        self.again: dict[int, int] = {}
        # receiver
        self.expected = 0
        self.beyond: set[int] = set()
        self._unacked = 0
        self._ack_at = NEVER
        self._acks: dict[int, list[int]] = {}
        self._ack_serial = self._ack_read = 0
        self._fresh: list[int] = []
        # sender
        self.srtt = self.rtt = 0.0  # smoothed, last: ns
        self.una = 0
        self.edge = 10  # the first packet that its receiver's window has no room for
        self.rtt_min = 1e18
        self.reorder_window = 0.25
        self.recovery_until = 0
        self.count = 0  # delivered
        self.delivered_at = self.first_sent = 0
        self.newest_sent = 0
        self._due = 0
        self._timeout = NEVER
        self.goodput = 0

    def begin(self, world: World) -> None:
        super().begin(world)
        self._due = 0 if self.connected else world.now + int(self.start_ms * MS)

    # -- what a congestion control adds

    def _connected(self, rtt: int, now: int) -> None:
        """The handshake took so long."""

    def _room(self, now: int) -> int:
        """How many packets may leave; sets _due where it is a matter of time."""
        raise NotImplementedError

    def _left(self, packets: int, now: int) -> None:
        """So many left."""
        raise NotImplementedError

    def _acked(self, taken: list[Flight], late: int, now: int) -> None:
        """An ACK brought these, and showed so many as lost."""
        raise NotImplementedError

    def _reduce(self, late: int, now: int) -> None:
        """Recovery begins with so many lost."""
        raise NotImplementedError

    def _undo(self) -> None:
        """One that was sent again came after all."""

    def _timed_out(self, now: int) -> None:
        """All that was in flight counts as lost."""

    def _timed_out_wrongly(self) -> None:
        """It was not."""

    # -- receiver, at B

    def delivered(self, serial: int, size: int, now: int) -> None:
        if serial == SYN:
            self.world.answer(self.world.syn(self, 0x12))
            return
        if serial >= self.expected and serial not in self.beyond:
            self.beyond.add(serial)
            self.goodput += size
        out_of_order = serial != self.expected
        if not out_of_order:
            self.longest_wait = max(self.longest_wait, now - (self.handed_on or now))
            self.handed_on = now
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
        ack = self.expected * (PACKET - 40) & 0xFFFFFFFF
        self.world.answer(self.world.packet(self, self._ack_serial, 40, protocol=6, ack=ack))
        self._ack_serial += 1

    # -- sender, at A

    def due(self) -> int:
        return min(self._due, self._ack_at, self._timeout)

    def act(self, now: int) -> None:
        if self._ack_at <= now:
            self._acknowledge()
            return
        if not self.syn_at:
            self.syn_at, self._due = now, now + SECOND
            self.world.send([self.world.syn(self, 2)])
            return
        if not self.connected:
            self.syn_at = 0  # lost: again
            return
        if self._timeout <= now:
            self.timeouts += 1
            self._timeout = now + SECOND // 2
            self.lost = deque(sorted({*self.lost, *self.flights}))
            self.given_up |= self.flights
            self.flights.clear()
            self._timed_out(now)
        self._transmit(now)

    def answered(self, packet: bytes, now: int) -> None:
        _, ack = self.world.parse(packet)
        if ack == SYN:
            if not self.connected:
                self.connected, self._due = True, now
                self.srtt = self.rtt_min = float(now - self.syn_at)
                self._connected(now - self.syn_at, now)
            return
        # What those told that were lost, this one tells as well.
        told = [self._acks.pop(n) for n in range(self._ack_read, ack + 1)]
        self._ack_read = max(self._ack_read, ack + 1)
        if not told:
            return
        expected = told[-1][0]
        fresh = [serial for _, *serials in told for serial in serials]
        window = int.from_bytes(packet[34:36], "big") << WINDOW_SCALE
        if expected >= self.una:
            self.edge = expected + window // (PACKET - 40)
        taken, sample = [], 0.0
        for serial in fresh:
            if serial in self.given_up and serial in self.lost:
                self._came_after_all()
            flight = self.flights.pop(serial, None)
            if flight is None:
                if serial in self.again:  # came after all: DSACK
                    self.spurious += 1
                    self._undo()
                    self.reorder_window = min(1.0, self.reorder_window + 0.25)
                    if serial in self.lost:
                        self.lost.remove(serial)
                    del self.again[serial]
                continue
            taken.append(flight)
            if not flight.again:
                sample = float(now - flight.sent)
                self.newest_sent = max(self.newest_sent, flight.sent)
        while self.lost and self.lost[0] < expected:
            self.lost.popleft()
            self.spurious += 1
        while self.flights and (oldest := next(iter(self.flights))) < expected:
            taken.append(self.flights.pop(oldest))  # their ACK was lost
        self.rtt, self.una = sample, expected
        if sample:
            self.srtt = sample if not self.srtt else self.srtt + (sample - self.srtt) / 8
            self.rtt_min = min(self.rtt_min, sample)
        if taken:
            self.count += len(taken)
            self.delivered_at = now
        self._acked(taken, self._detect(now), now)
        # An ACK clears the timer only if it moves something on. 0.2 s are added (Linux, rto_min).
        self._timeout = now + int(self.srtt) + max(SECOND // 5, int(self.srtt) + 50 * MS)
        self._due = now

    def _came_after_all(self) -> None:
        """What was not sent again since the timer ran out arrives: it ran out too soon (F-RTO, RFC
        5682), and nothing that waits to be sent again is lost."""
        self.flights |= {n: self.given_up[n] for n in self.lost if n in self.given_up}
        self.flights = dict(sorted(self.flights.items()))
        self.lost = deque(n for n in self.lost if n not in self.given_up)
        self.given_up.clear()
        self._timed_out_wrongly()

    def _detect(self, now: int) -> int:
        """RACK (RFC 8985): lost if one sent so much later has arrived."""
        limit = self.newest_sent - self.reorder_window * min(self.srtt, self.rtt_min)
        late = []
        for serial, flight in self.flights.items():
            if flight.sent >= limit:
                break
            late.append(serial)
        for serial in late:
            del self.flights[serial]
            self.lost.append(serial)
            self.again[serial] = now
        if late and now > self.recovery_until:
            self.recovery_until = now + int(self.srtt)
            self._reduce(len(late), now)
        return len(late)

    def _transmit(self, now: int) -> None:
        self._due = NEVER
        room = self._room(now)
        packets: list[bytes] = []
        while room > 0:
            again = bool(self.lost)
            if again:
                serial = self.lost.popleft()
                if serial < self.expected or serial in self.beyond:
                    continue  # SACKed meanwhile
                self.retransmits += 1
            elif self.next_serial >= self.edge:
                break
            else:
                serial = self.next_serial
                self.next_serial += 1
            if not self.flights:
                self.first_sent = self.delivered_at = now
            self.flights[serial] = Flight(
                now, self.first_sent, self.count, self.delivered_at, again
            )
            packets.append(self.world.packet(self, serial, protocol=6))
            room -= 1
        self._left(len(packets), now)
        if packets:
            if self._timeout == NEVER:
                self._timeout = now + SECOND
            self.world.send(packets)


class Cubic(Tcp):
    """RFC 9438 as Linux has it (tcp_cubic.c). A `first` flow begins with its handshake and
    leaves slow start as HyStart says; else it is connected, and only a loss ends its slow start."""

    def __init__(self, start_ms: float = 0, *, first: bool = False) -> None:
        super().__init__(start_ms, connected=not first)
        self.hystart = first
        self.ssthresh = 1e9
        self.w_max, self.epoch = 0.0, 0
        self.begun = self.reno = 0.0  # the window when the epoch began; what a Reno would have
        self.before: tuple[float, float, float, int] | None = None
        self.in_time = (self.cwnd, self.ssthresh)  # before the timer ran out
        self.wrongly = 0  # sent again in this recovery, and not yet seen to have come
        self.full = False  # the last sending was stopped by the window
        self.lost_once = False
        #: of slow start's round: its end (serial), begin, last close ACK, least RTT, samples
        self.round_end = self.round_began = self.train = self.samples = 0
        self.round_rtt = 1e18
        self.least_rtt = 1e18  # of data: a handshake does not count

    def _room(self, now: int) -> int:
        return int(self.cwnd) - len(self.flights)

    def _left(self, packets: int, now: int) -> None:
        self.full = self.full or len(self.flights) >= int(self.cwnd) - 1

    def _timed_out(self, now: int) -> None:
        self.in_time = (self.cwnd, self.ssthresh)
        self.cwnd, self.ssthresh = 2.0, max(self.cwnd / 2, 2)

    def _timed_out_wrongly(self) -> None:
        self.cwnd, self.ssthresh = self.in_time

    def _reduce(self, late: int, now: int) -> None:
        self.before = (self.cwnd, self.ssthresh, self.w_max, self.epoch)
        self.wrongly, self.lost_once = 0, True
        self.w_max = self.cwnd
        self.cwnd = max(self.cwnd * 0.7, 2.0)
        self.ssthresh, self.epoch = self.cwnd, now
        self.begun = self.reno = self.cwnd

    def _undo(self) -> None:
        """All that was sent again came after all: as if nothing had been (RFC 4015)."""
        self.wrongly -= 1
        if self.wrongly == 0 and self.before:
            cwnd, ssthresh, self.w_max, self.epoch = self.before
            self.cwnd, self.ssthresh = max(self.cwnd, cwnd), max(self.ssthresh, ssthresh)
            self.recovery_until, self.before = 0, None

    def _acked(self, taken: list[Flight], late: int, now: int) -> None:
        self.wrongly += late
        if self.rtt:
            self.least_rtt = min(self.least_rtt, self.rtt)
        if self.cwnd < self.ssthresh and taken and self._slow_start_is_over(now):
            self.ssthresh = self.cwnd
        if now < self.recovery_until or not self.full:
            return
        self.full = False
        if self.cwnd < self.ssthresh:
            self.cwnd += len(taken)
            return
        if not self.epoch:
            # Where slow start ended by itself it grows from here on, at first hardly. A later flow
            # knows its threshold, and is left where it is.
            self.epoch, self.reno = now, self.cwnd
            self.w_max = max(self.w_max, self.cwnd) if self.hystart else self.cwnd
            self.begun = self.cwnd
        fall = max(0.0, self.w_max - self.begun) if self.hystart else self.w_max * 0.3
        k = (fall / 0.4) ** (1 / 3)
        target = 0.4 * ((now - self.epoch + self.srtt) / SECOND - k) ** 3 + self.w_max
        if self.hystart:
            self.reno += 0.53 * len(taken) / self.cwnd
            target = max(target, self.reno)
            if not self.lost_once:  # by 5 % a round trip at least
                target = max(target, 1.05 * self.cwnd)
        if target > self.cwnd:
            self.cwnd += min(target - self.cwnd, self.cwnd / 2) / self.cwnd * len(taken)
        else:
            self.cwnd += 0.01 * len(taken) / self.cwnd

    def _slow_start_is_over(self, now: int) -> bool:
        """HyStart: close ACKs for half the least round trip, or a round whose least is longer."""
        if self.una >= self.round_end:
            self.round_end, self.round_began, self.train = self.next_serial, now, now
            self.round_rtt, self.samples = 1e18, 0
        if self.cwnd < 16 or not self.hystart:
            return False
        if now - self.train <= 2 * MS:
            self.train = now
            if now - self.round_began > (self.least_rtt + MS) / 2:
                return True
        if not self.rtt:
            return False
        self.round_rtt = min(self.round_rtt, self.rtt)
        self.samples += 1
        more = min(max(self.least_rtt / 8, 4 * MS), 16 * MS)
        return self.samples > 8 and self.round_rtt > self.least_rtt + more
