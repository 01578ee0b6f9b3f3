"""What an admin does: its word on members, and who comes with a ticket of ours (docs/mesh.md 8)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from whalescale.identity import Identity
from whalescale.protocol.control import ControlError
from whalescale.protocol.mesh import frames, invite, records
from whalescale.protocol.mesh.entry import key_of
from whalescale.protocol.mesh.events import (
    GuestAdmitted,
    GuestGone,
    MeshError,
    MeshEvent,
    Notice,
    SendFrame,
    TicketKept,
    Word,
)
from whalescale.protocol.mesh.frames import MESH, Sub
from whalescale.protocol.mesh.invite import Invite, Invites, Refusal
from whalescale.protocol.mesh.membership import Membership
from whalescale.protocol.mesh.records import (
    ROOT,
    AdminRecord,
    Kind,
    MemberRecord,
    Network,
    RecordError,
    Status,
)
from whalescale.protocol.mesh.table import Table

#: members whose records signed since the start are remembered
ISSUED_MOST: Final = 256
#: One is signed anew so often: two agents of one admin's key would outdo each other without end.
AGAIN_MOST: Final = 3


class Admission:
    """Of one member; whether it is an admin is looked up each time."""

    def __init__(
        self,
        identity: Identity,
        membership: Membership,
        table: Table,
        random: Callable[[int], bytes],
        emit: Callable[[MeshEvent], None],
        publish: Callable[[bytes, int], None],
        drops: Counter[str],
    ) -> None:
        """`publish(raw, now)`: take a record that was signed here, and tell the others."""
        self._identity, self._node_id = identity, identity.node_id
        self._membership, self._table = membership, table
        self._emit, self._publish, self._drops = emit, publish, drops
        self.invites = Invites(random)
        #: what we signed since the start, and how often again
        self._issued: dict[bytes, MemberRecord] = {}
        self._again: Counter[bytes] = Counter()
        #: a person was told that our disk knows less than it did
        self._adopted = False

    def issue(self, record: MemberRecord | AdminRecord, seed: bytes | bytearray, now: int) -> None:
        """Sign a record and tell the others. MeshError: it would not hold."""
        try:
            self._publish(records.encode(record, seed), now)
            if isinstance(record, MemberRecord):
                self._issued.pop(record.node_id, None)
                self._issued[record.node_id] = record
                if len(self._issued) > ISSUED_MOST:
                    del self._issued[next(iter(self._issued))]
        except ValueError as e:
            raise MeshError(f"the record does not hold: {e}") from None

    def remembered(self, record: MemberRecord, now: int) -> None:
        """One that we signed and knew nothing of has come: our disk was put back. What we signed
        since then is signed again above it, with another address where that one had been given."""
        if record.issuer != self._node_id:
            return
        if not self._adopted:
            self._adopted = True
            self._emit(Notice(Word.ADOPTED, record.node_id, record.name))
        if record.status is not Status.ACTIVE:
            return
        for node_id, mine in tuple(self._issued.items()):
            changes: dict[str, object] = {}
            if node_id == record.node_id:
                if mine == record:
                    continue
            elif mine.address is not None and mine.address == record.address:
                changes = {"address": self._membership.free_address()}
            else:
                continue
            if mine.status is not Status.ACTIVE or self._again[node_id] >= AGAIN_MOST:
                continue
            self._again[node_id] += 1
            with contextlib.suppress(MeshError, RecordError):
                self._reissue(mine, now, **changes)
                self._emit(Notice(Word.SIGNED_AGAIN, node_id, mine.name))

    def _need_admin(self) -> None:
        if not self._membership.is_admin(self._node_id):
            raise MeshError(
                "this machine is no admin of the network; ask one, or make it one with "
                "`ws network admin add` where the network key is"
            )

    def _member_named(self, name: str) -> MemberRecord:
        record = self._membership.named(name)
        if record is None:
            raise MeshError(f"no member is called {name}; see `ws members`")
        return record

    def revoke(self, name: str, now: int) -> MemberRecord:
        """Cut a member off, for ever. MeshError: unknown, or we are no admin."""
        self._need_admin()
        record = self._member_named(name)
        return self._reissue(record, now, status=Status.REVOKED)

    def rename(self, name: str, new: str, now: int) -> MemberRecord:
        self._need_admin()
        record = self._member_named(name)
        self._check_name(new)
        return self._reissue(record, now, name=new)

    def set_routes(
        self, name: str, add: Iterable[Network], remove: Iterable[Network], now: int
    ) -> MemberRecord:
        """Networks behind a member; 0.0.0.0/0 and ::/0: it may be an exit. MeshError: too many, or
        we are no admin."""
        self._need_admin()
        record = self._member_named(name)
        gone = set(remove)
        routes = tuple(dict.fromkeys(n for n in (*record.routes, *add) if n not in gone))
        try:
            return self._reissue(record, now, routes=routes)
        except ValueError as e:
            raise MeshError(str(e)) from None

    def _reissue(self, record: MemberRecord, now: int, **changes: object) -> MemberRecord:
        new: MemberRecord = replace(
            record,
            issuer=self._node_id,
            generation=self._membership.next_generation(record.node_id),
            **changes,  # type: ignore[arg-type]
        )
        self.issue(new, self._identity.seed, now)
        return new

    def _check_name(self, name: str) -> None:
        if not records.is_name(name):
            raise MeshError(
                f"{name!r} is no name: lower-case letters, digits and inner hyphens, 63 at most"
            )
        if self._membership.named(name) is not None:
            raise MeshError(f"a member is called {name} already; choose another name")

    def invite(
        self,
        name: str,
        now: int,
        *,
        may_anchor: bool = True,
        routes: tuple[Network, ...] = (),
        lifetime: int = invite.LIFETIME,
    ) -> tuple[Invite, bytes]:
        """Let one machine in that comes with the ticket's key. Returns it and its secret."""
        self._need_admin()
        self._check_name(name)
        if any(i.name == name and i.used_by is None for i in self.invites.by_key.values()):
            raise MeshError(
                f"a ticket for {name} is out already; `ws invite {name} --withdraw` calls it back"
            )
        try:
            made, secret = self.invites.make(name, may_anchor, routes, now, lifetime)
        except ValueError as e:
            raise MeshError(str(e)) from None
        self._emit(TicketKept(replace(made)))
        self._emit(GuestAdmitted(made.one_time))
        return made, secret

    def withdraw(self, name: str) -> None:
        """No ticket with this name lets anybody in any more. MeshError: none is out."""
        gone = self.invites.withdraw(name)
        if not gone:
            raise MeshError(f"no ticket for {name} is out; see `ws members` who came with it")
        for one in gone:
            self._emit(GuestGone(one.one_time))

    def restore_tickets(self, kept: Iterable[Invite]) -> None:
        """Those from before this start. One whose time is over goes at the next timeout."""
        self.invites.restore(kept)
        for one_time in self.invites.by_key:
            self._emit(GuestAdmitted(one_time))

    # who comes with a ticket

    def receive(self, one_time: bytes, frame: bytes, now: int) -> None:
        if len(frame) < 3 or frame[0] != MESH or frame[2] != Sub.JOIN:
            raise ControlError("mesh_guest")
        node_id = invite.decode_join(frame, self._membership.network_id, self._node_id, one_time)
        reason = self._admit(one_time, node_id, now)
        if reason is not None:
            self._emit(SendFrame(one_time, invite.encode_refused(reason)))
            return
        assert node_id is not None
        for update in frames.update_frames(self.welcome(node_id)):
            self._emit(SendFrame(one_time, update))

    def _admit(self, one_time: bytes, node_id: bytes | None, now: int) -> Refusal | None:
        """Make the machine a member. None: it is one now."""
        if node_id is None:
            self._drops["join_proof"] += 1
            return Refusal.PROOF
        found = self.invites.by_key.get(one_time)
        if found is None or found.used_by not in (None, node_id):
            return Refusal.UNKNOWN
        if found.used_by == node_id and self._membership.is_active(node_id):
            return None
        if now >= found.until:
            return Refusal.EXPIRED
        if not self._membership.is_admin(self._node_id):
            return Refusal.NOT_ADMIN
        if self._membership.is_revoked(node_id):
            return Refusal.REVOKED
        record = MemberRecord(
            self._membership.network_id,
            node_id,
            self._node_id,
            self._membership.next_generation(node_id),
            Status.ACTIVE,
            found.name,
            found.may_anchor,
            self._address_for(node_id),
            found.routes,
        )
        # Used before it is of use: whoever is killed in between lets nobody else in with it.
        found.used_by, before = node_id, found.until
        found.until = now + invite.LINGER
        self._emit(TicketKept(replace(found)))
        try:
            self.issue(record, self._identity.seed, now)
        except (MeshError, RecordError):
            found.used_by, found.until = None, before
            self._emit(TicketKept(replace(found)))
            return Refusal.FULL
        self._emit(Notice(Word.TICKET_USED, node_id, found.name))
        return None

    def _address_for(self, node_id: bytes) -> IPv4Address | None:
        known = self._membership.active(node_id)
        return known.address if known and known.address else self._membership.free_address()

    def welcome(self, node_id: bytes) -> list[bytes]:
        """What a new machine needs to find the network and to check the rest."""
        keys = [
            key_of(Kind.NETWORK, b""),
            *(key_of(Kind.ADMIN, m.issuer) for m in self._issuers(node_id)),
            key_of(Kind.MEMBER, node_id),
            key_of(Kind.MEMBER, self._node_id),
            key_of(Kind.ENDPOINTS, self._node_id),
        ]
        found = (self._table.get(key) for key in dict.fromkeys(keys))
        return [entry.raw for entry in found if entry is not None]

    def _issuers(self, node_id: bytes) -> list[MemberRecord]:
        both = (self._membership.active(node_id), self._membership.active(self._node_id))
        return [m for m in both if m is not None and m.issuer != ROOT]
