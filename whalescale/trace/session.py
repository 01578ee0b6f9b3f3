"""One trace: asks the kernel, the agent and bcc, every interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from whalescale.status import Multipath, Peer, Status
from whalescale.trace.flows import Flow, Owners, Pattern
from whalescale.trace.join import Joiner, Record

if TYPE_CHECKING:
    from whalescale.trace.events import Retransmission
    from whalescale.trace.sockets import Sample

Fetch = Callable[[], Status]
NO_BUFFER: Final = "the agent tells of none: the peer speaks plain WireGuard, or the agent is old"
NOT_ROOT: Final = "the agent speaks only to root: `sudo` shows it, and whose a flow is"


class TcpSource(Protocol):
    """What `sockets.Sockets` does."""

    def sample(self, wanted: Callable[[Flow], bool]) -> tuple[list[Sample], int]: ...


class EventSource(Protocol):
    """What `events.Retransmissions` does."""

    missing: str
    lost: int

    def take(self) -> list[Retransmission] | None: ...


@dataclass
class Session:
    """`fetch` None: the agent may not be asked; all flows through the interface are shown.

    `events` None: they were not asked for.
    """

    interface: str
    tcp: TcpSource
    fetch: Fetch | None
    events: EventSource | None = None
    pattern: Pattern = field(default_factory=Pattern)
    peer: str | None = None

    def __post_init__(self) -> None:
        self._joiner = Joiner(self.interface)
        self._owners = Owners(())
        self._told: tuple[tuple[str, tuple[str, ...], str | None], ...] = ()

    def record(self) -> Record:
        """What happened since the last one."""
        missing: dict[str, str] = {}
        multipath = self._ask(missing)
        samples, left_out = self.tcp.sample(self._wanted)
        taken = self._events(missing)
        owned = [(s, self._owners.of(s.flow.destination)) for s in samples]
        shown = {name for _, name in owned} | ({self.peer} if self.peer else set())
        buffers = {name: m for name, m in multipath.items() if name in shown}
        if shown - {None} and not buffers:
            missing.setdefault("buffer", NO_BUFFER)
        now_s, unix_s = time.monotonic(), time.time()
        return self._joiner.step(now_s, unix_s, owned, buffers, taken, missing, left_out)

    def records(self, interval_s: float, seconds: float) -> Iterator[Record]:
        """One each interval for so long. Those that are missed are left out: `interval_s` tells."""
        due = time.monotonic()
        end = due + seconds
        while True:
            yield self.record()
            now = time.monotonic()
            # Half an interval at least: a shorter one has few packets in it and is only noise.
            due += interval_s * max(1, math.ceil((now - due) / interval_s + 0.5))
            if due > end + interval_s / 2:
                return
            time.sleep(due - now)

    def _ask(self, missing: dict[str, str]) -> dict[str, Multipath]:
        """By peer, and notes whose address is whose."""
        if self.fetch is None:
            missing["buffer"] = NOT_ROOT
            return {}
        try:
            peers = self.fetch().peers
        except Exception as e:
            # It may come back (a restart): the flows are still there to be seen.
            missing["buffer"] = str(e) or type(e).__name__
            return {}
        self._know(peers)
        return {p.name: p.multipath for p in peers if p.multipath is not None}

    def _know(self, peers: tuple[Peer, ...]) -> None:
        told = tuple((p.name, p.allowed_ips, p.overlay_address) for p in peers)
        if told != self._told:
            self._told = told
            self._owners = Owners((n, (*ips, *([o] if o else []))) for n, ips, o in told)

    def _wanted(self, flow: Flow) -> bool:
        if not self.pattern.matches(flow):
            return False
        if self.fetch is None:
            return True
        owner = self._owners.of(flow.destination)
        return owner is not None and self.peer in (None, owner)

    def _events(self, missing: dict[str, str]) -> list[Retransmission] | None:
        if self.events is None:
            return None
        taken = self.events.take()
        if taken is None:
            missing["events"] = self.events.missing
        elif self.events.lost:
            missing["events"] = f"{self.events.lost} retransmissions were too many to be told"
        return taken
