"""Frames of a network inside a session: encode and decode (docs/mesh.md section 5).

A decoder raises ControlError, whose text is the reason to count, where a frame is shorter than its
fields or says what it cannot. Bytes behind the fields are padding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from whalescale.protocol.control import VERSION, ControlError, FrameType
from whalescale.protocol.mesh.records import (
    KEY_BYTES,
    PLACE_BYTES,
    RECORD_MAX,
    Place,
    RecordError,
    decode_place,
    encode_place,
)
from whalescale.protocol.mesh.table import BRANCHES, DEPTH

#: shared/wire.h takes 1,024
FRAME_MAX: Final = 1_000
#: companions of GOSSIP_UPDATE
MESH: Final = 0x17
UPDATE_HEAD_BYTES: Final = 4
NODES_MAX: Final = 14
#: in one frame, and below one branch
LEAVES_MAX: Final = 57
TWIGS_MAX: Final = 15
WANT_MAX: Final = 120
#: what a request to dial sets off is never more
DIAL_BACK_BYTES: Final = 384
TOKEN_BYTES: Final = 8
AVOID_MAX: Final = 32

_HEAD: Final = struct.Struct("<BBBB")
_SUMMARY: Final = struct.Struct("<QI")
_NODE: Final = struct.Struct("<H16I")
_TWIG: Final = struct.Struct("<HH")
_LEAF: Final = struct.Struct("<QII")
_KEY: Final = struct.Struct("<Q")
_LENGTH: Final = struct.Struct("<H")
_DIAL_BACK: Final = struct.Struct(f"<{TOKEN_BYTES}s{KEY_BYTES}s{PLACE_BYTES}sB")
_DIALLED: Final = struct.Struct(f"<{TOKEN_BYTES}s{KEY_BYTES}s")
_ANCHOR: Final = struct.Struct(f"<{KEY_BYTES}s")

_LOW: Final = 0xFFFFFFFF


class Sub(IntEnum):
    SUMMARY = 1
    TREE = 2
    LEAVES = 3
    WANT = 4
    JOIN = 5
    REFUSED = 6
    DIAL_BACK = 7
    DIALLED = 8
    ANCHOR = 9


class By(IntEnum):
    """Who is to dial."""

    YOU = 1  # from a port that never sent there
    ANOTHER = 2  # let another member do it
    PASSED = 3  # that member: passed on


class Outcome(IntEnum):
    """What came of dialling."""

    ANSWERED = 1
    SILENT = 2
    NOT_YOURS = 3
    BUSY = 4
    NOBODY = 5  # who could


@dataclass(frozen=True, slots=True)
class Update:
    """Records. `more`: the sender had more to tell than it may now; ask again."""

    records: tuple[bytes, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """The root of the sender's tree. `ask`: answer also if yours is the same."""

    root: int
    count: int
    ask: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of the sender's tree: the low 32 bits of the digests of the 16 below it."""

    prefix: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Branches of one level, 0 (the root) to DEPTH - 1."""

    level: int
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A record: where it stands, the low 32 bits of its version and of its digest."""

    key: int
    version: int
    digest: int


@dataclass(frozen=True, slots=True)
class Twig:
    """Every record that the sender has below a branch."""

    prefix: int
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class Leaves:
    """Branches of one level, 1 to DEPTH, with their records."""

    level: int
    twigs: tuple[Twig, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Send me these."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DialBack:
    """ "Dial this member there." `avoid`: keys of members that are not to do it."""

    by: By
    token: bytes
    node_id: bytes
    place: Place
    avoid: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialled:
    """What came of it. `dialler`: a node ID, zeros: nobody dialled."""

    outcome: Outcome
    token: bytes
    dialler: bytes = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class AnchorState:
    """An anchor of another one: it answers no more (or again)."""

    node_id: bytes
    alive: bool


Frame = Update | Summary | Tree | Leaves | Want | DialBack | Dialled | AnchorState
Companion = Summary | Tree | Leaves | Want | DialBack | Dialled | AnchorState


def update_frames(records: Iterable[bytes], more: bool = False) -> list[bytes]:
    """As few GOSSIP_UPDATE frames as the records fill, in their order."""
    groups: list[list[bytes]] = []
    room = 0
    for raw in records:
        size = _LENGTH.size + len(raw)
        if size > room or len(groups[-1]) == 255:
            groups.append([])
            room = FRAME_MAX - UPDATE_HEAD_BYTES
        groups[-1].append(raw)
        room -= size
    last = len(groups) - 1
    return [
        _HEAD.pack(FrameType.GOSSIP_UPDATE, VERSION, len(group), int(more and n == last))
        + b"".join(_LENGTH.pack(len(raw)) + raw for raw in group)
        for n, group in enumerate(groups)
    ]


def _mesh(sub: Sub, detail: int, body: bytes) -> bytes:
    return _HEAD.pack(MESH, VERSION, sub, detail) + body


def encode(frame: Companion) -> bytes:
    """ValueError: more than a frame takes."""
    if isinstance(frame, Summary):
        return _mesh(Sub.SUMMARY, int(frame.ask), _SUMMARY.pack(frame.root, frame.count))
    if isinstance(frame, Tree):
        if len(frame.branches) > NODES_MAX:
            raise ValueError(f"a TREE takes {NODES_MAX} branches at most")
        body = b"".join(
            _NODE.pack(b.prefix, *(c & _LOW for c in b.children)) for b in frame.branches
        )
        return _mesh(Sub.TREE, frame.level << 4 | len(frame.branches), body)
    if isinstance(frame, Leaves):
        if len(frame.twigs) > TWIGS_MAX or sum(len(t.leaves) for t in frame.twigs) > LEAVES_MAX:
            raise ValueError(f"LEAVES take {TWIGS_MAX} branches and {LEAVES_MAX} records at most")
        body = b"".join(
            _TWIG.pack(t.prefix, len(t.leaves))
            + b"".join(_LEAF.pack(n.key, n.version & _LOW, n.digest & _LOW) for n in t.leaves)
            for t in frame.twigs
        )
        return _mesh(Sub.LEAVES, frame.level << 4 | len(frame.twigs), body)
    if isinstance(frame, DialBack):
        return _encode_dial_back(frame)
    if isinstance(frame, Dialled):
        return _mesh(Sub.DIALLED, frame.outcome, _DIALLED.pack(frame.token, frame.dialler))
    if isinstance(frame, AnchorState):
        return _mesh(Sub.ANCHOR, int(frame.alive), _ANCHOR.pack(frame.node_id))
    return _mesh(Sub.WANT, len(frame.keys), _keys(frame.keys))


def _encode_dial_back(frame: DialBack) -> bytes:
    if len(frame.avoid) > AVOID_MAX:
        raise ValueError(f"a DIAL_BACK takes {AVOID_MAX} keys at most")
    place = encode_place(frame.place)
    body = _DIAL_BACK.pack(frame.token, frame.node_id, place, len(frame.avoid))
    whole = _mesh(Sub.DIAL_BACK, frame.by, body + _keys(frame.avoid))
    return whole.ljust(DIAL_BACK_BYTES, b"\0")


def _keys(keys: Sequence[int]) -> bytes:
    if len(keys) > WANT_MAX:
        raise ValueError(f"a WANT takes {WANT_MAX} keys at most")
    return b"".join(map(_KEY.pack, keys))


def _need(data: bytes, size: int) -> None:
    if len(data) < size:
        raise ControlError("control_length")


def _claim(good: bool) -> None:
    if not good:
        raise ControlError("mesh_claim")


def decode(data: bytes) -> Frame:
    """ControlError: too short (control_length), of a later day (control_version, control_type), or
    it cannot be (mesh_claim).
    """
    _need(data, _HEAD.size)
    kind, version, first, second = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ControlError("control_version")
    if kind == FrameType.GOSSIP_UPDATE:
        return _decode_update(data, first, second)
    if kind != MESH:
        raise ControlError("control_type")
    if first == Sub.SUMMARY:
        _need(data, _HEAD.size + _SUMMARY.size)
        root, count = _SUMMARY.unpack_from(data, _HEAD.size)
        return Summary(root, count, bool(second & 1))
    if first == Sub.TREE:
        return _decode_tree(data, second >> 4, second & 15)
    if first == Sub.LEAVES:
        return _decode_leaves(data, second >> 4, second & 15)
    if first == Sub.WANT:
        _claim(second <= WANT_MAX)
        _need(data, _HEAD.size + second * _KEY.size)
        return Want(_decode_keys(data, _HEAD.size, second))
    if first == Sub.DIAL_BACK:
        return _decode_dial_back(data, second)
    if first == Sub.DIALLED:
        _need(data, _HEAD.size + _DIALLED.size)
        _claim(second in Outcome.__members__.values())
        return Dialled(Outcome(second), *_DIALLED.unpack_from(data, _HEAD.size))
    if first == Sub.ANCHOR:
        _need(data, _HEAD.size + _ANCHOR.size)
        _claim(second <= 1)
        return AnchorState(_ANCHOR.unpack_from(data, _HEAD.size)[0], bool(second))
    raise ControlError("control_type")


def _decode_keys(data: bytes, at: int, count: int) -> tuple[int, ...]:
    places = range(at, at + count * _KEY.size, _KEY.size)
    return tuple(_KEY.unpack_from(data, n)[0] for n in places)


def _decode_dial_back(data: bytes, by: int) -> DialBack:
    _need(data, DIAL_BACK_BYTES)
    token, node_id, raw, count = _DIAL_BACK.unpack_from(data, _HEAD.size)
    _claim(by in By.__members__.values() and count <= AVOID_MAX)
    try:
        place = decode_place(raw)
    except RecordError:
        raise ControlError("mesh_claim") from None
    avoid = _decode_keys(data, _HEAD.size + _DIAL_BACK.size, count)
    return DialBack(By(by), token, node_id, place, avoid)


def _decode_update(data: bytes, count: int, flags: int) -> Update:
    at = _HEAD.size
    found = []
    for _ in range(count):
        _need(data, at + _LENGTH.size)
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        _claim(0 < size <= RECORD_MAX)
        _need(data, at + size)
        found.append(data[at : at + size])
        at += size
    return Update(tuple(found), bool(flags & 1))


def _decode_tree(data: bytes, level: int, count: int) -> Tree:
    _claim(level < DEPTH and count <= NODES_MAX)
    _need(data, _HEAD.size + count * _NODE.size)
    branches = []
    for n in range(count):
        prefix, *children = _NODE.unpack_from(data, _HEAD.size + n * _NODE.size)
        _claim(prefix < BRANCHES**level)
        branches.append(Branch(prefix, tuple(children)))
    return Tree(level, tuple(branches))


def _decode_leaves(data: bytes, level: int, count: int) -> Leaves:
    _claim(1 <= level <= DEPTH)
    twigs = []
    at, total = _HEAD.size, 0
    for _ in range(count):
        _need(data, at + _TWIG.size)
        prefix, size = _TWIG.unpack_from(data, at)
        at += _TWIG.size
        total += size
        _claim(prefix < BRANCHES**level and total <= LEAVES_MAX)
        _need(data, at + size * _LEAF.size)
        leaves = tuple(Leaf(*_LEAF.unpack_from(data, at + n * _LEAF.size)) for n in range(size))
        _claim(all(leaf.key >> (64 - 4 * level) == prefix for leaf in leaves))
        twigs.append(Twig(prefix, leaves))
        at += size * _LEAF.size
    return Leaves(level, tuple(twigs))
