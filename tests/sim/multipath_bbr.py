"""Linux's BBR (net/ipv4/tcp_bbr.c, v1) over a World, with tcp_rate.c's samples.

As Linux has it: rounds by what was delivered, the least round trip of 10 s and PROBE_RTT, gain
cycles as long as that round trip, extra room for acknowledgements that come in bunches, and a
sample's time the longer one of sending and acknowledging. Left out: its detection of policers.
"""

from __future__ import annotations

import random
from collections import deque

from multipath_core import MS
from multipath_sources import Flight, Tcp
from multipath_world import SECOND

HIGH_GAIN = 2.885
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
BW_ROUNDS = 10
RTT_WINDOW = 10 * SECOND
PROBE_RTT = 200 * MS
EXTRA_ROUNDS = 5
EXTRA_MOST = SECOND // 10
PACING_MARGIN = 0.99
INITIAL_WINDOW = 10


class Bbr(Tcp):
    """One bulk flow. Rates are packets a nanosecond, times ns."""

    bbr = True

    def __init__(self, start_ms: float = 0, seed: int = 1) -> None:
        super().__init__(start_ms)
        self.rng = random.Random(seed)  # noqa: S311
        self.cwnd = float(INITIAL_WINDOW)
        self.prior_cwnd = 0.0
        self.mode = "startup"
        self.rates: deque[tuple[int, float]] = deque()  # falling, the first is the greatest
        self.rounds = self.next_round = 0
        self.full_rate, self.full_rounds, self.filled = 0.0, 0, False
        self.least_rtt = self.least_at = 0
        self.cycle, self.cycle_at = 2, 0
        self.probed_at, self.probe_round = 0, False
        self.extras = [0.0, 0.0]
        self.extra_index = self.extra_rounds = 0
        self.epoch_at, self.epoch_acked = 0, 0.0
        self.recovering = self.conserving = False
        self.recovery_point = 0
        self.pacing = 0.0
        self.pace_at = 0

    def _connected(self, rtt: int, now: int) -> None:
        self.least_rtt, self.least_at = rtt, now
        self.pacing = HIGH_GAIN * INITIAL_WINDOW / rtt
        self.cycle_at = self.epoch_at = now

    def _reduce(self, late: int, now: int) -> None:
        if self.recovering:
            return
        self.recovering, self.recovery_point = True, self.next_serial
        if self.mode != "probe_rtt":
            self.prior_cwnd = self.cwnd
        self.conserving, self.next_round = True, self.count
        self.cwnd = float(len(self.flights) + 1)

    def _acked(self, taken: list[Flight], late: int, now: int) -> None:
        if self.recovering and self.expected >= self.recovery_point and not self.lost:
            self.recovering = self.conserving = False
            self.cwnd = max(self.cwnd, self.prior_cwnd)
        latest = max(taken, key=lambda flight: flight.sent, default=None)
        interval = 0
        if latest is not None:
            self.first_sent = latest.sent
            interval = max(latest.sent - latest.first_sent, now - latest.delivered_at)
        prior = latest.delivered if latest is not None and interval >= self.rtt_min else None
        rtts = [now - flight.sent for flight in taken if not flight.again]
        before = len(self.flights) + len(taken) + late
        self._main(now, len(taken), late, prior, interval, min(rtts, default=0), before)

    # -- bbr_main

    def _best(self) -> float:
        return self.rates[0][1] if self.rates else 0.0

    def _main(
        self,
        now: int,
        acked: int,
        lost: int,
        prior: int | None,
        interval: int,
        rtt: int,
        before: int,
    ) -> None:
        round_start = False
        if prior is not None:
            if prior >= self.next_round:
                self.next_round = self.count
                self.rounds += 1
                round_start, self.conserving = True, False
            rate = (self.count - prior) / interval
            while self.rates and self.rates[-1][1] <= rate:
                self.rates.pop()
            self.rates.append((self.rounds, rate))
            while self.rounds - self.rates[0][0] > BW_ROUNDS:
                self.rates.popleft()
            if acked:
                self._aggregate(now, acked, round_start)
        self._cycle(now, lost, before)
        self._check_full(round_start)
        inflight = len(self.flights)
        if self.mode == "startup" and self.filled:
            self.mode = "drain"
        if self.mode == "drain" and inflight <= self._inflight(1.0):
            self._probe_bw(now)
        self._update_least(now, rtt, inflight, round_start)
        gain = {"startup": HIGH_GAIN, "drain": 1 / HIGH_GAIN, "probe_rtt": 1.0}.get(
            self.mode, CYCLE[self.cycle]
        )
        pacing = self._best() * gain * PACING_MARGIN
        if pacing and (self.filled or pacing > self.pacing):
            self.pacing = pacing
        self._window(acked, lost)

    def _aggregate(self, now: int, acked: int, round_start: bool) -> None:
        if round_start:
            self.extra_rounds += 1
            if self.extra_rounds >= EXTRA_ROUNDS:
                self.extra_rounds = 0
                self.extra_index ^= 1
                self.extras[self.extra_index] = 0.0
        expected = self._best() * (now - self.epoch_at)
        if self.epoch_acked <= expected:
            self.epoch_acked, self.epoch_at, expected = 0.0, now, 0.0
        self.epoch_acked += acked
        extra = min(self.epoch_acked - expected, self.cwnd)
        self.extras[self.extra_index] = max(self.extras[self.extra_index], extra)

    def _cycle(self, now: int, lost: int, before: int) -> None:
        if self.mode != "probe_bw":
            return
        gain = CYCLE[self.cycle]
        full = self.delivered_at - self.cycle_at > self.least_rtt
        if gain > 1:
            on = full and (lost > 0 or before >= self._inflight(gain))
        elif gain < 1:
            on = full or before <= self._inflight(1.0)
        else:
            on = full
        if on:
            self.cycle = (self.cycle + 1) % len(CYCLE)
            self.cycle_at = self.delivered_at

    def _probe_bw(self, now: int) -> None:
        self.mode = "probe_bw"
        self.cycle = (8 - self.rng.randrange(7)) % 8
        self.cycle_at = now

    def _check_full(self, round_start: bool) -> None:
        if self.filled or not round_start:
            return
        if self._best() >= self.full_rate * 1.25:
            self.full_rate, self.full_rounds = self._best(), 0
            return
        self.full_rounds += 1
        self.filled = self.full_rounds >= 3

    def _update_least(self, now: int, rtt: int, inflight: int, round_start: bool) -> None:
        expired = now - self.least_at > RTT_WINDOW
        if rtt and (rtt < self.least_rtt or expired):
            self.least_rtt, self.least_at = rtt, now
        if expired and self.mode != "probe_rtt":
            self.mode = "probe_rtt"
            self.prior_cwnd = max(self.prior_cwnd if self.recovering else 0.0, self.cwnd)
            self.probed_at = 0
        if self.mode != "probe_rtt":
            return
        if not self.probed_at and inflight <= 4:
            self.probed_at, self.probe_round = now + PROBE_RTT, False
            self.next_round = self.count
        elif self.probed_at:
            self.probe_round = self.probe_round or round_start
            if self.probe_round and now > self.probed_at:
                self.least_at = now
                self.cwnd = max(self.cwnd, self.prior_cwnd)
                if self.filled:
                    self._probe_bw(now)
                else:
                    self.mode = "startup"

    def _tso(self) -> int:
        return max(2, int(self.pacing * MS * 1.05))

    def _inflight(self, gain: float) -> float:
        return self._quantized(gain * self._best() * self.least_rtt)

    def _quantized(self, window: float) -> float:
        window += 3 * self._tso()
        window = (int(window) + 1) & ~1
        return float(window + (2 if self.mode == "probe_bw" and self.cycle == 0 else 0))

    def _window(self, acked: int, lost: int) -> None:
        if acked:
            if lost:
                self.cwnd = max(self.cwnd - lost, 1.0)
            if self.conserving:
                self.cwnd = max(self.cwnd, float(len(self.flights) + acked))
            else:
                gain = HIGH_GAIN if self.mode in ("startup", "drain") else 2.0
                gain = 1.0 if self.mode == "probe_rtt" else gain
                target = gain * self._best() * self.least_rtt
                if self.filled:
                    target += min(max(self.extras), self._best() * EXTRA_MOST)
                target = self._quantized(target)
                if self.filled:
                    self.cwnd = min(self.cwnd + acked, target)
                elif self.cwnd < target or self.count < INITIAL_WINDOW:
                    self.cwnd += acked
                self.cwnd = max(self.cwnd, 4.0)
        if self.mode == "probe_rtt":
            self.cwnd = min(self.cwnd, 4.0)

    # -- sending

    def _room(self, now: int) -> int:
        if self.pace_at > now:
            self._due = self.pace_at
            return 0
        return min(int(self.cwnd) - len(self.flights), self._tso())

    def _left(self, packets: int, now: int) -> None:
        if packets:
            self._due = self.pace_at = now + int(packets / self.pacing)
