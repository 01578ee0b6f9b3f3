"""libFuzzer (atheris) on every decoder of a network, and the member behind them.

Input: records of an operation byte, a length byte and that many bytes.
  op % 6 = 0: a record as it stands (a hostile member's; also signed anew by it)
         = 1: a frame from a member
         = 2: a frame from the key of a ticket
         = 3: a ticket's text
         = 4: the clock goes on by that many bytes' value in ms
         = 5: a member record before a session, sealed and with a right MAC
Invariants: nothing but the decoder's own error is raised; what is taken has one encoding and
verifies; what is refused is counted; the fuzzer's member makes nobody a member and revokes nobody;
what is sent in answer, and what is kept, is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys

import atheris
from nacl.public import Box, PrivateKey, PublicKey

with atheris.instrument_imports(include=["whalescale"]):
    from whalescale.identity import Identity
    from whalescale.protocol import bootstrap
    from whalescale.protocol.control import ControlError
    from whalescale.protocol.mesh import frames, invite, present, records
    from whalescale.protocol.mesh.network import Mesh, SendFrame
    from whalescale.protocol.mesh.records import AdminRecord, MemberRecord, NetworkRecord, Status
    from whalescale.protocol.messages import MessageError

NOW = 10**12
ONCE = PrivateKey(b"\4" * 32)
ROOT, ADMIN, HOSTILE, OTHER = (Identity(bytes([n]) * 32) for n in (5, 6, 7, 8))
NETWORK = records.network_id(ROOT.node_id)


def member(who: Identity, name: str) -> bytes:
    record = MemberRecord(NETWORK, who.node_id, ADMIN.node_id, 1, Status.ACTIVE, name)
    return records.encode(record, ADMIN.seed)


RAWS = [
    records.encode(NetworkRecord(NETWORK, ROOT.node_id, 1, "hearth", None), ROOT.seed),
    records.encode(AdminRecord(NETWORK, ADMIN.node_id, 1, Status.ACTIVE), ROOT.seed),
    *(member(who, f"m{n}") for n, who in enumerate((ADMIN, HOSTILE, OTHER))),
]
MEMBERS = {who.node_id for who in (ADMIN, HOSTILE, OTHER)}

_counts = itertools.count(1)


def rand(size: int) -> bytes:
    return next(_counts).to_bytes(8, "little").ljust(size, b"\1")[:size]


def check_record(piece: bytes) -> list[bytes]:
    """The piece, and the same of our network and signed by the hostile member, as can be read."""
    found = []
    body = piece[:2] + NETWORK + piece[18:-64]
    signature = records.sign(HOSTILE.seed, b"whalescale record v1", body)
    for raw in (piece, body + signature):
        try:
            record = records.decode(raw)
        except records.RecordError:
            continue
        assert records.encode(record, HOSTILE.seed)[:-64] == raw[:-64]
        found.append(raw)
    return found


def check_frame(piece: bytes) -> None:
    try:
        frame = frames.decode(piece)
    except ControlError:
        return
    if isinstance(frame, frames.Update):
        again = frames.update_frames(frame.records, frame.more)
        told = [r for f in again for r in frames.decode(f).records]  # type: ignore[union-attr]
        assert tuple(told) == frame.records
    else:
        assert frames.decode(frames.encode(frame)) == frame


def sealed(piece: bytes) -> bytes:
    """Of any content, for the fuzzer's member."""
    to = ADMIN.static_public
    own = bytes(ONCE.public_key)
    nonce = hashlib.blake2b(own + to, digest_size=24).digest()
    box = Box(ONCE, PublicKey(to)).encrypt(piece.ljust(present.PLAIN_BYTES, b"\0"), nonce)
    body = bytes((0x59, 0, 0, 0)) + own + box.ciphertext
    key = bootstrap.mac_key(ADMIN.fingerprint)
    return body + hashlib.blake2s(body, key=key, digest_size=16).digest()


def check_ticket(piece: bytes) -> None:
    for text in (piece.decode("latin-1"), invite.PREFIX + piece.decode("latin-1")):
        try:
            ticket = invite.decode_ticket(text)
        except invite.TicketError:
            continue
        assert invite.decode_ticket(invite.encode_ticket(ticket)) == ticket


def one_input(data: bytes) -> None:
    now = NOW
    mesh = Mesh(ADMIN, NETWORK, random=rand, now=now)
    mesh.restore(RAWS, now)
    for node_id in (HOSTILE.node_id, OTHER.node_id):
        mesh.session_up(node_id, now)
    guest = mesh.admission.invite("guest", now)[0].one_time
    budget = 2 * 65_536
    while len(data) >= 2:
        op, size, piece = data[0] % 6, data[1], data[2 : 2 + data[1]]
        data = data[2 + size :]
        if op == 0:
            for update in frames.update_frames(check_record(piece)):
                mesh.receive(HOSTILE.node_id, update, now)
        elif op == 1:
            check_frame(piece)
            mesh.receive(HOSTILE.node_id, piece, now)
        elif op == 2:
            mesh.receive(guest, piece, now)
        elif op == 3:
            check_ticket(piece)
        elif op == 5:
            with contextlib.suppress(MessageError):
                mesh.presented(sealed(piece), now)
        else:
            passed = int.from_bytes(piece[:3], "little") * 1_000_000
            now += passed
            budget += passed * 2 * 16_384 // 10**9
        if mesh.deadline() <= now:
            mesh.handle_timeout(now)
        while (event := mesh.poll_event()) is not None:
            if isinstance(event, SendFrame):
                assert len(event.frame) <= 1_000
                if event.node_id != guest:
                    budget -= len(event.frame)
        assert budget > -2_000
        actives = {m.node_id for m in mesh.membership.actives()}
        assert actives == MEMBERS
        assert set(mesh.sessions) <= MEMBERS
        assert mesh.table.count <= 16
        for entry in mesh.table.entries():
            network = mesh.membership.network
            signer = records.signer_of(entry.record, network.key if network else None)
            assert signer is not None


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
