"""One path as a fluid: a sender that paces, a link with a queue, a receiver that acknowledges.

No packets and no C: enough to see what the rate control does, in milliseconds of real time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings, PathParams, PathSample, PeerParams

MS = 1_000_000
DATAGRAM = 1450
ACK_MS = 10
TICK_MS = 20


class FluidPath:
    """A path under a PathTuner's control; `run` moves it on a millisecond at a time."""

    def __init__(
        self, rate_bps: float, owd_ms: int, buffer_bytes: float = 1e6, loss: float = 0.0
    ) -> None:
        self.rate_bps, self.owd_ms, self.buffer_bytes, self.loss = (
            rate_bps,
            owd_ms,
            buffer_bytes,
            loss,
        )
        self.foreign_bytes = 0.0  # another's, kept standing in the queue
        self.supply_bps = 1e12
        self.now_ms = 1000
        self.tuner = PathTuner(MultipathSettings())
        self.tuner.add(0, 2000 * owd_ms, self.now_ms * MS)
        self.params: PathParams
        self.peer: PeerParams
        self.sent = self.acked = self.arrived = self.numbers = self.in_flight = 0.0
        #: in the queue: bytes, and the numbers they stand for
        self._chunks: deque[list[float]] = deque()
        self._last_arrival_us = 0
        self._told = 0.0
        self.limited_us = 0
        self._line: deque[tuple[int, float, float, float]] = deque()
        self._acks: deque[tuple[int, float, float, int, float]] = deque()
        self._delay_us = 0.0
        self._sample = PathSample()
        self._backlog = 0.0
        self.queues_ms: list[float] = []
        self._tune()

    def _tune(self) -> None:
        params, self.peer = self.tuner.sample({0: self._sample}, {}, self.now_ms * MS)
        self.params = params[0]

    def run(self, ms: int, each: Callable[[], None] | None = None) -> float:
        """So many milliseconds; returns what arrived, bits a second."""
        before = self.arrived
        self.queues_ms = []
        for _ in range(ms):
            self._step()
            self.queues_ms.append(self.queue * 8e3 / self.rate_bps if self.rate_bps else 0.0)
            if each:
                each()
        return (self.arrived - before) * 8e3 / ms

    def _step(self) -> None:
        self.now_ms += 1
        now = self.now_ms
        self._backlog = min(self._backlog + self.supply_bps / 8e3, 1e6)
        may = min(self.params.rate_bps / 8e3, max(0.0, self.params.window_bytes - self.in_flight))
        send = min(self._backlog, may)
        self._backlog -= send
        if self._backlog > 0:
            self.limited_us += 1000
        else:
            self._backlog = 0.0
        self.sent += send
        self.in_flight += send
        # the link: chance first, then the queue, then the wire
        alive = send * (1 - self.loss)
        room = max(0.0, self.buffer_bytes - self.queue - self.foreign_bytes)
        if send > 0:
            self._chunks.append([min(alive, room + self.rate_bps / 8e3), send])
        standing = self.queue + self.foreign_bytes
        out, numbers = self._serve(self.rate_bps / 8e3)
        if out > 0:
            wait_us = standing * 8e6 / self.rate_bps
            self._line.append((now + self.owd_ms, out, numbers, wait_us))
        while self._line and self._line[0][0] <= now:
            _, out, numbers, wait_us = self._line.popleft()
            self.arrived += out
            self.numbers += numbers
            self._delay_us += (self.owd_ms * 1000 + wait_us - self._delay_us) * 0.5
            self._last_arrival_us = now * 1000
        if now % ACK_MS == 0 and self.arrived > self._told:
            self._told = self.arrived
            self._acks.append(
                (
                    now + self.owd_ms,
                    self.arrived,
                    self.numbers,
                    self._last_arrival_us,
                    self._delay_us,
                )
            )
        while self._acks and self._acks[0][0] <= now:
            self._acked(*self._acks.popleft())
        if now % TICK_MS == 0:
            self._tune()

    @property
    def queue(self) -> float:
        """Bytes of ours that stand in the link's queue."""
        return sum(chunk[0] for chunk in self._chunks)

    def _serve(self, budget: float) -> tuple[float, float]:
        """Takes so many bytes from the queue; returns them, and the numbers they stand for."""
        out = numbers = 0.0
        while self._chunks and out < budget:
            chunk = self._chunks[0]
            part = min(1.0, (budget - out) / chunk[0]) if chunk[0] else 1.0
            out += chunk[0] * part
            numbers += chunk[1] * part
            if part == 1.0:
                self._chunks.popleft()
            else:
                chunk[0] *= 1 - part
                chunk[1] *= 1 - part
        return out, numbers

    def _acked(
        self, _at: int, arrived: float, numbers: float, arrived_us: int, delay_us: float
    ) -> None:
        old = self._sample
        self.in_flight = max(0.0, self.sent - numbers)
        rtt = int(delay_us + self.owd_ms * 1000)
        self._sample = PathSample(
            tx_bytes=int(self.sent),
            tx_packets=int(self.sent / DATAGRAM),
            in_flight_bytes=int(self.in_flight),
            acked_bytes=int(arrived),
            acked_datagrams=int(arrived / DATAGRAM),
            acked_highest=int(numbers / DATAGRAM),
            acked_arrived_us=arrived_us,
            acks=old.acks + 1,
            rtt_us=rtt,
            srtt_us=int(old.srtt_us + (rtt - old.srtt_us) / 4) if old.srtt_us else rtt,
            rttvar_us=1000,
            rtt_min_us=min(old.rtt_min_us or rtt, rtt),
            delay_us=(int(delay_us) + 7_000_000) % (1 << 24),
            limited_us=self.limited_us,
        )
