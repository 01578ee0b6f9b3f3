"""docs/mesh.md by example: tests/vectors/mesh.json, for the code and for a second reading."""

import hashlib
import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import reading
from nacl.public import Box, PrivateKey, PublicKey

from whalescale.identity import Identity
from whalescale.protocol.control import ControlError
from whalescale.protocol.mesh import frames, invite, present, records
from whalescale.protocol.mesh.entry import entry_of
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.messages import MessageError

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "mesh.json").read_text())


def named(key):
    return pytest.mark.parametrize("case", VECTORS[key], ids=lambda c: c["name"])


def fields(record):
    """As the vectors write them."""
    names = ("key", "generation", "name", "node_id", "issuer", "author", "seq", "anchor", "proved")
    says = {"kind": int(record.kind), "network": record.network.hex()}
    for name in (*names, "may_anchor"):
        if hasattr(record, name):
            value = getattr(record, name)
            says[name] = value.hex() if isinstance(value, bytes) else value
    if isinstance(record, records.NetworkRecord):
        says["prefix"] = str(record.prefix) if record.prefix else None
    if hasattr(record, "status"):
        says["status"] = int(record.status)
    if isinstance(record, records.MemberRecord):
        says["address"] = str(record.address) if record.address else None
        says["routes"] = [str(r) for r in record.routes]
    places = getattr(record, "places", (record.place,) if hasattr(record, "place") else None)
    if places is not None:
        says["places"] = [[p.endpoint.ip, p.endpoint.port, int(p.kind)] for p in places]
    return says


@named("records")
def test_a_record_is_read_the_same_by_both(case):
    raw = bytes.fromhex(case["record"])
    assert reading.record(raw) == case["says"]
    assert fields(records.decode(raw)) == case["says"]


@named("records")
def test_a_record_is_signed_over_its_bytes(case):
    raw, signer = bytes.fromhex(case["record"]), bytes.fromhex(case["signer"])
    assert reading.signed_by(signer, b"whalescale record v1", raw[:-64], raw[-64:])
    assert records.is_signed(raw, signer)
    changed = bytearray(raw)
    for at in (0, 20, len(raw) - 65, len(raw) - 1):
        changed[at] ^= 1
        assert not records.is_signed(bytes(changed), signer)
        changed[at] ^= 1


@named("records")
def test_a_record_has_one_encoding(case):
    raw = bytes.fromhex(case["record"])
    owner = {Identity(bytes([n]) * 32).node_id: bytes([n]) * 32 for n in (1, 2, 3)}
    assert records.encode(records.decode(raw), owner[bytes.fromhex(case["signer"])]) == raw


@named("refused")
def test_a_record_that_cannot_be_is_refused(case):
    with pytest.raises(records.RecordError, match=f"^{case['reason']}$"):
        records.decode(bytes.fromhex(case["record"]))


def frame_fields(frame):
    if isinstance(frame, frames.Update):
        raws = [raw.hex() for raw in frame.records]
        return {"type": "update", "more": frame.more, "records": raws}
    if isinstance(frame, frames.Summary):
        return {"type": "summary", "root": frame.root, "count": frame.count, "ask": frame.ask}
    if isinstance(frame, frames.Tree):
        branches = [[b.prefix, list(b.children)] for b in frame.branches]
        return {"type": "tree", "level": frame.level, "branches": branches}
    if isinstance(frame, frames.Leaves):
        twigs = [[t.prefix, [[n.key, n.version, n.digest] for n in t.leaves]] for t in frame.twigs]
        return {"type": "leaves", "level": frame.level, "twigs": twigs}
    if isinstance(frame, frames.DialBack):
        at = frame.place
        return {
            "type": "dial_back",
            "by": int(frame.by),
            "token": frame.token.hex(),
            "node_id": frame.node_id.hex(),
            "place": [at.endpoint.ip, at.endpoint.port, int(at.kind)],
            "avoid": list(frame.avoid),
        }
    if isinstance(frame, frames.Dialled):
        says = {"outcome": int(frame.outcome), "token": frame.token.hex()}
        return {"type": "dialled", **says, "dialler": frame.dialler.hex()}
    if isinstance(frame, frames.AnchorState):
        return {"type": "anchor", "alive": frame.alive, "node_id": frame.node_id.hex()}
    return {"type": "want", "keys": list(frame.keys)}


@named("frames")
def test_a_frame_is_read_the_same_by_both(case):
    data = bytes.fromhex(case["frame"])
    assert reading.frame(data) == case["says"]
    frame = frames.decode(data)
    assert frame_fields(frame) == case["says"]
    # What is behind the fields is padding.
    assert frames.decode(data + bytes(7)) == frame
    if isinstance(frame, frames.Update):
        assert frames.update_frames(frame.records, frame.more) == [data]
    else:
        assert frames.encode(frame) == data


@named("refused_frames")
def test_a_frame_that_cannot_be_is_refused(case):
    with pytest.raises(ControlError, match=f"^{case['reason']}$"):
        frames.decode(bytes.fromhex(case["frame"]))


def test_the_tree():
    case = VECTORS["tree"]
    raws = [bytes.fromhex(raw) for raw in case["records"]]
    table = Table()
    for raw in reversed(raws):
        table.put(entry_of(raw))
    assert (table.root, table.count) == (case["root"], case["count"])
    assert reading.root(raws) == case["root"]
    for raw in raws:
        entry = entry_of(raw)
        assert (entry.key, entry.version, entry.digest) == reading.leaf(raw)


def test_the_ticket():
    case = VECTORS["ticket"]
    says = reading.ticket(case["text"])
    assert says == {name: case[name] for name in says}
    ticket = invite.decode_ticket(case["text"].upper())
    assert ticket == invite.decode_ticket(f"  {case['text'][:40]}\n{case['text'][40:]}\n")
    assert invite.encode_ticket(ticket) == case["text"]
    assert ticket.one_time().node_id.hex() == case["one_time"]
    assert (ticket.network.hex(), ticket.inviter.hex()) == (case["network"], case["inviter"])
    assert [[p.ip, p.port] for p in ticket.places] == case["places"]


def test_the_proof_of_who_joins():
    case = VECTORS["ticket"]
    data = bytes.fromhex(case["join"])
    network, inviter, one_time, joiner = (
        bytes.fromhex(case[name]) for name in ("network", "inviter", "one_time", "joiner")
    )
    assert data[:4] == bytes((0x17, 1, 5, 0))
    assert data[4:36] == joiner
    statement = network + inviter + one_time
    assert reading.signed_by(joiner, b"whalescale join v1", statement, data[36:100])
    assert invite.decode_join(data, network, inviter, one_time) == joiner
    # It is good for this ticket, network and inviter, and nothing else.
    assert invite.decode_join(data, network, inviter, joiner) is None
    assert invite.decode_join(data, network, joiner, one_time) is None
    assert invite.decode_join(data, bytes(16), inviter, one_time) is None
    assert invite.decode_refused(bytes.fromhex(case["refused"])) is invite.Refusal.EXPIRED
    assert bytes.fromhex(case["refused"]) == bytes((0x17, 1, 6, 2))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with"),
        ("hello", "begins with"),
        ("wsnet1", "damaged"),
        ("wsnet1!!!", "damaged"),
        (VECTORS["ticket"]["text"][:-1], "damaged"),
        (VECTORS["ticket"]["text"][:60] + "a" + VECTORS["ticket"]["text"][61:], "damaged"),
    ],
)
def test_a_damaged_ticket_says_so(text, problem):
    with pytest.raises(invite.TicketError, match=problem):
        invite.decode_ticket(text)


def test_a_network_without_room_is_none():
    root = Identity(b"\1" * 32)
    net = records.network_id(root.node_id)
    for prefix in ("10.0.0.0/31", "224.0.0.0/8", "127.0.0.0/8"):
        record = records.NetworkRecord(net, root.node_id, 1, "x", IPv4Network(prefix))
        with pytest.raises(records.RecordError):
            records.encode(record, root.seed)


def test_a_member_record_before_a_session():
    case = VECTORS["present"]
    data, raws = bytes.fromhex(case["message"]), [bytes.fromhex(r) for r in case["records"]]
    to = Identity(bytes.fromhex(case["seed"]))
    assert reading.present(data, to.static_private, to.fingerprint) == raws
    present.check(data, to.fingerprint)
    assert present.decode(data, to.static_private) == raws
    once = bytes.fromhex(case["ephemeral"])
    assert present.encode(raws, to.fingerprint, to.static_public, lambda _: once) == data
    other = Identity(b"\3" * 32)
    with pytest.raises(MessageError, match="present_mac"):
        present.check(data, other.fingerprint)
    with pytest.raises(MessageError, match="present_mac"):
        present.check(data[:100] + bytes((data[100] ^ 1,)) + data[101:], to.fingerprint)
    with pytest.raises(MessageError, match="present_seal"):
        present.decode(data, other.static_private)
    with pytest.raises(ValueError, match="fit"):
        present.encode([bytes(365)] * 2, to.fingerprint, to.static_public, lambda _: once)


@pytest.mark.parametrize(
    "plain", [b"", b"\3", b"\1\0\0", b"\1\xff\xff", b"\2\1\0x", b"\1\1\0xy"], ids=repr
)
def test_what_no_member_presents_is_refused(plain):
    to = Identity(b"\1" * 32)
    once = PrivateKey(b"\2" * 32)
    own = bytes(once.public_key)
    nonce = hashlib.blake2b(own + to.static_public, digest_size=24).digest()
    box = Box(once, PublicKey(to.static_public)).encrypt(plain.ljust(512, b"\0"), nonce)
    data = bytes((0x59, 0, 0, 0)) + own + box.ciphertext + bytes(16)
    assert len(data) == 580
    with pytest.raises(MessageError, match="present_claim"):
        present.decode(data, to.static_private)
