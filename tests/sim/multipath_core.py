"""The C multipath core, compiled without the engine and loaded by cffi, beside its tuner.

No sockets, keys or clock: what the core sends goes to the world's links (multipath_world.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cffi

from tools.netlab import lock
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.tuning import Tuner
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathParams,
    PathSample,
    PeerParams,
    Scheduler,
)

MS = 1_000_000
F = TypeVar("F", bound=Callable[..., Any])
#: the C sources; another folder's can be tried by the environment
CSRC = Path(os.environ.get("WS_CSRC") or Path(__file__).parents[2] / "csrc")
BUILT = Path(__file__).parents[2] / "build" / "sim"
CFLAGS = ("-std=c11", "-O2", "-D_GNU_SOURCE", "-shared", "-fPIC")

SCHEDULERS = list(Scheduler)  # in the order of enum ws_scheduler
NEVER = (1 << 64) - 1
FRAME_HEAD_BYTES = 8
PACKET_BYTES = 1500
CONTROL_ACK, CONTROL_HEARTBEAT = 0x15, 0x14

SAMPLE_FIELDS = tuple(PathSample.__dataclass_fields__)
PARAM_FIELDS = tuple(PathParams.__dataclass_fields__)
PEER_FIELDS = tuple(PeerParams.__dataclass_fields__)


def _declarations(text: str) -> str:
    """What cffi takes of a header: no directives, no comments."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^#.*(?:\\\n.*)*$", "", text, flags=re.MULTILINE)
    return text


@cache
def load() -> tuple[Any, Any]:
    """(ffi, lib); compiled once for these sources, whichever process asks first."""
    ffi = cffi.FFI()
    headers = ("api/types.h", "api/multipath.h", "multipath/multipath.h")
    ffi.cdef("".join(_declarations((CSRC / name).read_text()) for name in headers))
    sources = sorted(CSRC.glob("multipath/*.c"))
    read = [*sources, *sorted(CSRC.glob("*/*.h")), *sorted(CSRC.parent.glob("shared/*.h"))]
    digest = hashlib.sha256(repr(CFLAGS).encode())
    for path in read:
        digest.update(path.read_bytes())
    library = BUILT / f"multipath-{digest.hexdigest()[:16]}.so"
    with lock(BUILT / "build.lock"):
        if not library.exists():
            for old in BUILT.glob("multipath-*.so"):
                old.unlink()
            where = ("-iquote", CSRC, "-iquote", CSRC.parent)
            made = library.with_suffix(".new")
            subprocess.run(["cc", *CFLAGS, *where, "-o", made, *sources], check=True)
            made.rename(library)
        return ffi, ffi.dlopen(str(library))


class Core:
    """One end: the C core and what Python does for it.

    transmit(path, number, bytes, frame): a datagram leaves; frame is (head, packet) or control
    deliver(packet): an inner packet comes out.
    """

    def __init__(
        self,
        settings: MultipathSettings,
        transmit: Callable[[int, int, int, tuple[bytes, bytes] | bytes], None],
        deliver: Callable[[bytes], None],
        silent: Callable[[int], None],
    ) -> None:
        self.ffi, self.lib = load()
        ffi = self.ffi
        self.tuner: Tuner = PathTuner(settings)
        self.params: dict[int, PathParams] = {}
        self.peer: PeerParams
        self.now = 0
        self._unflushed = False
        callback: Callable[[str], Callable[[F], F]] = ffi.callback

        @callback("uint32_t(void*,uint32_t,uint64_t,const uint8_t*,uint8_t,const uint8_t*,size_t)")
        def send(_: Any, path: int, number: int, head: Any, _ecn: int, packet: Any, n: int) -> int:
            size = 32 + (FRAME_HEAD_BYTES + n + 15) // 16 * 16
            frame = (ffi.buffer(head, FRAME_HEAD_BYTES)[:], ffi.buffer(packet, n)[:])
            transmit(path, number, size, frame)
            return size

        @callback("uint32_t(void*,uint32_t,uint64_t,const uint8_t*,size_t)")
        def control(_: Any, path: int, number: int, frame: Any, n: int) -> int:
            size = int(32 + (n + 15) // 16 * 16)
            transmit(path, number, size, ffi.buffer(frame, n)[:])
            return size

        @callback("void(void*,uint8_t*,size_t,uint32_t)")
        def delivered(_: Any, packet: Any, n: int, _flags: int) -> None:
            self._unflushed = True
            deliver(ffi.buffer(packet, n)[:])

        @callback("void(void*)")
        def flush(_: Any) -> None:
            self._unflushed = False
            self.lib.ws_multipath_released(self.mp)

        @callback("void(void*,uint32_t)")
        def silence(_: Any, path: int) -> None:
            silent(path)

        self._ops = ffi.new(
            "struct ws_multipath_ops *",
            {
                "send": send,
                "control": control,
                "deliver": delivered,
                "flush": flush,
                "silent": silence,
            },
        )
        self._keep = (send, control, delivered, flush, silence)
        self.mp = self.lib.ws_multipath_new(PACKET_BYTES, self._ops, ffi.NULL)
        assert self.mp != ffi.NULL
        self.stats = self.lib.ws_multipath_stats(self.mp)
        self._path_params = ffi.new("struct ws_path_params *")
        self._peer_params = ffi.new("struct ws_multipath_params *")

    def close(self) -> None:
        self.lib.ws_multipath_free(self.mp)

    # -- what the path manager does

    def set_paths(self, present: int, usable: int, now: int) -> None:
        """Bits of path ids."""
        self.now = now
        self.lib.ws_multipath_set_paths(self.mp, present, usable, True, now)

    def sample(self, paths: list[int], now: int) -> None:
        """One turn of the tuner."""
        self.params, self.peer = self.tuner.sample(self.samples(paths), {}, now)
        for path, params in self.params.items():
            self.tune_path(path, params)
        self.tune(self.peer)

    def samples(self, paths: Iterable[int]) -> dict[int, PathSample]:
        """What the core counted."""
        return {
            path: PathSample(*[getattr(self.stats.paths[path], name) for name in SAMPLE_FIELDS])
            for path in paths
        }

    def tune_path(self, path: int, params: PathParams) -> None:
        for name in PARAM_FIELDS:
            setattr(self._path_params, name, int(getattr(params, name)))
        self.lib.ws_multipath_tune_path(self.mp, path, self._path_params)

    def tune(self, params: PeerParams) -> None:
        for name in PEER_FIELDS[1:]:
            setattr(self._peer_params, name, int(getattr(params, name)))
        self._peer_params.scheduler = SCHEDULERS.index(params.scheduler)
        self.lib.ws_multipath_tune(self.mp, self._peer_params)

    # -- traffic

    def send(self, packets: list[bytes], now: int) -> None:
        """Inner packets, as from the TUN device in one batch."""
        self.now = now
        lib, mp = self.lib, self.mp
        for packet in packets:
            lib.ws_multipath_send(
                mp, packet[:20], 20, packet[20:], len(packet) - 20, 0, 0, False, now
            )
        lib.ws_multipath_pump(mp, now)

    def receive(
        self, path: int, number: int, size: int, frame: tuple[bytes, bytes] | bytes, now: int
    ) -> None:
        """An authenticated datagram."""
        self.now = now
        lib, mp = self.lib, self.mp
        lib.ws_multipath_received(mp, path, number, size, now)
        if isinstance(frame, tuple):
            head, packet = frame
            self._bytes = self.ffi.new("uint8_t[]", packet)
            lib.ws_multipath_data(
                mp,
                path,
                int.from_bytes(head[1:4], "little"),
                int.from_bytes(head[4:8], "little"),
                head[0] & 0x7F,
                self._bytes,
                len(packet),
                now,
            )
        elif frame[0] == CONTROL_ACK:
            lib.ws_multipath_ack(mp, frame, len(frame), now)
        elif frame[0] == CONTROL_HEARTBEAT and frame[3] & 1:
            lib.ws_multipath_heartbeat(mp)
        self.settle(now)

    def settle(self, now: int) -> None:
        """The end of a batch: flush, and what is due."""
        self.now = now
        lib, mp = self.lib, self.mp
        if lib.ws_multipath_deadline(mp) <= now:
            lib.ws_multipath_tick(mp, now)
        if self._unflushed:
            self._unflushed = False
            lib.ws_multipath_released(mp)

    def deadline(self) -> int:
        return int(self.lib.ws_multipath_deadline(self.mp))
