"""One member's part in a network: records and sessions in; frames, changes and calls out.

Sans-IO, as `protocol/node.py` is: after every input drain `poll_event`, then re-arm one timer for
`deadline`. Node IDs name members. Events come in the order in which they are to be carried out: a
record of ours is stored before the frame that tells of it is sent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from whalescale.identity import Identity
from whalescale.protocol.control import ControlError
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import frames, present, reconcile, records
from whalescale.protocol.mesh.admission import Admission
from whalescale.protocol.mesh.anchors import Anchors, Tenure, known_anchors
from whalescale.protocol.mesh.clones import Clones
from whalescale.protocol.mesh.directory import Directory, How
from whalescale.protocol.mesh.duties import Duties
from whalescale.protocol.mesh.entry import entry_of, key_of
from whalescale.protocol.mesh.events import (
    Anchoring,
    DialPlace,
    GuestAdmitted,
    GuestGone,
    HeldStored,
    MappedDialled,
    MemberChanged,
    MeshError,
    MeshEvent,
    MeshSettings,
    Notice,
    RecordGone,
    RecordStored,
    SendFrame,
    TicketKept,
    WantSession,
    Word,
)
from whalescale.protocol.mesh.frames import (
    AnchorState,
    DialBack,
    Dialled,
    Leaves,
    Summary,
    Tree,
    Update,
)
from whalescale.protocol.mesh.gossip import FORGED_COST, Bucket, Gossip
from whalescale.protocol.mesh.membership import Membership, Merged, Outcome
from whalescale.protocol.mesh.reconcile import Answer
from whalescale.protocol.mesh.records import (
    ROOT,
    AdminRecord,
    EndpointRecord,
    Kind,
    MemberRecord,
    ObservedRecord,
    Place,
    PlaceKind,
    Record,
    RecordError,
    Status,
    Verify,
)
from whalescale.protocol.mesh.recovery import Recovery, closeness, wanted
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.messages import MessageError
from whalescale.protocol.places import Endpoint

__all__ = [
    "Anchoring",
    "DialPlace",
    "GuestAdmitted",
    "GuestGone",
    "HeldStored",
    "MappedDialled",
    "MemberChanged",
    "Mesh",
    "MeshError",
    "MeshEvent",
    "MeshSettings",
    "Notice",
    "RecordGone",
    "RecordStored",
    "SendFrame",
    "TicketKept",
    "WantSession",
    "Word",
]

#: between two looks at whom we want to have sessions with
CHOOSE_EVERY: Final = NS_PER_S
#: until a comparison that had too much to say for one answer goes on
CUT_GAP: Final = NS_PER_S
#: between two hints of ours about one member
HINT_GAP: Final = 10 * NS_PER_S
#: member records before a session that are opened (0.2 ms each)
PRESENTS_PER_SECOND: Final = 10
PRESENTS_BURST: Final = 30
#: what one that does not verify costs all who come
PRESENT_FORGED: Final = 5
#: members on a link of ours that we want to have sessions with beside the others
NEAR_MOST: Final = 4
#: between two comparisons because of a stranger
STRANGER_GAP: Final = 2 * NS_PER_S


class Mesh:
    """A member of one network. Times are ns of CLOCK_BOOTTIME."""

    def __init__(
        self,
        identity: Identity,
        network_id: bytes,
        *,
        random: Callable[[int], bytes],
        now: int,
        settings: MeshSettings | None = None,
        seq: int = 0,
        table: Table | None = None,
        verifier: Verify = records.verify,
        tenure: Tenure | None = None,
    ) -> None:
        """`random(n)`: n bytes fit for keys. `seq`: the last that we signed. `tenure`: at which
        place we were reached before this start."""
        self.identity = identity
        self.node_id = identity.node_id
        self.settings = settings or MeshSettings()
        self._random = random
        self.table = Table() if table is None else table
        self.membership = Membership(network_id, self.table, verifier)
        self.directory = Directory(self.node_id, self.table, self.membership, verifier, seq)
        self.gossip = Gossip(self.table, random, now)
        self.recovery = Recovery(random)
        #: members that we have a session with, and since when
        self.sessions: dict[bytes, int] = {}
        #: whom we want to have a session with, at all times
        self.chosen: frozenset[bytes] = frozenset()
        #: refused records and frames, by reason
        self.drops: Counter[str] = Counter()
        self._places: tuple[Place, ...] | None = None
        self._events: deque[MeshEvent] = deque()
        #: what an admin says, and who comes with a ticket
        self.admission = Admission(
            identity,
            self.membership,
            self.table,
            random,
            self._events.append,
            self.publish,
            self.drops,
        )
        #: what we do about anchors, and for who wants to be one
        self.duties = Duties(
            self.node_id,
            self.settings,
            self.table,
            self.membership,
            self.directory,
            self.sessions,
            random,
            self._events.append,
            self.drops,
            now,
            tenure,
        )
        self._choose_at: int | None = now
        self._hinted: dict[bytes, tuple[int, Endpoint]] = {}
        self._hint_seq = 0
        self._stranger_at = 0
        self._clones = Clones(self.directory)
        self._presents = Bucket(PRESENTS_PER_SECOND, PRESENTS_BURST, now)

    # what is known

    @property
    def network_id(self) -> bytes:
        return self.membership.network_id

    @property
    def belongs(self) -> bool:
        return self.membership.is_active(self.node_id)

    @property
    def is_admin(self) -> bool:
        return self.membership.is_admin(self.node_id)

    def anchors(self) -> Anchors:
        return self.duties.anchors()

    def places(self, node_id: bytes, now: int) -> tuple[Endpoint, ...]:
        """Where to dial a member, best first."""
        return tuple(endpoint for endpoint, _ in self.directory.places(node_id, now))

    # inputs

    def restore(self, raws: Iterable[bytes], now: int, checked: Iterable[bytes] = ()) -> int:
        """Records kept from before. Returns how many were taken; others are counted in `drops`.

        `checked`: others, whose signatures and keys were checked when they were kept; the rules of
        section 3 decide about these as well."""
        found = [(raw, sure) for those, sure in ((raws, False), (checked, True)) for raw in those]
        found.sort(key=lambda f: f[0][:1])  # by kind: who may sign before what was signed
        taken, changed = 0, dict[bytes, None]()
        for raw, sure in found:
            try:
                record = records.decode(raw, checked=sure)
                merged = self._merge(raw, record, now, checked=sure)
            except RecordError as refusal:
                self.drops[str(refusal)] += 1
                continue
            taken += merged.outcome is Outcome.TAKEN
            changed.update(dict.fromkeys(merged.changed))
        self._events.extend(MemberChanged(node_id) for node_id in changed)
        self._choose_at = now
        return taken

    def session_up(self, node_id: bytes, now: int) -> None:
        """There is a session with this member, or again after a while without."""
        if not self.membership.is_active(node_id):
            return
        back = node_id not in self.sessions
        self.sessions[node_id] = now
        self.gossip.up(node_id, self.node_id < node_id, now)
        if back:
            self.duties.came_back(node_id)
        self._choose_soon(now)

    def session_down(self, node_id: bytes, now: int) -> None:
        if self.sessions.pop(node_id, None) is not None:
            self.gossip.down(node_id)
            self.duties.session_down(node_id)
            self._choose_soon(now)

    def called(self, node_id: bytes, endpoint: Endpoint | None, now: int) -> None:
        """Something was sent to this member, outside a session: what comes from there proves
        nothing for ten minutes."""
        self.duties.contact(node_id, endpoint, now)

    def request_came(self, nonce: bytes, remote: Endpoint, now: int) -> None:
        """A bootstrap request: it may be one that we asked for."""
        if self.duties.arrived(nonce, remote, now):
            self._attest(now)

    def place_dialled(self, job: int, answered: bool, now: int) -> None:
        """What came of a DialPlace."""
        self.duties.place_dialled(job, answered, now)

    def configure(self, settings: MeshSettings, now: int) -> None:
        """Other [network] settings."""
        if settings == self.settings:
            return
        self.settings = self.duties.settings = settings
        self.duties.set_places(self._places or (), now)
        self._attest(now)
        self._choose_at = now

    def met(self, node_id: bytes, endpoint: Endpoint, how: How, now: int) -> None:
        """An authentic message came from the member: from a place that we dialled, or another."""
        if not self.membership.is_active(node_id):
            return
        record = self.table.endpoints(node_id)
        told = {p.endpoint for p in record.places} if record else set()
        self.directory.met(node_id, endpoint, how, now)
        self.duties.contact(node_id, endpoint, now)
        if how is How.SEEN and endpoint not in told:
            self._hint(node_id, endpoint, now)

    def set_places(self, places: Iterable[Place], now: int) -> None:
        """Where we are. What was called in vain is called again."""
        chosen = tuple(places)
        if chosen == self._places:
            return
        self._places = chosen
        self.duties.set_places(chosen, now)
        self.duties.prove([p for p in chosen if p.kind is PlaceKind.MAPPED], now)
        self._attest(now)
        self.recovery.anew(now)
        self._choose_soon(now)

    def set_near(self, near: Mapping[bytes, tuple[Endpoint, ...]], now: int) -> None:
        """Who says on a link of ours that it is there, and where: places to try, no more."""
        for node_id in self.directory.set_near(near):
            self._events.append(MemberChanged(node_id))
            self.recovery.anew_for(node_id, now)
            self._choose_at = now

    def host_changed(self, now: int) -> None:
        """An address, a route, or the host woke up: calls begin anew."""
        self.recovery.anew(now)
        self.duties.prover.again(now)

    def stranger(self, now: int) -> None:
        """Somebody whom we do not know has a right handshake: it may have been let in elsewhere."""
        if now >= self._stranger_at:
            self._stranger_at = now + STRANGER_GAP
            self.gossip.compare_with_some(now)

    def presentation(self, node_id: bytes) -> list[bytes]:
        """Our member record, after that of who signed it, for a member that may not know us: we
        never met it. Nothing: it does, or is none, or we are none."""
        own = self.membership.active(self.node_id)
        if own is None or not self.membership.is_active(node_id):
            return []
        if self.directory.met_places(node_id):
            return []
        keys = [] if own.issuer == ROOT else [key_of(Kind.ADMIN, own.issuer)]
        entries = (self.table.get(k) for k in (*keys, key_of(Kind.MEMBER, self.node_id)))
        return [entry.raw for entry in entries if entry is not None]

    def presented(self, data: bytes, now: int) -> bool:
        """A PRESENT came. True: somebody is a member here now that was none.

        MessageError: refused.
        """
        present.check(data, self.identity.fingerprint)
        if not self._presents.take(1, now):
            raise MessageError("present_rate")
        before = self.table.changes
        for raw in present.decode(data, self.identity.static_private):
            if self.table.known(raw) is not None:
                continue
            try:
                record = records.decode(raw)
                if not isinstance(record, AdminRecord | MemberRecord):
                    raise RecordError("record_kind")
                merged = self._merge(raw, record, now)
            except RecordError as refusal:
                self.drops[str(refusal)] += 1
                self._presents.charge(PRESENT_FORGED, now)
                break
            if merged.outcome is Outcome.TAKEN:
                self._taken(merged, b"", now)
        return self.table.changes != before

    def receive(
        self, node_id: bytes, frame: bytes, now: int, remote: Endpoint | None = None
    ) -> None:
        """A frame of type GOSSIP_UPDATE or MESH from a session. Refused ones are counted.

        `remote`: where it came from, as far as that is known.
        """
        try:
            if node_id in self.admission.invites.by_key:
                self.admission.receive(node_id, frame, now)
                return
            neighbour = self.gossip.neighbours.get(node_id)
            if neighbour is None:
                if not self.membership.is_active(node_id):
                    raise ControlError("mesh_member")
                self.session_up(node_id, now)
                neighbour = self.gossip.neighbours[node_id]
            if not neighbour.frames_in.take(1, now):
                raise ControlError("mesh_rate")
            self._receive(node_id, frames.decode(frame), now, remote)
        except ControlError as refusal:
            self.drops[str(refusal)] += 1

    def _receive(
        self, node_id: bytes, frame: frames.Frame, now: int, remote: Endpoint | None
    ) -> None:
        self.duties.heard(node_id, now)
        answer = Answer()
        if isinstance(frame, Update):
            self._receive_records(node_id, frame, now)
            return
        if isinstance(frame, DialBack):
            self.duties.dial_back(node_id, frame, remote, now)
        elif isinstance(frame, Dialled):
            if self.duties.dialled(node_id, frame, now):
                self._attest(now)
        elif isinstance(frame, AnchorState):
            if self.duties.anchor_state(node_id, frame, now):
                self.recovery.anew_for(frame.node_id, now)
        elif isinstance(frame, Summary):
            answer = reconcile.on_summary(self.table, frame)
            if not frame.ask:
                self.gossip.answered(node_id)
        elif isinstance(frame, Tree):
            self.gossip.answered(node_id)
            answer = reconcile.on_tree(self.table, frame)
        elif isinstance(frame, Leaves):
            self.gossip.answered(node_id)
            answer = reconcile.on_leaves(self.table, frame)
        else:
            answer.send += reconcile.on_want(self.table, frame)
        self.gossip.send_frames(node_id, answer.frames, now)
        if answer.send:
            self.gossip.send_records(node_id, answer.send, now)
        if answer.cut:
            self.gossip.compare_with(node_id, now, after=CUT_GAP)

    def _receive_records(self, node_id: bytes, update: Update, now: int) -> None:
        older: list[int] = []
        for raw in update.records:
            neighbour = self.gossip.neighbours.get(node_id)
            if neighbour is None:
                return  # one of these records was its own revocation
            known = self.table.known(raw)
            if known is not None:
                self.gossip.learn(node_id, known)
                continue
            try:
                if neighbour.records_in.refill(now) < 1:
                    raise RecordError("record_rate")
                record = records.decode(raw)
                merged = self._merge(raw, record, now)
            except RecordError as refusal:
                self.drops[str(refusal)] += 1
                if str(refusal) != "record_rate":
                    neighbour.records_in.charge(FORGED_COST, now)
                continue
            if merged.outcome is Outcome.TAKEN:
                neighbour.records_in.charge(1, now)
                self._taken(merged, node_id, now)
            elif merged.entry is not None:
                self.gossip.learn(node_id, merged.entry)
                if merged.outcome is Outcome.OLDER:
                    older.append(merged.entry.key)
            else:
                self.drops["record_waiting"] += merged.outcome is Outcome.WAITING
        if older:
            self.gossip.send_records(node_id, older, now)
        if update.more:
            self.gossip.compare_with(node_id, now)

    def _merge(self, raw: bytes, record: Record, now: int, *, checked: bool = False) -> Merged:
        if isinstance(record, EndpointRecord | ObservedRecord):
            return self.directory.merge(raw, record, now, checked=checked)
        return self.membership.merge(raw, record, checked=checked)

    def _taken(self, merged: Merged, source: bytes | None, now: int) -> None:
        """Pass on what is new, store it, and say whose state is another."""
        own = source is None
        for entry in merged.put:
            self._events.append(RecordStored(entry.key, entry.raw, own))
        self._events.extend(RecordGone(key) for key in merged.removed)
        told = merged.put
        if not told and merged.entry is not None:
            told = [merged.entry]  # a hint: passed on, not kept
        if self.settings.leaf and not own:
            told = [entry for entry in told if entry.is_revocation]
        self.gossip.spread(told, source, now)
        for node_id in merged.changed:
            self._changed(node_id, now)
        for entry in merged.put:
            record = entry.record
            if isinstance(record, MemberRecord):
                revoked = record.status is Status.REVOKED
                word = Word.REVOKED if revoked else Word.JOINED
                if record.node_id == self.node_id:
                    if revoked:
                        self._events.append(Notice(Word.REVOKED_SELF, self.node_id, record.name))
                elif revoked or record.generation == 1:
                    self._events.append(Notice(word, record.node_id, record.name))
            elif isinstance(record, EndpointRecord) and record.node_id == self.node_id and not own:
                if self._clones.to_say(now):
                    self._events.append(Notice(Word.CLONED, self.node_id))
                self._attest(now)
        self._choose_soon(now)
        if not own:
            for entry in merged.put:
                if isinstance(entry.record, MemberRecord):
                    self.admission.remembered(entry.record, now)

    def _changed(self, node_id: bytes, now: int) -> None:
        if not self.membership.is_active(node_id):
            if node_id in self.sessions:
                self._tell_revoked(node_id)
            self.session_down(node_id, now)
            self._hinted.pop(node_id, None)
            key = self.directory.forget(node_id)
            if key is not None:
                self._events.append(RecordGone(key))
        elif node_id == self.node_id:
            self.duties.set_places(self._places or (), now)
            self._attest(now)
        self._events.append(MemberChanged(node_id))

    def _tell_revoked(self, node_id: bytes) -> None:
        """Its last word from us: why nobody answers it any more."""
        entry = self.table.get(key_of(Kind.MEMBER, node_id))
        for frame in frames.update_frames([entry.raw] if entry is not None else []):
            self._events.append(SendFrame(node_id, frame))

    # our own word

    def _attest(self, now: int) -> None:
        if self._places is None or not self.belongs or not self._clones.may_sign(now):
            return
        self.duties.changed()
        raw = self.directory.attest(
            self._places, self.duties.is_one, self.duties.is_proved, self.identity.seed
        )
        if raw is not None:
            entry = entry_of(raw)
            self._events.append(RecordStored(entry.key, raw, own=True))
            self.gossip.spread([entry], None, now)

    def _hint(self, node_id: bytes, endpoint: Endpoint, now: int) -> None:
        """Tell others where we saw a member, if that is news."""
        at, last = self._hinted.get(node_id, (-HINT_GAP, None))
        if endpoint == last or now - at < HINT_GAP or not self.belongs:
            return
        self._hinted[node_id] = now, endpoint
        # Hints are not kept, so their seq need not go on from before this start: it grows with the
        # boot clock, and of two the later counts only while both are fresh.
        self._hint_seq = max(self._hint_seq + 1, now)
        record = ObservedRecord(
            self.network_id,
            node_id,
            self.node_id,
            self._hint_seq,
            Place(endpoint, PlaceKind.OBSERVED),
        )
        try:
            raw = records.encode(record, self.identity.seed)
        except (ValueError, RecordError):
            return  # a link-local address or one of our own kind: of no use to others
        self.gossip.spread([entry_of(raw)], None, now)

    def publish(self, raw: bytes, now: int) -> None:
        """Tell the others what was signed here. RecordError, MeshError: it does not hold."""
        merged = self._merge(raw, records.decode(raw), now)
        if merged.outcome is not Outcome.TAKEN:
            raise MeshError("what is known already outranks this")
        self._taken(merged, None, now)

    # time

    def _choose_soon(self, now: int) -> None:
        if self._choose_at is None and self.settings.neighbours:
            self._choose_at = now + CHOOSE_EVERY

    def deadline(self) -> int:
        found = [self.gossip.deadline()]
        for at in (
            self._choose_at,
            self._clones.at,
            self.admission.invites.deadline(),
            self.recovery.deadline(),
            self.duties.deadline(),
        ):
            if at is not None:
                found.append(at)
        return min(found)

    def handle_timeout(self, now: int) -> None:
        """Call when `deadline` is up; too early or too late does no harm."""
        for node_id, frame in self.gossip.handle_timeout(now):
            self._events.append(SendFrame(node_id, frame))
        for over in self.admission.invites.expire(now):
            self._events.append(GuestGone(over.one_time))
        if self._clones.at is not None and self._clones.at <= now:
            self._attest(now)
        due = self.duties.deadline()
        if due is not None and due <= now:
            lost, changed = self.duties.handle_timeout(now)
            for node_id in lost:
                self.session_down(node_id, now)
                self._choose_at = now
            if changed:
                self._attest(now)
        if self._choose_at is not None and self._choose_at <= now:
            self._choose_at = None
            self._choose(now)
        for node_id in self.recovery.handle_timeout(now):
            places = self.places(node_id, now)
            if places:
                self.duties.contact(node_id, None, now)
                self._events.append(WantSession(node_id, places))

    def _choose(self, now: int) -> None:
        """Whom we want to have sessions with, and have not."""
        if not self.settings.neighbours or not self.belongs:
            self.recovery.want((), now)
            return
        members = [entry.subject for entry in self.membership.members()]
        dialable = [n for n in members if n != self.node_id and self.directory.is_dialable(n)]
        anchors = known_anchors(self.table, self.membership)
        self.duties.follow(anchors, now, len(members))
        count = 0 if self.settings.leaf and anchors else self.settings.neighbours
        chosen = wanted(self.node_id, dialable, anchors, count)
        if not self.settings.leaf:
            # Without an uplink they are all there is, and few of them may be among the others.
            close = sorted(self.directory.near, key=lambda n: closeness(self.node_id, n))
            chosen += [n for n in close[:NEAR_MOST] if n not in chosen and n != self.node_id]
        for node_id in self.chosen.symmetric_difference(chosen):
            self._events.append(MemberChanged(node_id))
        self.chosen = frozenset(chosen)
        self.recovery.want([n for n in chosen if n not in self.sessions], now)

    # outputs

    def poll_event(self) -> MeshEvent | None:
        return self._events.popleft() if self._events else None
