"""The paths to one peer: found, probed, used, left (docs/multipath.md sections 5 and 6).

Pure: facts and `now` (ns of CLOCK_BOOTTIME) in, actions and a deadline out. After every input drain
`poll_action`, then re-arm one timer for `deadline`. Nothing that the peer sends raises; what is
refused is counted in `drops`. Decisions follow from what probes and ACKs show, never from claims.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from whalescale.protocol.control import ControlError, FrameType, frame_type
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths import frames, pmtu
from whalescale.protocol.paths.announce import Announcer, Listener
from whalescale.protocol.paths.candidates import Source, reachable
from whalescale.protocol.paths.finder import Finder
from whalescale.protocol.paths.frames import NO_LINK, Heartbeat, Probe, ProbeReply
from whalescale.protocol.paths.health import (
    ANSWERS,
    HEARTBEAT_BUSY,
    HEARTBEAT_IDLE,
    MAX_OUT,
    PROBE_INTERVAL,
    ROUND,
    ROUND_CROWDED,
    Path,
)
from whalescale.protocol.paths.pins import Pins
from whalescale.protocol.paths.pmtu import PmtuSearch
from whalescale.protocol.paths.probing import PROBE_DATAGRAM, RETRY_MOST, Book, Bucket, Memory
from whalescale.protocol.paths.selection import Selection
from whalescale.protocol.paths.supply import Supply
from whalescale.protocol.paths.table import Table
from whalescale.protocol.paths.tuning import Tuner
from whalescale.protocol.paths.types import (
    MAX_PATHS,
    Action,
    LocalLink,
    MultipathSettings,
    PathEvent,
    PathSample,
    PathState,
    PathStatus,
    Pin,
    RescuePath,
    SendPathControl,
)
from whalescale.protocol.types import Endpoint

NEVER: Final = 1 << 62
#: after the last packet of data
BUSY_FOR: Final = 5 * NS_PER_S
REPLIES_PER_S: Final = 50
#: failed paths are probed so often at least while none works and there is traffic
STRANDED_INTERVAL: Final = NS_PER_S
#: a path that has failed for so long is a candidate again
FAILED_MOST: Final = 300 * NS_PER_S
#: a silence shorter than this was a delay: the path's estimates still hold
BRIEF: Final = NS_PER_S // 2
#: ... but two of them so close to each other may be datagrams too long for the path
ALARMS: Final = 10 * NS_PER_S
#: UDP payload of the shortest datagram that can have moved a path
LEAST_DATAGRAM: Final = 32
DEFAULT_MTU: Final = 1420


class PathManager:
    """One per peer that speaks multipath. `primary` names path 0 before the first session."""

    def __init__(
        self,
        settings: MultipathSettings,
        random: Callable[[int], bytes],
        port: int,
        *,
        tuner: Callable[[MultipathSettings], Tuner],
        mtu: int = DEFAULT_MTU,
        highest: int = MAX_PATHS - 1,
        pins: Pins | None = None,
        drops: Counter[str] | None = None,
    ) -> None:
        """`port`: our UDP port. `mtu`: the tunnel's, as configured: longest inner packet.
        `highest`: path number that the peer takes. `pins`: what the user said before.
        """
        self._settings = settings
        self._random = random
        #: every refused frame, by reason
        self.drops: Counter[str] = Counter() if drops is None else drops
        self._actions: deque[Action] = deque()
        self._table = Table(min(highest, MAX_PATHS - 1))
        self._book = Book(port=port)
        self._announcer = Announcer()
        self._listener = Listener()
        self._pins = Pins() if pins is None else pins
        self._supply = Supply(settings, tuner, mtu, self._actions)
        self._mtu = mtu
        self._replies = Bucket(REPLIES_PER_S, REPLIES_PER_S)
        self._finder = Finder(self._book, self._table, self._pins)
        self._selection = Selection(self._table, self._supply, self._actions)
        #: where the peer's own path numbers come from
        self._theirs: dict[int, tuple[str, Endpoint]] = {}
        self._tokens: dict[bytes, int] = {}
        self._active = False
        self._busy_until = 0
        self._busy = False
        self._packets = 0

    # inputs: the session

    def session_started(self, now: int) -> None:
        """Frames may be sent: the first time, and at each new keypair."""
        if not self._active:
            self._active = True
            self._book.refresh(now, anew=True)
            for path in self._table:
                path.urge(now)
        self._announcer.begin(now)
        self._update(now)

    def session_ended(self, now: int) -> None:
        """No keys any more, or the peer is a plain WireGuard now: path 0 alone."""
        self._active = False
        self._announcer.stop()
        self._forget(now)
        self._update(now)

    def peer_restarted(self, now: int) -> None:
        """The peer's epoch is another: it knows nothing of our paths, nor we of its."""
        self._listener.forget()
        self._book.announced = ()
        self._forget(now)
        self._book.refresh(now, anew=True)
        if self._active:
            self._announcer.begin(now)
        self._update(now)

    def _forget(self, now: int) -> None:
        self._theirs.clear()
        self._tokens.clear()
        self._book.observed.clear()
        self._book.refresh(now)
        for path in self._table:
            if path.id:
                self._release(path, now, "the session began anew")
            else:
                self._supply.remove(path)
                self._first(path.remote, path.local, now)

    # inputs: addresses

    def set_locals(self, links: Sequence[LocalLink], now: int, *, port: int | None = None) -> None:
        """Every address that UDP may leave from; replaces the last list."""
        if port is not None and port != self._book.port:
            self._book.port = port
            for path in self._table:
                if path.local is not None:
                    path.local = path.local._replace(port=port)
        self._book.links = tuple(links)
        self._book.refresh(now, anew=True)
        for path in self._table:
            had, path.link = path.link, self._book.link_of(path.local)
            path.mtu.retarget(self._target(path), now)
            if path.id == 0:
                if had is not None and path.link is None:
                    path.local = None  # the routing table finds another
                    self._fail(path, now, "its local address is gone")
            elif path.pair not in self._book.entries:
                self._release(path, now, "its local address is gone")
        self._update(now)

    def set_remotes(self, configured: Sequence[Endpoint], now: int) -> None:
        """Where the user says that the peer is; replaces the last list."""
        if tuple(configured) != self._book.configured:
            self._book.configured = tuple(configured)
            self._refresh(now)
            self._update(now)

    def primary(self, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        """Where path 0 goes, as the engine and WireGuard's rules have it."""
        path = self._table.get(0)
        if path is not None and path.remote == remote:
            if local is None or (path.local is not None and path.local.ip == local.ip):
                return
            if path.local is None:
                path.local = local
                path.link = self._book.link_of(local)
                path.mtu.retarget(self._target(path), now)
                self._update(now)
                return
        if path is not None:
            if path.validated and path.pair is not None:
                self._book.observe(path.pair, path.remote_link, now)
            self._supply.remove(path)
        twin = self._table.find(remote, local)
        self._first(remote, local, now)
        if twin is not None and twin.id:
            self._table.paths[0].take_over(twin)
            if not twin.used:
                self._release(twin, now)
        self._update(now)

    def _first(self, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        link = self._book.link_of(local)
        path = Path(0, local, remote, link, Source.CONFIGURED, now)
        path.mtu = PmtuSearch(self._target(path), assumed=True)
        path.remote_link = self._book.remote_link(remote)
        path.pin = self._pins.of(path)
        if not self._active:
            path.next_at = NEVER
        self._table.paths[0] = path

    # inputs: what arrives

    def receive(
        self,
        frame: bytes,
        path: int,
        remote: Endpoint,
        local: Endpoint | None,
        datagram_bytes: int,
        now: int,
    ) -> None:
        """A control frame other than OFFER and ACK, as it came.

        `path`: the peer's number of the path. `datagram_bytes`: UDP payload that it came in.
        """
        try:
            kind = frame_type(frame)
            if kind is FrameType.PATH_ANNOUNCE:
                announce, left_out = frames.decode_announce(frame)
                self._count("announce_address", left_out)
                self._heard(path, remote, local, datagram_bytes, now)
                self._announced(announce, now)
            elif kind is FrameType.PATH_PROBE:
                probe = frames.decode_probe(frame)
                self._probed(probe, path, remote, local, datagram_bytes, now)
            elif kind is FrameType.PATH_PROBE_REPLY:
                self._heard(path, remote, local, datagram_bytes, now)
                self._replied(frames.decode_reply(frame), remote, local, now)
            elif kind is FrameType.HEARTBEAT:
                frames.decode_heartbeat(frame)
                self._heard(path, remote, local, datagram_bytes, now)
            else:
                raise ControlError("control_type")
        except ControlError as refusal:
            self.drops[str(refusal)] += 1
        self._update(now)

    def path_moved(self, path: int, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        """Datagrams with the peer's number `path` come from elsewhere than before."""
        self._heard(path, remote, local, LEAST_DATAGRAM, now)
        self._update(now)

    def path_silent(self, path: int, now: int) -> None:
        """Data on our path has been out for rescue_us without a word."""
        found = self._table.get(path)
        if found is None or not self._active:
            return
        others = any(
            p is not found and p.alive and not p.misses and not p.pin.disabled for p in self._table
        )
        if found.alive and others:
            self._fail(found, now, "silent")
        else:
            found.urge(now)  # there is nothing better: first see
        self._update(now)

    def sample(self, samples: Mapping[int, PathSample], now: int) -> None:
        """What the data plane counted; call each tick."""
        packets = sum(s.tx_packets + s.rx_packets for s in samples.values())
        if packets != self._packets:
            self._busy_until = now + BUSY_FOR
        self._packets = packets
        for number, sample in samples.items():
            path = self._table.get(number)
            if path is None:
                continue
            if sample.silent > path.silent:
                self.path_silent(number, now)
            path.silent = sample.silent
            # An ACK that came after an answer was due, and moved on, is as good as the answer.
            acked = sample.last_ack_ns
            awaited = path.probed_at if path.awaiting else None
            if awaited is not None and acked >= awaited + path.wait:
                path.arrived(acked)
                self._rest(path, now)
        if self._active:
            for path, state in self._supply.sample(samples, self._table, now):
                self._tell(path, state)
        self._update(now)

    # inputs: the user

    def pin(
        self,
        pin: Pin,
        now: int,
        *,
        local: str | None = None,
        remote: str | None = None,
        interface: str | None = None,
    ) -> None:
        """Of every path with this local IP, remote IP and interface, now and later; None: any."""
        self._pins.set(pin, local, remote, interface)
        self.pinned(now)

    def pinned(self, now: int) -> None:
        """The pins have changed."""
        for path in self._table:
            path.pin = self._pins.of(path)
        self._book.refresh(now, anew=True)
        self._update(now)

    def set_settings(
        self, settings: MultipathSettings, now: int, *, mtu: int | None = None
    ) -> None:
        """The user changed `[multipath]`, or the tunnel's MTU."""
        if settings != self._settings:
            self._settings = settings
            self._supply.settings(settings, self._table, now)
            if not settings.enabled:
                self._forget(now)
        if mtu is not None and mtu != self._mtu:
            self._mtu = self._supply.mtu = mtu
            for path in self._table:
                path.mtu.retarget(self._target(path), now)
        self._update(now)

    # outputs

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def deadline(self) -> int | None:
        if not self._active:
            return None
        times = [p.next_at for p in self._table]
        times += [p.mtu.due_at for p in self._table if p.alive and p.mtu.due_at is not None]
        times += [t for t in (self._announcer.due_at, self._finder.due_at) if t is not None]
        if self._busy:
            times.append(self._busy_until)
        at = min(times, default=NEVER)
        return at if at < NEVER else None

    def routes(self) -> list[tuple[Endpoint, Endpoint | None]]:
        """(remote, local) of the paths that work, best first: where a handshake should go."""
        working = [p for p in self._table if p.alive]
        working.sort(key=lambda p: (not p.used, p.state is PathState.DEGRADED, p.srtt_us))
        return [(p.remote, p.local) for p in working]

    @property
    def first_works(self) -> bool:
        """Path 0 has not failed, as far as we know."""
        path = self._table.get(0)
        return path is not None and path.state is not PathState.FAILED

    def knows(self, remote: Endpoint, local: Endpoint | None) -> bool:
        """A path other than 0 that was validated has this 4-tuple."""
        path = self._table.find(remote, local)
        return path is not None and path.id != 0 and path.validated

    def status(self) -> list[PathStatus]:
        return [self._supply.status(p) for _, p in sorted(self._table.paths.items())]

    # time

    def handle_timeout(self, now: int) -> None:
        """Call when `deadline` is up; too early or too late does no harm."""
        if not self._active:
            return
        self._book.expire(now, [p.pair for p in self._table if p.pair is not None])
        self._update(now)
        for _ in range(4):  # one path's failure makes others due
            due = [p for p in self._table if p.next_at <= now or p.mtu_due(now)]
            if not due:
                break
            for path in due:
                if path.next_at <= now:
                    self._path_due(path, now)
                if path.mtu_due(now) and path.mtu.timeout(now):
                    self._probe(path, now, path.mtu.size, mtu=True)
                    path.mtu.sent(now, path.wait)
            self._update(now)

    def _path_due(self, path: Path, now: int) -> None:
        if path.state is PathState.PROBING:
            if path.given_up(self._finder.crowded, now):
                if path.id:
                    self._release(path, now)
                else:
                    self._fail(path, now, "no answer")
            elif path.probes < (ROUND_CROWDED if self._finder.crowded else ROUND):
                self._probe(path, now)
            else:
                path.next_at = now + PROBE_INTERVAL
            return
        if path.state is PathState.FAILED:
            assert path.failed_at is not None
            if path.id and now - path.failed_at > FAILED_MOST:
                self._release(path, now)
                return
            if path.row and path.answered_at is not None and now - path.answered_at > 2 * NS_PER_S:
                path.row = 0
        elif path.missed():
            self._fail(path, now, "no answer")
            return
        elif path.keep_alive(self._busy, now):
            heartbeat = Heartbeat(path.id, now // 1000)
            self._actions.append(SendPathControl(path.id, frames.encode_heartbeat(heartbeat)))
            return
        self._probe(path, now)
        if path.state is PathState.FAILED and self._busy and not any(p.alive for p in self._table):
            path.next_at = min(path.next_at, now + STRANDED_INTERVAL)

    def _update(self, now: int) -> None:
        """What follows from whatever was put in."""
        busy = now < self._busy_until
        if busy != self._busy:
            self._busy = busy
            for path in self._table:
                self._rest(path, now)
        if self._active:
            self._fill(now)
        self._choose(now)
        seen = tuple(
            (p.interface, p.observed) for p in self._table if p.link is not None and p.observed
        )
        self._announcer.update(self._book.links, self._book.port, seen, now)
        if self._active and self._settings.enabled:
            announce = self._announcer.next(now)
            if announce is not None:
                best = next((p for p in self._table if p.used and p.alive), None)
                number = best.id if best is not None else 0
                self._actions.append(SendPathControl(number, frames.encode_announce(announce)))

    def _rest(self, path: Path, now: int) -> None:
        """Nothing is outstanding on it: when to look again."""
        if self._busy:
            path.heartbeat(HEARTBEAT_BUSY if path.used else HEARTBEAT_IDLE, now)
        elif len(self._table.paths) > 1:
            path.heartbeat(HEARTBEAT_IDLE, now)
        elif path.alive and not path.awaiting:
            path.next_at = NEVER  # an idle session with one path stays silent, as WireGuard's

    # candidates

    def _fill(self, now: int) -> None:
        """Give numbers to candidates."""
        if not self._settings.enabled or not self._table.paths:
            self._finder.stop()
            return
        while (found := self._finder.next(now)) is not None:
            if isinstance(found, Path):
                self._release(found, now)
            else:
                self._begin(*found, now)

    def _begin(self, number: int, memory: Memory, now: int) -> None:
        c = memory.candidate
        path = Path(number, c.local, c.remote, c.link, c.source, now)
        path.mtu = PmtuSearch(self._target(path), assumed=False)
        path.remote_link = c.remote_link
        path.replaces, memory.replaces = memory.replaces, None
        path.heard_at = memory.heard_at
        path.pin = self._pins.of(path)
        memory.begin()
        self._table.paths[number] = path
        self._rest(self._table.paths[0], now)  # no longer alone
        self._selection.tell()
        self._probe(path, now)

    def _refresh(self, now: int) -> None:
        """Other remote addresses: paths to those that are gone go too."""
        self._book.refresh(now, anew=True)
        for path in self._table:
            path.remote_link = self._link_after(path)
            if path.id and path.pair not in self._book.entries:
                self._release(path, now, "the peer no longer has this address")

    def _link_after(self, path: Path) -> int:
        announced = self._book.remote_link(path.remote)
        return announced if announced != NO_LINK else path.remote_link

    def _release(self, path: Path, now: int, why: str = "") -> None:
        """Take the number away. `why`: tell the user, if it ever worked."""
        self._selection.leave(path)
        self._supply.remove(path)
        self._table.drop(path, now)
        for token in path.out:
            self._tokens.pop(token, None)
        memory = self._book.entries.get(path.pair) if path.pair is not None else None
        if memory is not None:
            if path.alive:
                memory.next_at = now + RETRY_MOST
                memory.urgent = False
            else:
                memory.give_up(now)
        if why and path.validated:
            self._actions.append(PathEvent(path.id, None, f"{describe(path)}: {why}"))
        self._selection.tell()

    # frames

    def _count(self, reason: str, times: int = 1) -> None:
        if times:
            self.drops[reason] += times

    def _announced(self, announce: frames.Announce, now: int) -> None:
        entries, reason, times = self._listener.take(announce, now)
        self._count(reason, times)
        if entries is not None and entries != self._book.announced:
            self._book.announce(entries)
            self._refresh(now)

    def _heard(
        self,
        number: int,
        remote: Endpoint,
        local: Endpoint | None,
        datagram_bytes: int,
        now: int,
        link: int = NO_LINK,
    ) -> Path | None:
        """Something authentic came over this pair: the path, or the candidate that it makes."""
        path = self._table.find(remote, local)
        pair = (local.ip, remote) if local is not None else None
        if pair is None:
            pair = path.pair if path is not None else None
        memory = self._book.entries.get(pair) if pair is not None else None
        if path is not None:
            path.heard_at = now
            if link != NO_LINK:
                path.remote_link = link
            if memory is not None:
                memory.heard(datagram_bytes, now)
        elif pair is not None and self._active and self._settings.enabled:
            memory = self._book.observe(pair, link, now)
            if memory is None:
                self._count("path_address")
                return None
            memory.heard(datagram_bytes, now)
            before = self._theirs.get(number)
            memory.replaces = before if before != pair else None
            memory.urgent = True
            memory.next_at = now
            self._fill(now)
            path = self._table.find(remote, local)
        if pair is not None and 0 <= number < MAX_PATHS:
            self._theirs[number] = pair
        return path

    def _probed(
        self,
        probe: Probe,
        number: int,
        remote: Endpoint,
        local: Endpoint | None,
        datagram_bytes: int,
        now: int,
    ) -> None:
        path = self._heard(number, remote, local, datagram_bytes, now, probe.link)
        if not self._active:
            return
        if path is None:
            raise ControlError("probe_path")
        if datagram_bytes < PROBE_DATAGRAM:
            raise ControlError("probe_short")
        if not self._replies.take(now):
            raise ControlError("probe_rate")
        if not self._may_send(path, PROBE_DATAGRAM):
            raise ControlError("probe_credit")
        reply = ProbeReply(
            probe.path, probe.mtu, probe.token, probe.sent, datagram_bytes, remote, hold_us=0
        )
        self._actions.append(SendPathControl(path.id, frames.encode_reply(reply)))
        if not path.alive:
            path.urge(now)  # one direction works: see to the other

    def _replied(
        self, reply: ProbeReply, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        number = self._tokens.pop(reply.token, None)
        path = self._table.get(number) if number is not None else None
        out = path.out.pop(reply.token, None) if path is not None else None
        if path is None or out is None:
            raise ControlError("probe_token")
        elsewhere = local is not None and path.local is not None and local.ip != path.local.ip
        if path.remote != remote or elsewhere:
            raise ControlError("probe_source")
        elapsed = now - out.sent
        hold = reply.hold_us * 1000
        path.answered_at = now
        if out.mtu:
            if reply.size == out.size:
                path.mtu.answered(out.size, now)
        else:
            path.measured((elapsed - hold if hold < elapsed else elapsed) // 1000, now)
            if reply.observed is not None and reachable(reply.observed):
                ours = path.local.ip if path.local is not None else ""
                path.observed = reply.observed if reply.observed.ip != ours else None
        if path.state is PathState.PROBING:
            self._validated(path, now)
        elif path.state is PathState.FAILED:
            path.row += 1
            if path.row >= ANSWERS:
                self._recovered(path, now)
            else:
                path.next_at = now  # the second one at once
        path.arrived(now)
        self._rest(path, now)

    def _validated(self, path: Path, now: int) -> None:
        path.validated = True
        path.recover(now)
        path.mtu.start(now)
        memory = self._book.entries.get(path.pair) if path.pair is not None else None
        if memory is not None:
            memory.rounds = 0
        self._tell(path, "up")
        old = (
            self._table.find(path.replaces[1], Endpoint(path.replaces[0], 0))
            if (path.replaces is not None)
            else None
        )
        if old is not None and old.id and (old.heard_at or 0) < (path.heard_at or 0) - old.wait:
            self._release(old, now, f"moved to {path.remote.ip}")

    def _recovered(self, path: Path, now: int) -> None:
        brief = path.failed_at is not None and now - path.failed_at < BRIEF
        path.validated = True
        path.recover(now)
        if not brief or (path.alarmed_at is not None and now - path.alarmed_at < ALARMS):
            # It may be the long datagrams that were lost.
            path.mtu.suspect(now)
        if brief:
            path.alarmed_at = now
        else:
            self._supply.restart(path, now)
        self._tell(path, "up again")

    def _fail(self, path: Path, now: int, why: str) -> None:
        told = path.alive or path.state is PathState.PROBING
        path.fail(now)
        if told:
            self._tell(path, why)
        for other in self._table:
            if other is not path:
                other.urge(now)  # was it more than this path?
        was_used = path.used
        self._choose(now)
        if was_used and not path.used:
            self._actions.append(RescuePath(path.id))

    def _probe(
        self, path: Path, now: int, size: int = PROBE_DATAGRAM, *, mtu: bool = False
    ) -> None:
        if not self._may_send(path, size):
            path.probes += 1  # the round ends some time
            path.probed_at = now
            path.next_at = now + PROBE_INTERVAL
            return
        token = self._random(frames.TOKEN_BYTES)
        while len(path.out) >= MAX_OUT:
            self._tokens.pop(path.forget_oldest(), None)
        self._tokens[token] = path.id
        path.sent(token, size, mtu, now)
        link = self._announcer.number(path.interface)
        frame = frames.encode_probe(Probe(path.id, token, now, size, mtu, link))
        self._actions.append(SendPathControl(path.id, frame, size))

    def _may_send(self, path: Path, size: int) -> bool:
        """The bound of what a pair that never answered is sent. Handshakes vouch for path 0."""
        if path.validated or path.id == 0 or path.pair is None:
            return True
        memory = self._book.entries.get(path.pair)
        return memory is not None and memory.spend(size)

    # use

    def _choose(self, now: int) -> None:
        for path in self._selection.choose(self._active and self._settings.enabled, now):
            self._rest(path, now)

    def _target(self, path: Path) -> int:
        """The longest datagram that the tunnel needs and the interface could send."""
        needed = pmtu.datagram_of(self._mtu)
        if path.link is None or path.link.mtu <= 0:
            return needed
        outer = pmtu.OUTER_IPV6 if ":" in path.remote.ip else pmtu.OUTER_IPV4
        return max(min(needed, path.link.mtu - outer), pmtu.BASE)

    def _tell(self, path: Path, what: str) -> None:
        self._actions.append(PathEvent(path.id, path.state, f"{describe(path)}: {what}"))


def describe(path: Path) -> str:
    """For the user: `wlan0 192.0.2.1 to 198.51.100.7:51820`."""
    remote = f"[{path.remote.ip}]" if ":" in path.remote.ip else path.remote.ip
    ends = (path.interface, path.local.ip if path.local is not None else "")
    return " ".join([*filter(None, ends), "to", f"{remote}:{path.remote.port}"])
