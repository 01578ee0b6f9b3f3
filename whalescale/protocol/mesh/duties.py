"""What a member does about anchors: whether it is one itself, which of the others live, whom it
dials for others (docs/mesh.md section 7.1). The machines are in anchors.py and dialback.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import frames
from whalescale.protocol.mesh.anchors import (
    LONE_WATCHERS,
    Advice,
    Anchors,
    Tenure,
    Watch,
    judge,
    known_anchors,
)
from whalescale.protocol.mesh.dialback import (
    FORGOTTEN,
    VAIN,
    Dialler,
    Proof,
    Prover,
    nonce_of,
)
from whalescale.protocol.mesh.directory import Directory
from whalescale.protocol.mesh.entry import key_of
from whalescale.protocol.mesh.events import (
    Anchoring,
    DialPlace,
    HeldStored,
    MappedDialled,
    MeshEvent,
    MeshSettings,
    Notice,
    SendFrame,
    Word,
)
from whalescale.protocol.mesh.frames import AnchorState, By, DialBack, Dialled, Outcome
from whalescale.protocol.mesh.membership import Membership
from whalescale.protocol.mesh.reconcile import summary
from whalescale.protocol.mesh.records import Kind, Place
from whalescale.protocol.mesh.recovery import closeness
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint

#: members that we remember having called
CONTACTS_MAX: Final = 1024
#: what is said of the anchors is said once it has been so for this long; later after the start
ADVICE_AFTER: Final = 5 * NS_PER_S
#: that none is alive
ADVICE_AFTER_NONE: Final = NS_PER_S
ADVICE_FIRST: Final = 30 * NS_PER_S


class Duties:
    """Of one member. `sessions`: whom it has one with, as the mesh keeps it. Times are ns."""

    def __init__(
        self,
        node_id: bytes,
        settings: MeshSettings,
        table: Table,
        membership: Membership,
        directory: Directory,
        sessions: dict[bytes, int],
        random: Callable[[int], bytes],
        emit: Callable[[MeshEvent], None],
        drops: Counter[str],
        now: int,
        tenure: Tenure | None = None,
    ) -> None:
        self._node_id = node_id
        self.settings = settings
        self._table = table
        self._membership = membership
        self._directory = directory
        self._sessions = sessions
        self._random = random
        self._emit = emit
        self._drops = drops
        self.prover = Prover(node_id, random)
        self.dialler = Dialler()
        self.watch = Watch()
        self.tenure = tenure or Tenure(now=now)
        self._places: tuple[Place, ...] = ()
        self._extra: tuple[Place, ...] = ()
        #: what was said of places that gateways map: whether others get in
        self._told: dict[Endpoint, bool] = {}
        #: whom we sent something to, and when
        self._contacts: dict[bytes, int] = {}
        self._acted = False
        #: what was said of the anchors, what is so now, and since when
        self._said: Advice | None = None
        self._advice: tuple[Advice | None, int] = (None, now)
        self._advice_from = now + ADVICE_FIRST

    # whether we are one

    @property
    def may_be_one(self) -> bool:
        own = self._membership.active(self._node_id)
        return own is not None and own.may_anchor and not self.settings.leaf

    @property
    def is_one(self) -> bool:
        if self.settings.anchor is Anchoring.AUTO:
            return self.may_be_one and self.tenure.is_stable
        return self.settings.anchor is Anchoring.YES and not self.settings.leaf

    @property
    def is_proved(self) -> bool:
        """As an anchor."""
        return self.is_one and self.prover.best is not Proof.NONE

    def set_places(self, places: Iterable[Place], now: int) -> None:
        """Where we say that we are."""
        self._places = tuple(places)
        self._follow_places(now)

    def prove(self, places: Iterable[Place], now: int) -> None:
        """Have these dialled as well, whether we shall be an anchor or not: what gateways map
        counts once somebody got in by it. MappedDialled says so."""
        self._extra = tuple(places)
        mapped = {p.endpoint for p in self._extra}
        self._told = {e: reached for e, reached in self._told.items() if e in mapped}
        self._follow_places(now)

    def _say_mapped(self) -> None:
        for place in self._extra:
            standing = self.prover.standings.get(place.endpoint)
            reached = standing is not None and standing.proof is not Proof.NONE
            vain = standing is not None and standing.vain >= VAIN
            if (reached or vain) and self._told.get(place.endpoint) is not (reached and not vain):
                self._told[place.endpoint] = reached and not vain
                self._emit(MappedDialled(place.endpoint, reached and not vain))

    def _follow_places(self, now: int) -> None:
        wanted = self.settings.anchor is not Anchoring.NO and self.may_be_one
        places = (*(self._places if wanted else ()), *self._extra)
        self.prover.set_places({p.endpoint: p for p in places}.values(), now)
        self._proofs_changed(now)

    def _proofs_changed(self, now: int) -> None:
        self._say_mapped()
        before = self.tenure.place
        self.tenure.follow(
            {
                e
                for e, s in self.prover.standings.items()
                if s.proof is not Proof.NONE and ip_address(e.ip).is_global
            },
            now,
        )
        place = self.tenure.place
        if place is not None and (place != before or self.tenure.save_due(now)):
            self._emit(HeldStored(place, self.tenure.seconds))

    def changed(self) -> bool:
        """Whether we act as an anchor now and did not before, or the other way round; once."""
        acts = self.is_one
        if acts == self._acted:
            return False
        self._acted = acts
        if self.settings.anchor is Anchoring.AUTO:
            self._emit(Notice(Word.ANCHOR if acts else Word.ANCHOR_NOT, self._node_id))
        return True

    # the others

    def anchors(self) -> Anchors:
        known = known_anchors(self._table, self._membership)
        return judge(self._node_id, known, self._sessions, self._table)

    def follow(self, anchors: Iterable[bytes], now: int, members: int = 0) -> None:
        """Anchors, sessions, or how many members there are may be others than before."""
        known = list(anchors)
        others = [a for a in known if a in self._sessions and a != self._node_id]
        watched: list[bytes] = []
        if self.is_one:
            watched = sorted(others, key=lambda a: closeness(self._node_id, a))
        elif (
            len(others) == 1 and not self.settings.leaf and self._watches_alone(others[0], members)
        ):
            watched = others
        self.watch.follow(watched, now)
        advice = judge(self._node_id, known, self._sessions, self._table).advice
        if advice is not self._advice[0]:
            self._advice = advice, now

    def _watches_alone(self, anchor: bytes, members: int) -> bool:
        """No other anchor watches it, so some members do: as many as it can answer."""
        if self.settings.leaf:
            return False
        share = int.from_bytes(closeness(self._node_id, anchor), "big") / 2**64
        return share * members < LONE_WATCHERS

    def _say_advice(self, now: int) -> None:
        advice = self._advice[0]
        if advice is self._said or now < self._advice_at():
            return
        self._said = advice
        self._emit(Notice(Word.ANCHORS, self._node_id, advice.value if advice else ""))

    def _advice_at(self) -> int:
        advice, since = self._advice
        after = ADVICE_AFTER_NONE if advice is Advice.NONE else ADVICE_AFTER
        return max(since + after, self._advice_from)

    def heard(self, node_id: bytes, now: int) -> None:
        self.watch.heard(node_id, now)

    def session_down(self, node_id: bytes) -> None:
        self.watch.forget(node_id)

    def came_back(self, node_id: bytes) -> None:
        """There is a session with it, after a while without."""
        if self.is_one and node_id in known_anchors(self._table, self._membership):
            self._tell(AnchorState(node_id, alive=True))

    def _tell(self, state: AnchorState) -> None:
        frame = frames.encode(state)
        for neighbour in self._sessions:
            if neighbour != state.node_id:
                self._emit(SendFrame(neighbour, frame))

    def anchor_state(self, node_id: bytes, said: AnchorState, now: int) -> bool:
        """An anchor's word of another one. Never believed: it is a reason to look. True: call it.

        `mesh_claim` where either is none.
        """
        known = known_anchors(self._table, self._membership)
        if node_id not in known or said.node_id not in known or said.node_id == self._node_id:
            self._drops["mesh_claim"] += 1
            return False
        if said.alive:
            return said.node_id not in self._sessions
        if said.node_id in self._sessions:
            self.watch.suspect(said.node_id, now)
        return False

    # dialling back: ours

    def contact(self, node_id: bytes, endpoint: Endpoint | None, now: int) -> None:
        """We send something to this member."""
        self._contacts.pop(node_id, None)
        self._contacts[node_id] = now
        if len(self._contacts) > CONTACTS_MAX:
            del self._contacts[next(iter(self._contacts))]
        if endpoint is not None:
            self.prover.sent(endpoint, now)

    def _touched(self, now: int) -> list[bytes]:
        """Whom we sent something to lately, the latest first."""
        called = (n for n, at in reversed(self._contacts.items()) if now - at < FORGOTTEN)
        return list(dict.fromkeys((*called, *self._sessions)))

    def arrived(self, nonce: bytes, remote: Endpoint, now: int) -> bool:
        """A bootstrap request came in. True: our record says something else now."""
        before = self.is_proved, self.is_one
        near = (e for n in self._touched(now) for e, _ in self._directory.places(n, now))
        if self.prover.arrived(nonce, remote, near, now):
            self._proofs_changed(now)
        return before != (self.is_proved, self.is_one)

    def _ask(self, asked: tuple[bytes, DialBack] | None) -> None:
        if asked is not None:
            self._emit(SendFrame(asked[0], frames.encode(asked[1])))

    def _avoid(self, now: int) -> list[int]:
        return [key_of(Kind.MEMBER, n) for n in self._touched(now)]

    # dialling back: for others

    def dial_back(
        self, node_id: bytes, wanted: DialBack, remote: Endpoint | None, now: int
    ) -> None:
        """A neighbour wants a place dialled. `remote`: where its frame came from."""
        refusal = self._refusal(node_id, wanted, remote)
        other = self._other(node_id, wanted, remote) if wanted.by is By.ANOTHER else None
        if refusal is None and wanted.by is By.ANOTHER and other is None:
            refusal = Outcome.NOBODY
        if refusal is None and not self.dialler.admit(node_id, wanted.node_id, now):
            self._drops["mesh_dial"] += 1
            refusal = Outcome.BUSY
        if refusal is not None:
            self._emit(SendFrame(node_id, frames.encode(Dialled(refusal, wanted.token))))
        elif other is not None:
            self.dialler.begin(node_id, wanted.token, now, passed=other)
            entry = self._table.get(key_of(Kind.ENDPOINTS, wanted.node_id))
            for update in frames.update_frames([entry.raw] if entry is not None else []):
                self._emit(SendFrame(other, update))
            passed = DialBack(By.PASSED, wanted.token, wanted.node_id, wanted.place)
            self._emit(SendFrame(other, frames.encode(passed)))
        else:
            job = self.dialler.begin(node_id, wanted.token, now)
            nonce = nonce_of(wanted.token)
            self._emit(DialPlace(job, wanted.node_id, wanted.place.endpoint, nonce))

    def _refusal(self, node_id: bytes, wanted: DialBack, remote: Endpoint | None) -> Outcome | None:
        """Never a third party's address: only what the member that is dialled has signed, or where
        it is itself."""
        record = self._table.endpoints(wanted.node_id)
        place = wanted.place.endpoint
        attested = record is not None and any(p.endpoint == place for p in record.places)
        network = self._membership.network
        inside = (
            network is not None
            and network.prefix is not None
            and (ip_address(place.ip) in network.prefix)
        )
        if inside or not self._membership.is_active(wanted.node_id):
            return Outcome.NOT_YOURS
        if wanted.by is By.PASSED:
            if not attested or wanted.node_id in (self._node_id, node_id):
                return Outcome.NOT_YOURS
            if wanted.node_id in self._sessions or wanted.node_id in self._contacts:
                return Outcome.NOBODY
        elif wanted.node_id != node_id or not (
            attested or (wanted.by is By.YOU and place == remote)
        ):
            return Outcome.NOT_YOURS
        return Outcome.BUSY if self.settings.leaf else None

    def _other(self, node_id: bytes, wanted: DialBack, remote: Endpoint | None) -> bytes | None:
        """A neighbour that the asker has not sent to, and that is elsewhere."""
        found = []
        for n in self._sessions:
            if n == node_id or key_of(Kind.MEMBER, n) in wanted.avoid:
                continue
            met = self._directory.met_places(n)
            if remote is None or not met or met[-1].endpoint.ip != remote.ip:
                found.append(n)
        if not found:
            return None
        return found[int.from_bytes(self._random(4), "little") % len(found)]

    def place_dialled(self, job: int, answered: bool, now: int) -> None:
        """What came of a DialPlace."""
        ended = self.dialler.end(job)
        if ended is not None:
            outcome = Outcome.ANSWERED if answered else Outcome.SILENT
            said = Dialled(outcome, ended.token, self._node_id)
            self._emit(SendFrame(ended.asker, frames.encode(said)))

    def dialled(self, node_id: bytes, said: Dialled, now: int) -> bool:
        """What came of one that we asked for, or had passed on. True: our record says something
        else now."""
        job = self.dialler.passed(node_id, said.token)
        if job is not None:
            self._emit(SendFrame(job.asker, frames.encode(said)))
            return False
        before = self.is_proved, self.is_one
        neighbours = list(self._sessions)
        met = self._directory.met_places(node_id)
        remote = met[-1].endpoint.ip if met else ""
        self._ask(self.prover.answered(node_id, said, now, neighbours, self._avoid(now), remote))
        self._proofs_changed(now)
        return before != (self.is_proved, self.is_one)

    # time

    def deadline(self) -> int | None:
        found = [
            self.prover.deadline(),
            self.dialler.deadline(),
            self.watch.deadline(),
            self.tenure.deadline(),
        ]
        if self._advice[0] is not self._said:
            found.append(self._advice_at())
        return min((at for at in found if at is not None), default=None)

    def handle_timeout(self, now: int) -> tuple[list[bytes], bool]:
        """(anchors that are lost, whether our record says something else now)."""
        before = self.is_proved, self.is_one
        for job in self.dialler.expire(now):
            nobody = Dialled(Outcome.NOBODY, job.token)
            self._emit(SendFrame(job.asker, frames.encode(nobody)))
        due = self.prover.deadline()
        if due is not None and due <= now:
            neighbours = list(self._sessions)
            self._ask(self.prover.handle_timeout(now, neighbours, self._avoid(now)))
        due = self.tenure.deadline()
        if due is not None and due <= now:
            self._proofs_changed(now)
        ask, lost = self.watch.handle_timeout(now)
        if ask:
            question = frames.encode(summary(self._table, ask=True))
            for node_id in ask:
                self._emit(SendFrame(node_id, question))
        if self.is_one:
            for node_id in lost:
                self._tell(AnchorState(node_id, alive=False))
        self._say_advice(now)
        return lost, before != (self.is_proved, self.is_one)
