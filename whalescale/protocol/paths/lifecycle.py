"""A path's way from candidate to use and back, and the probes on it.

Holds what the path manager (manager.py) and it change together; every method leaves it whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from whalescale.protocol.candidates import NO_LINK, Source, local_of
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths import frames, pmtu
from whalescale.protocol.paths.announce import Announcer
from whalescale.protocol.paths.finder import Finder
from whalescale.protocol.paths.frames import Heartbeat, Probe
from whalescale.protocol.paths.health import (
    HEARTBEAT_BUSY,
    HEARTBEAT_IDLE,
    MAX_OUT,
    PROBE_INTERVAL,
    WAIT_MOST,
    Path,
)
from whalescale.protocol.paths.pins import Pins
from whalescale.protocol.paths.pmtu import PmtuSearch
from whalescale.protocol.paths.probing import (
    PROBE_DATAGRAM,
    RETRY_IDLE,
    RETRY_MOST,
    Book,
    Buckets,
    Memory,
)
from whalescale.protocol.paths.selection import Selection
from whalescale.protocol.paths.supply import Supply
from whalescale.protocol.paths.table import Table
from whalescale.protocol.paths.tuning import Tuner
from whalescale.protocol.paths.types import (
    MAX_PATHS,
    Action,
    AskAnchors,
    MultipathSettings,
    PathEvent,
    PathState,
    Reason,
    RescuePath,
    SendPathControl,
)
from whalescale.protocol.places import Endpoint

NEVER: Final = 1 << 62
#: failed paths are probed so often at least while none works and there is traffic
STRANDED_INTERVAL: Final = NS_PER_S
#: a path that has failed for so long is a candidate again
FAILED_MOST: Final = 300 * NS_PER_S
#: a silence shorter than this was a delay: the path's estimates still hold
BRIEF: Final = NS_PER_S // 2
#: two brief silences so close to each other may be datagrams that are too long for the path
ALARMS: Final = 10 * NS_PER_S
#: unanswered probes prove nothing so soon after an answer where no other link is
OVERLOADED: Final = 5 * NS_PER_S


class Lifecycle:
    """The paths of one peer, with all that decides on them."""

    def __init__(
        self,
        settings: MultipathSettings,
        random: Callable[[int], bytes],
        port: int,
        tuner: Callable[[MultipathSettings], Tuner],
        mtu: int,
        highest: int,
        pins: Pins,
        buckets: Buckets,
        inside: Callable[[str], bool],
        relayed: Callable[[Endpoint], bool],
        may_try: Callable[[Endpoint, int], bool],
    ) -> None:
        self.settings = settings
        self.random = random
        self.mtu = mtu
        self.actions: deque[Action] = deque()
        self.table = Table(min(highest, MAX_PATHS - 1), relayed)
        self.book = Book(port=port, in_use=self.table.pairs, inside=inside)
        self.announcer = Announcer(inside)
        self.pins = pins
        self.supply = Supply(settings, tuner, mtu, self.actions)
        self.finder = Finder(self.book, self.table, pins, buckets.unheard, may_try)
        self.selection = Selection(self.table, self.supply, self.actions)
        #: of the probes under way: the path's number
        self.tokens: dict[bytes, int] = {}
        #: there is a session
        self.active = False
        #: the session carries data
        self.busy = False

    def first(self, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        link = self.book.link_of(local)
        path = Path(0, local, remote, link, Source.CONFIGURED, now)
        path.mtu = PmtuSearch(self.target(path), assumed=True)
        path.remote_link = self.book.remote_link(remote)
        path.pin = self.pins.of(path)
        if not self.active:
            path.next_at = NEVER
        old = self.table.get(0)
        for token in old.out if old is not None else ():
            self.tokens.pop(token, None)
        self.table.paths[0] = path

    def _overloaded(self, path: Path, now: int) -> bool:
        """The path answered lately, and all that could take its place runs over the same link.

        A full link or host loses probes too. To leave for another address of the same link helps
        nothing, and the new path would begin with the least rate.
        """
        if not path.used or path.answered_at is None or now - path.answered_at > OVERLOADED:
            return False
        since = path.answered_at + HEARTBEAT_BUSY
        if any((other.answered_at or 0) > since for other in self._other_anchors(path)):
            return False
        return not any(
            other is not path
            and other.alive
            and (
                other.interface != path.interface
                or self.table.relayed(other) != self.table.relayed(path)
            )
            for other in self.table
        )

    def _other_anchors(self, path: Path) -> list[Path]:
        """Paths over other anchors than this one: one may be dead, and the link well."""
        if not self.table.relayed(path):
            return []
        return [
            other
            for other in self.table
            if other.alive and self.table.relayed(other) and other.remote.ip != path.remote.ip
        ]

    def path_due(self, path: Path, now: int) -> None:
        if path.state is PathState.PROBING:
            if path.given_up(self.finder.crowded, now):
                if path.id:
                    self.release(path, now)
                else:
                    self.fail(path, now, Reason.NO_ANSWER)
            elif path.probes < path.round(self.finder.crowded):
                self.probe(path, now)
            else:
                path.next_at = now + PROBE_INTERVAL
            return
        if path.state is PathState.FAILED:
            assert path.failed_at is not None
            if path.id and now - path.failed_at > FAILED_MOST:
                self.release(path, now)
                return
            if path.row and path.answered_at is not None and now - path.answered_at > 2 * NS_PER_S:
                path.row = 0
        elif path.missed():
            if not self._overloaded(path, now):
                self.fail(path, now, Reason.NO_ANSWER)
                return
            for other in self._other_anchors(path):
                other.urge(now)
        elif path.misses == 1 and path.used and self.busy:
            self.actions.append(AskAnchors())
        elif path.keep_alive(self.busy, now):
            heartbeat = Heartbeat(path.id, now // 1000)
            self.actions.append(SendPathControl(path.id, frames.encode_heartbeat(heartbeat)))
            return
        self.probe(path, now)
        if path.state is PathState.FAILED and self.busy and not any(p.alive for p in self.table):
            path.next_at = min(path.next_at, now + STRANDED_INTERVAL)

    def rest(self, path: Path, now: int) -> None:
        """Nothing is outstanding on it: when to look again."""
        if not path.known and sum(p.alive for p in self.table) > 1:
            path.heartbeat(PROBE_INTERVAL, now)
        elif self.busy:
            path.heartbeat(HEARTBEAT_BUSY if path.used else HEARTBEAT_IDLE, now)
        elif self._kept(path):
            path.heartbeat(HEARTBEAT_IDLE, now)
        elif path.alive and not path.awaiting:
            path.next_at = NEVER  # an idle session with one path stays silent, as WireGuard's

    def _kept(self, path: Path) -> bool:
        """Whether it is to be heard of though no data flows. What leads over an anchor is kept
        by the session with that."""
        if self.table.relayed(path) and not path.used:
            return False
        others = (p for p in self.table if p is not path and p.alive)
        return not all(self.table.relayed(p) for p in others)

    def fill(self, now: int) -> None:
        """Give numbers to candidates."""
        if not self.settings.enabled or not self.table.paths:
            self.finder.stop()
            return
        while (found := self.finder.next(now)) is not None:
            if isinstance(found, Path):
                self.release(found, now)
            else:
                self.begin(*found, now)

    def begin(self, number: int, memory: Memory, now: int) -> None:
        c = memory.candidate
        path = Path(number, c.local, c.remote, c.link, c.source, now)
        path.mtu = PmtuSearch(self.target(path), assumed=False)
        path.remote_link = c.remote_link
        path.replaces, memory.replaces = memory.replaces, None
        path.heard_at = memory.heard_at
        memory.begin()
        path.punched, memory.punched = memory.punched, False
        path.pin = self.pins.of(path)
        self.table.paths[number] = path
        self.selection.tell()
        self.probe(path, now)

    def refresh(self, now: int) -> None:
        """Other remote addresses: paths to those that are gone go too."""
        self.book.refresh(now, anew=True)
        for path in self.table:
            path.remote_link = self.link_after(path)
            if path.id and path.pair not in self.book.entries:
                self.release(path, now, Reason.REMOTE_GONE)

    def peer_left(self, links: set[int], now: int) -> None:
        """The peer says that these interfaces of its are no more. Others may say still that it is
        there, and a router that nobody is behind is silent."""
        for path in self.table:
            if path.alive and path.remote_link in links and not self.table.relayed(path):
                self.fail(path, now, Reason.REMOTE_GONE)

    def link_after(self, path: Path) -> int:
        announced = self.book.remote_link(path.remote)
        return announced if announced != NO_LINK else path.remote_link

    def release(
        self, path: Path, now: int, why: Reason | None = None, to: Endpoint | None = None
    ) -> None:
        """Take the number away. `why`: tell the user, if it ever worked."""
        alive = path.alive
        if path.used and why is not Reason.ANEW:
            # Who takes over is there before it goes: what is in flight on it has a way at once.
            path.fail(now)
            self.choose(now)
        self.selection.leave(path)
        self.supply.remove(path)
        self.table.drop(path, now)
        for token in path.out:
            self.tokens.pop(token, None)
        memory = self.book.entries.get(path.pair) if path.pair is not None else None
        if memory is not None:
            if alive:
                memory.next_at = now + RETRY_MOST
                memory.urgent = False
            else:
                memory.give_up(now, RETRY_MOST if self.busy else RETRY_IDLE)
        if why is not None and path.validated:
            self.actions.append(
                PathEvent(path.id, None, why, path.interface, path.local, path.remote, to=to)
            )
        self.selection.tell()

    def validated(self, path: Path, now: int) -> None:
        path.validated = True
        self.book.prove(path.remote)
        path.recover(now)
        path.mtu.start(now)
        memory = self.book.entries.get(path.pair) if path.pair is not None else None
        if memory is not None:
            memory.rounds = 0
        self._ask_others(path, now)
        self.tell(path, Reason.UP)
        old = (
            self.table.find(path.replaces[1], local_of(path.replaces[0]))
            if (path.replaces is not None)
            else None
        )
        if old is not None and old.id and (old.heard_at or 0) < (path.heard_at or 0) - old.wait:
            self.release(old, now, Reason.MOVED, path.remote)

    def recovered(self, path: Path, now: int) -> None:
        brief = path.failed_at is not None and now - path.failed_at < BRIEF
        path.validated = True
        path.recover(now)
        if path.unheard >= WAIT_MOST:
            # Short ones were lost as well: what it carried it does until a probe says else.
            path.mtu.start(now)
        elif not brief or (path.alarmed_at is not None and now - path.alarmed_at < ALARMS):
            # It may be the long datagrams that were lost.
            path.mtu.suspect(now)
        if brief:
            path.alarmed_at = now
        else:
            self.supply.restart(path)
        self._ask_others(path, now)
        self.tell(path, Reason.UP_AGAIN)

    def _ask_others(self, up: Path, now: int) -> None:
        """A path came up: the peer may have moved there, and without data nothing shows that the
        others are dead. Whichever was alone was not kept, and is from now on."""
        since = up.probed_at or now
        for other in self.table:
            if other is up:
                continue
            if other.alive and max(other.heard_at or 0, other.answered_at or 0) < since:
                other.urge(now)
            else:
                self.rest(other, now)

    def fail(self, path: Path, now: int, why: Reason) -> None:
        told = path.alive or path.state is PathState.PROBING
        several = sum(p.used for p in self.table) > 1
        path.fail(now)
        if why is Reason.SILENT and several:
            # The data plane asked ten times a second: short datagrams were lost as well.
            path.unheard = WAIT_MOST
        if told:
            self.tell(path, why)
        for other in self.table:
            if other is not path:
                other.urge(now)  # was it more than this path?
        # Before data goes over them.
        self.actions.append(AskAnchors())
        was_used = path.used
        self.choose(now)
        if was_used and not path.used:
            self.actions.append(RescuePath(path.id))

    def probe(self, path: Path, now: int, size: int = PROBE_DATAGRAM, *, mtu: bool = False) -> None:
        if not self.may_send(path, size):
            path.probes += 1  # the round ends some time
            path.probed_at = now
            path.next_at = now + PROBE_INTERVAL
            return
        token = self.random(frames.TOKEN_BYTES)
        while len(path.out) >= MAX_OUT:
            self.tokens.pop(path.forget_oldest(), None)
        self.tokens[token] = path.id
        path.sent(token, size, mtu, now)
        link = self.announcer.number(path.interface)
        frame = frames.encode_probe(Probe(path.id, token, now, size, mtu, link))
        self.actions.append(SendPathControl(path.id, frame, size))

    def may_send(self, path: Path, size: int) -> bool:
        """The bound of what a pair that never answered is sent. Handshakes vouch for path 0."""
        if path.validated or path.id == 0 or path.pair is None:
            return True
        memory = self.book.entries.get(path.pair)
        return memory is not None and memory.spend(size)

    def choose(self, now: int) -> None:
        active = self.active and self.settings.enabled
        for path in self.selection.choose(active, now, also=self.settings.relay_also):
            self.rest(path, now)

    def target(self, path: Path) -> int:
        """The longest datagram that the tunnel needs and the interface could send."""
        needed = pmtu.datagram_of(self.mtu)
        if path.link is None or path.link.mtu <= 0:
            return needed
        outer = pmtu.OUTER_IPV6 if ":" in path.remote.ip else pmtu.OUTER_IPV4
        return max(min(needed, path.link.mtu - outer), pmtu.BASE)

    def tell(self, path: Path, why: Reason, loss: float = 0.0) -> None:
        self.actions.append(
            PathEvent(path.id, path.state, why, path.interface, path.local, path.remote, loss=loss)
        )
