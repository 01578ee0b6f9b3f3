"""The paths to one peer: found, probed, used, left (docs/multipath.md sections 5 and 6).

Pure: facts and `now` (ns of CLOCK_BOOTTIME) in, actions and a deadline out. After every input drain
`poll_action`, then re-arm one timer for `deadline`. Nothing that the peer sends raises; what is
refused is counted in `drops`. Decisions follow from what probes and ACKs show, never from claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from whalescale.protocol.candidates import NO_LINK, direct, key_of, nowhere, reachable, same_local
from whalescale.protocol.control import ControlError, FrameType, frame_type
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths import frames
from whalescale.protocol.paths.announce import Listener
from whalescale.protocol.paths.frames import Probe, ProbeReply
from whalescale.protocol.paths.health import ANSWERS, Path
from whalescale.protocol.paths.hush import Incoming
from whalescale.protocol.paths.lifecycle import NEVER, Lifecycle
from whalescale.protocol.paths.pins import Pins
from whalescale.protocol.paths.probing import PROBE_DATAGRAM, Buckets
from whalescale.protocol.paths.tuning import Tuner
from whalescale.protocol.paths.types import (
    MAX_PATHS,
    Action,
    MultipathSettings,
    PathSample,
    PathState,
    PathStatus,
    Pin,
    Reason,
    SendPathControl,
)
from whalescale.protocol.places import Endpoint, LocalLink

#: after the last packet of data
BUSY_FOR: Final = 5 * NS_PER_S
#: UDP payload of the shortest datagram that can have moved a path
LEAST_DATAGRAM: Final = 32
DEFAULT_MTU: Final = 1420


def always(_remote: Endpoint, _now: int) -> bool:
    return True


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
        buckets: Buckets | None = None,
        inside: Callable[[str], bool] = nowhere,
        relayed: Callable[[Endpoint], bool] = direct,
        may_try: Callable[[Endpoint, int], bool] = always,
    ) -> None:
        """`port`: our UDP port. `mtu`: the tunnel's, as configured: longest inner packet.
        `highest`: path number that the peer takes. `pins`: what the user said before.
        `buckets`: the peer's; they outlive this. `inside`: of IPs, whether no peer can be there.
        `relayed`: of the far ends of paths, whether an anchor is there (docs/nat.md). `may_try`: of
        places that the peer was never heard from.
        """
        #: every refused frame, by reason
        self.drops: Counter[str] = Counter() if drops is None else drops
        pins = Pins() if pins is None else pins
        self._buckets = Buckets() if buckets is None else buckets
        self._life = Lifecycle(
            settings,
            random,
            port,
            tuner,
            mtu,
            highest,
            pins,
            self._buckets,
            inside,
            relayed,
            may_try,
        )
        self._actions = self._life.actions
        self._table = self._life.table
        self._book = self._life.book
        self._announcer = self._life.announcer
        self._supply = self._life.supply
        self._tokens = self._life.tokens
        self._pins = pins
        self._listener = Listener(self._buckets.lists)
        #: where the peer's own path numbers come from
        self._theirs: dict[int, tuple[str, Endpoint]] = {}
        #: (interface, where its gateway maps our port)
        self._mapped: tuple[tuple[str, Endpoint], ...] = ()
        self._busy_until = 0
        self._packets = 0
        self._incoming = Incoming()

    # inputs: the session

    def session_started(self, now: int) -> None:
        """Frames may be sent: the first time, and at each new keypair."""
        if not self._life.active:
            self._life.active = True
            self._book.refresh(now, anew=True)
            for path in self._table:
                path.urge(now)
        self._announcer.begin(now)
        self._update(now)

    def session_ended(self, now: int) -> None:
        """No keys any more, or the peer is a plain WireGuard now: path 0 alone."""
        self._life.active = False
        self._announcer.stop()
        self._forget(now)
        self._update(now)
        self._supply.lift()

    def peer_restarted(self, now: int) -> None:
        """The peer's epoch is another: it knows nothing of our paths, nor we of its."""
        self._listener.forget()
        self._book.announced = ()
        self._forget(now)
        self._book.refresh(now, anew=True)
        if self._life.active:
            self._announcer.begin(now)
        self._update(now)

    def _forget(self, now: int) -> None:
        self._life.selection.forget()
        self._theirs.clear()
        self._tokens.clear()
        self._book.observed.clear()
        self._book.refresh(now)
        for path in self._table:
            if path.id:
                self._life.release(path, now, Reason.ANEW)
            else:
                self._supply.remove(path)
                self._life.first(path.remote, path.local, now)

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
            path.mtu.retarget(self._life.target(path), now)
            if path.id == 0:
                if had is not None and path.link is None:
                    path.away = True  # the routing table finds another
                    self._life.fail(path, now, Reason.LOCAL_GONE)
                elif path.away and path.link is not None:
                    path.away = False
                    path.urge(now)
            elif path.pair not in self._book.entries:
                self._life.release(path, now, Reason.LOCAL_GONE)
        self._update(now)

    def set_mapped(self, mapped: tuple[tuple[str, Endpoint], ...], now: int) -> None:
        """(interface, where its gateway maps our port); replaces the last list."""
        self._mapped = mapped
        self._update(now)

    def set_remotes(self, configured: Sequence[Endpoint], now: int) -> None:
        """Where the user says that the peer is; replaces the last list."""
        if tuple(configured) != self._book.configured:
            self._book.configured = tuple(configured)
            self._life.refresh(now)
            self._update(now)

    def punch(self, remotes: Sequence[Endpoint], now: int) -> None:
        """The peer sends to us from there now, or shall think so: probe these, if there is no path
        that works to them."""
        if not self._life.active or not self._life.settings.enabled:
            return
        self._book.punch(remotes, now)
        for path in self._table:
            if path.remote in remotes and path.state is PathState.FAILED:
                path.urge(now)
        self._update(now)
        self.handle_timeout(now)  # the probes leave now, as the peer's do

    def look(self, now: int) -> None:
        """Probe what is thought to work: there is reason to doubt it."""
        for path in self._table:
            if path.alive:
                path.urge(now)
        self._update(now)
        self.handle_timeout(now)

    def set_relays(self, ways: Sequence[tuple[Endpoint, Endpoint | None]], now: int) -> None:
        """(remote, local) by which anchors relay to the peer; replaces the last list."""
        if tuple(ways) != self._book.relays:
            self._book.relays = tuple(ways)
            self._life.refresh(now)
            self._update(now)

    def primary(self, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        """Where path 0 goes, as the engine and WireGuard's rules have it."""
        path = self._table.get(0)
        if path is not None and path.remote == remote:
            if local is None or (path.local is not None and same_local(path.local, local)):
                return
            if path.local is None:
                path.local = local
                path.link = self._book.link_of(local)
                path.mtu.retarget(self._life.target(path), now)
                self._update(now)
                return
        if path is not None:
            if path.validated and path.pair is not None:
                self._book.observe(path.pair, path.remote_link, now)
            self._supply.remove(path)
            self._life.selection.renew(path)
        twin = self._table.find(remote, local)
        self._life.first(remote, local, now)
        if twin is not None and twin.id:
            self._table.paths[0].take_over(twin, now)
            if not twin.used:
                self._life.release(twin, now)
        self._update(now)

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
                serial = frames.announce_serial(frame)
                self._heard(path, remote, local, datagram_bytes, now)
                wanted, reason = self._listener.wants(serial, now)
                if reason:
                    self._count(reason)
                if wanted:
                    self._announced(frame, now)
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
        if found is None or not self._life.active:
            return
        others = any(
            p is not found and p.alive and not p.misses and not p.pin.disabled for p in self._table
        )
        if found.alive and others:
            self._life.fail(found, now, Reason.SILENT)
        else:
            found.urge(now)  # there is nothing better: first see
        self._update(now)

    def sample(self, samples: Mapping[int, PathSample], now: int) -> None:
        """What the data plane counted; call each tick."""
        packets = sum(s.tx_packets + s.rx_packets for s in samples.values())
        if packets != self._packets:
            self._busy_until = now + BUSY_FOR
        self._packets = packets
        if self._incoming.ended(sum(s.rx_packets for s in samples.values()), now):
            for each in self._table:
                if each.used:
                    each.urge(now)
        for number, sample in samples.items():
            path = self._table.get(number)
            if path is None:
                continue
            if sample.silent > path.silent:
                self.path_silent(number, now)
            path.silent = sample.silent
            # An ACK that came after an answer was due, and moved on, is as good as the answer. The
            # first one's: on a full link each is late, and the next is due when this is looked at.
            # (Of one without data it is our probes that arrive, and their answers may be lost.)
            acked = sample.last_ack_ns
            if path.used and path.asked_at is not None and acked >= path.asked_at + path.wait:
                path.arrived(acked)
                self._life.rest(path, now)
        if self._life.active:
            for path, reason, loss in self._supply.sample(samples, self._table, now):
                self._life.tell(path, reason, loss)
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
        if settings != self._life.settings:
            self._life.settings = settings
            self._supply.settings(settings, self._table)
            if not settings.enabled:
                self._forget(now)
                self._supply.lift()
            elif self._life.active:
                # Who begins next is to find them: at rest it is half a minute until the next look.
                self._supply.tell(self._table, now)
        if mtu is not None and mtu != self._life.mtu:
            self._life.mtu = self._supply.mtu = mtu
            for path in self._table:
                path.mtu.retarget(self._life.target(path), now)
        self._update(now)

    # outputs

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def deadline(self) -> int | None:
        if not self._life.active:
            return None
        times = [p.next_at for p in self._table]
        times += [p.mtu.due_at for p in self._table if p.alive and p.mtu.due_at is not None]
        times += [t for t in (self._announcer.due_at, self._life.finder.due_at) if t is not None]
        if self._life.busy:
            times.append(self._busy_until)
        at = min(times, default=NEVER)
        return at if at < NEVER else None

    def routes(self) -> list[tuple[Endpoint, Endpoint | None]]:
        """(remote, local) of the paths that work, best first: where a handshake should go."""
        working = [p for p in self._table if p.alive]
        working.sort(key=lambda p: (not p.used, p.state is PathState.DEGRADED, p.srtt_us))
        return [(p.remote, p.local) for p in working]

    @property
    def paths(self) -> list[Path]:
        """All there are, to look at."""
        return list(self._table)

    @property
    def narrow(self) -> int:
        """The longest datagram of the path that `routes` names first, if less than the tunnel
        needs; 0: that, or not known."""
        routes = self.routes()
        path = self._table.find(*routes[0]) if routes else None
        return path.mtu.narrow if path is not None else 0

    @property
    def first_works(self) -> bool:
        """Path 0 has not failed, as far as we know."""
        path = self._table.get(0)
        return path is not None and path.state is not PathState.FAILED

    def knows(self, remote: Endpoint, local: Endpoint | None) -> bool:
        """Path 0 stays where it is though an authentic message came from there: a path other than 0
        that was validated has this 4-tuple, or path 0 leads over an anchor and works, and whether
        this one does is for probes to say."""
        path = self._table.find(remote, local)
        if path is not None and path.id != 0 and path.validated:
            return True
        first = self._table.get(0)
        return first is not None and first.validated and first.alive and self._table.relayed(first)

    def aside(self, remote: Endpoint, local: Endpoint | None) -> int | None:
        """The number of the path with these ends, if no data goes over it."""
        path = self._table.find(remote, local)
        return path.id if path is not None and not path.used else None

    def status(self) -> list[PathStatus]:
        paths = [p for _, p in sorted(self._table.paths.items())]
        return [self._supply.status(p, self._numbers_of(p)) for p in paths]

    def _numbers_of(self, path: Path) -> tuple[int, ...]:
        """The peer's, by where frames with them came from last; what was not heard yet: as ours."""
        known = tuple(n for n, pair in self._theirs.items() if pair == path.pair)
        return known if path.id in self._theirs else (*known, path.id)

    # time

    def handle_timeout(self, now: int) -> None:
        """Call when `deadline` is up; too early or too late does no harm."""
        if not self._life.active:
            return
        self._book.expire(now)
        self._update(now)
        busy = self._life.busy
        for _ in range(4):  # one path's failure makes others due
            due = [p for p in self._table if p.next_at <= now or p.mtu_due(now, busy)]
            if not due:
                break
            for path in due:
                if path.next_at <= now:
                    self._life.path_due(path, now)
                if path.mtu_due(now, busy) and path.mtu.timeout(now):
                    self._life.probe(path, now, path.mtu.size, mtu=True)
                    path.mtu.sent(now, path.wait)
            self._update(now)

    def _update(self, now: int) -> None:
        """What follows from whatever was put in."""
        busy = now < self._busy_until
        if busy != self._life.busy:
            self._life.busy = busy
            if busy:
                self._book.hasten(now)
            for path in self._table:
                self._life.rest(path, now)
        if self._life.active:
            self._life.fill(now)
        self._life.choose(now)
        seen = tuple(
            (p.interface, p.observed) for p in self._table if p.link is not None and p.observed
        )
        self._announcer.update(self._book.links, self._book.port, seen, now, self._mapped)
        if self._life.active and self._life.settings.enabled:
            announce = self._announcer.next(now)
            if announce is not None:
                best = next((p for p in self._table if p.used and p.alive), None)
                number = best.id if best is not None else 0
                self._actions.append(SendPathControl(number, frames.encode_announce(announce)))

    # candidates

    # frames

    def _count(self, reason: str, times: int = 1) -> None:
        if times:
            self.drops[reason] += times

    def _announced(self, frame: bytes, now: int) -> None:
        announce, unknown = frames.decode_announce(frame)
        entries, left_out = self._listener.take(announce)
        self._count("announce_address", unknown + left_out)
        if entries != self._book.announced:
            self._life.peer_left(self._book.announce(entries), now)
            self._life.refresh(now)

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
        pair = (key_of(local), remote) if local is not None else None
        if pair is None:
            pair = path.pair if path is not None else None
        memory = self._book.entries.get(pair) if pair is not None else None
        if path is not None:
            path.heard_at = now
            if link != NO_LINK:
                path.remote_link = link
            if memory is not None:
                memory.heard(datagram_bytes, now)
        elif pair is not None and self._life.active and self._life.settings.enabled:
            if pair not in self._book.observed and not self._buckets.new_pairs.take(now):
                self._count("path_rate")
                return None
            memory = self._book.observe(pair, link, now)
            if memory is None:
                self._count("path_address")
                return None
            memory.heard(datagram_bytes, now)
            before = self._theirs.get(number)
            memory.replaces = before if before != pair else None
            memory.urgent = True
            memory.next_at = now
            self._life.fill(now)
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
        if not self._life.active:
            return
        if path is None:
            raise ControlError("probe_path")
        if datagram_bytes < PROBE_DATAGRAM:
            raise ControlError("probe_short")
        if not self._buckets.replies.take(now):
            raise ControlError("probe_rate")
        if not self._life.may_send(path, PROBE_DATAGRAM):
            raise ControlError("probe_credit")
        reply = ProbeReply(
            probe.path, probe.mtu, probe.token, probe.sent, datagram_bytes, remote, hold_us=0
        )
        self._actions.append(SendPathControl(path.id, frames.encode_reply(reply)))
        if probe.mtu:
            path.mtu.seen(datagram_bytes, now)
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
        here = local is None or path.local is None or same_local(local, path.local)
        if path.remote != remote or not here:
            raise ControlError("probe_source")
        elapsed = now - out.sent
        hold = reply.hold_us * 1000
        path.answered(now)
        if out.mtu:
            if reply.size == out.size:
                path.mtu.answered(out.size, now)
        else:
            path.measured((elapsed - hold if hold < elapsed else elapsed) // 1000, now)
            if self._life.table.relayed(path):
                path.observed = None  # the anchor's
            elif reply.observed is not None and reachable(reply.observed):
                ours = path.local.ip if path.local is not None else ""
                path.seen = reply.observed
                path.observed = reply.observed if reply.observed.ip != ours else None
        if path.state is PathState.PROBING:
            self._life.validated(path, now)
        elif path.state is PathState.FAILED:
            path.row += 1
            if path.row >= ANSWERS:
                self._life.recovered(path, now)
            else:
                path.next_at = now  # the second one at once
        path.arrived(now)
        self._life.rest(path, now)

    # use
