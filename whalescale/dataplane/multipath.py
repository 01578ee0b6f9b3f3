"""A peer's paths in the engine: what Python sets per interval, and what it reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence, Set
from enum import IntEnum
from typing import Any, Final, NamedTuple

from whalescale.dataplane.engine import Addr, Engine, check, ffi, fill_addr, lib

MAX_PATHS: Final = 8


class Scheduler(IntEnum):
    EDF = 0
    WRR = 1
    MINRTT = 2
    REDUNDANT = 3
    BACKUP = 4


class Path(NamedTuple):
    """struct ws_path."""

    id: int
    local: Addr | None
    remote: Addr
    ifindex: int
    usable: bool


def _fields(struct_name: str) -> tuple[str, ...]:
    """The numbers of a C struct, in its order."""
    members = ffi.typeof(struct_name).fields
    return tuple(name for name, member in members if member.type.kind == "primitive")


PATH_FIELDS: Final = _fields("struct ws_path_stats")
PEER_FIELDS: Final = _fields("struct ws_multipath_stats")
PATH_PARAMS: Final = _fields("struct ws_path_params")
PEER_PARAMS: Final = _fields("struct ws_multipath_params")


def _layout(struct_name: str, fields: Sequence[str]) -> str:
    """These fields of a whole C struct, for the struct module; they stand in the struct's order."""
    letters = {"uint64_t": "Q", "uint32_t": "I"}
    layout, at = "", 0
    members = dict(ffi.typeof(struct_name).fields)
    for name in fields:
        member = members[name]
        layout += f"{member.offset - at}x{letters[member.type.cname]}"
        at = member.offset + ffi.sizeof(member.type)
    return f"{layout}{ffi.sizeof(struct_name) - at}x"


_PATH: Final = struct.Struct("=" + _layout("struct ws_path_stats", PATH_FIELDS))
_PEER: Final = struct.Struct("=" + _layout("struct ws_multipath_stats", PEER_FIELDS))
#: read for every peer, four times a second
_ACTIVITY: Final = struct.Struct(
    "=" + _layout("struct ws_path_stats", ("tx_packets", "rx_packets")) * MAX_PATHS
)
_RX_PACKETS: Final = PATH_FIELDS.index("rx_packets")


class Paths:
    """The multipath calls of one engine, by the engine's peer numbers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prepare(self, peer: int, packet_bytes: int, *, reset: bool) -> None:
        """Before frames of several paths may come. OSError ENOMEM."""
        check(
            lib.ws_peer_multipath(self._engine.handle, peer, packet_bytes, int(reset)),
            "paths of a peer",
        )

    def set_paths(
        self,
        peer: int,
        paths: Sequence[Path],
        *,
        schedule: bool,
        stay: bool = False,
        keep: bool = False,
    ) -> None:
        """`stay`: path 0 does not follow the peer. `keep`: another could take over.

        OSError EINVAL: an id twice, or families that differ.
        """
        array = ffi.new("struct ws_path[]", max(len(paths), 1))
        for c, path in zip(array, paths, strict=False):
            c.id, c.ifindex, c.usable = path.id, path.ifindex, int(path.usable)
            fill_addr(c.local, path.local)
            fill_addr(c.remote, path.remote)
        flags = lib.WS_PATHS_SCHEDULE * schedule | lib.WS_PATHS_STAY * stay
        flags |= lib.WS_PATHS_KEEP * keep
        check(
            lib.ws_peer_set_paths(self._engine.handle, peer, array, len(paths), flags),
            "paths",
        )

    def tune_path(self, peer: int, path: int, **params: int) -> None:
        """`params`: PATH_PARAMS, all of them."""
        c = ffi.new("struct ws_path_params *")
        for name in PATH_PARAMS:
            setattr(c, name, params[name])
        check(lib.ws_peer_tune_path(self._engine.handle, peer, path, c), "path")

    def tune(self, peer: int, **params: int) -> None:
        """`params`: PEER_PARAMS, all of them."""
        c = ffi.new("struct ws_multipath_params *")
        for name in PEER_PARAMS:
            setattr(c, name, params[name])
        check(lib.ws_peer_tune(self._engine.handle, peer, c), "paths")

    def send_control(self, peer: int, path: int, frame: bytes, datagram_bytes: int = 0) -> bool:
        """False: no usable key, or the kernel refused it (too long for the interface)."""
        result = lib.ws_peer_send_path_control(
            self._engine.handle, peer, path, frame, len(frame), datagram_bytes
        )
        return int(result) == 0

    def rescue(self, peer: int, path: int) -> int:
        """How many packets will be sent again elsewhere."""
        return check(lib.ws_peer_rescue_path(self._engine.handle, peer, path), "path")

    def path_counters(self, peer: int, ids: Set[int]) -> dict[int, tuple[int, ...]]:
        """PATH_FIELDS of these path ids, and of those that the peer sent data under.

        Read from shared memory; nothing if the peer is not prepared.
        """
        stats = self._stats(peer)
        if stats is None:
            return {}
        memory = ffi.buffer(stats.paths)
        found = {}
        for path in range(MAX_PATHS):
            values = _PATH.unpack_from(memory, path * _PATH.size)
            if path in ids or values[_RX_PACKETS]:
                found[path] = values
        return found

    def path_activity(self, peer: int) -> int:
        """Data packets sent and received over all paths: tells a busy peer from an idle one."""
        stats = self._stats(peer)
        return 0 if stats is None else sum(_ACTIVITY.unpack_from(ffi.buffer(stats.paths)))

    def peer_counters(self, peer: int) -> dict[str, int] | None:
        stats = self._stats(peer)
        if stats is None:
            return None
        return dict(zip(PEER_FIELDS, _PEER.unpack_from(ffi.buffer(stats)), strict=True))

    def _stats(self, peer: int) -> Any:
        stats = lib.ws_peer_multipath_stats(self._engine.handle, peer)
        return None if stats == ffi.NULL else stats
