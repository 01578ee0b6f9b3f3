"""The eBPF programs as Python sees them (csrc/kernel/bpf.c). Never required.

`Programs.load` needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, everything after it CAP_NET_ADMIN.
Failures raise OSError with the errno of the C side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Final

from whalescale.dataplane.engine import Addr, Network, c_addr, check, ffi, fill_addr, lib, py_addr

#: where `make build` puts the objects
FOLDER: Final = Path(__file__).parent / "bpf"
#: as many paths as one reading gives
PATHS_READ: Final = 1024
LOCALS_MAX: Final = 512


class Program(IntFlag):
    SHIELD = 1
    PATHS = 2
    STEER = 4
    TUNSTEER = 8
    RELAY = 16


class Hook(IntEnum):
    """Where the shield stands on an interface."""

    TC = 1
    TC_LEGACY = 2
    XDP = 3
    XDP_GENERIC = 4


@dataclass(frozen=True, slots=True)
class ShieldStats:
    """Datagrams to our ports and addresses, by what became of them."""

    transport: int
    handshake: int
    short: int
    type: int
    length: int
    source_limit: int
    global_limit: int
    #: answers to nothing that was asked
    unasked: int = 0
    #: to broadcast and link-local multicast addresses
    destination: int = 0
    #: too many extension headers or priority tags
    headers: int = 0

    @property
    def dropped(self) -> int:
        every = sum(int(getattr(self, name)) for name in self.__slots__)
        return every - self.transport - self.handshake


@dataclass(frozen=True, slots=True)
class PathCounts:
    """Datagrams, bytes of UDP payload, and datagrams by type."""

    packets: int
    bytes: int
    #: other, initiation, response, cookie reply, transport, bootstrap
    types: tuple[int, ...]


#: of `PathCounts.types`
TYPE_NAMES: Final = ("other", "initiation", "response", "cookie_reply", "transport", "bootstrap")


@dataclass(frozen=True, slots=True)
class Rates:
    """Handshake messages a second, and how many at once; rate 0: no limit."""

    source: int
    source_burst: int
    strangers: int
    strangers_burst: int
    #: past the strangers' rate, a few of each network that is quiet
    ladder: bool = False
    #: answers only to what the engine sent
    awaited: bool = False


class Programs:
    """The loaded programs. `close` (or the end of the process) detaches them."""

    def __init__(self, bpf: Any, lacks: str) -> None:
        self._bpf: Any = bpf
        #: a line for the user: what could not be loaded; "" when all was
        self.lacks = lacks

    @classmethod
    def load(cls, programs: Program, tag: int, folder: Path = FOLDER) -> Programs:
        """`tag` (1..65535) names our filters on kernels before 6.6, so that a killed agent's are
        taken over. OSError with a line for the user: none could be loaded."""
        error = ffi.new("char[512]")
        bpf = lib.ws_bpf_open(str(folder).encode(), int(programs), tag, error, 512)
        said = bytes(ffi.string(error)).decode(errors="replace")
        if bpf == ffi.NULL:
            raise OSError(said)
        return cls(bpf, said)

    def close(self) -> None:
        """Idempotent."""
        if self._bpf is not None:
            lib.ws_bpf_free(self._bpf)
            self._bpf = None

    @property
    def handle(self) -> Any:
        """The C side's `ws_bpf *`, for the engine."""
        return self._bpf

    @property
    def loaded(self) -> Program:
        return Program(lib.ws_bpf_loaded(self._bpf))

    def check(self) -> None:
        """OSError EPERM: the maps cannot be read with the capabilities held now."""
        check(lib.ws_bpf_check(self._bpf), "eBPF maps")

    def attach(self, ifindex: int, hook: Hook = Hook.TC) -> Hook:
        """Shield and path counters on one interface. Returns the hook that the shield took."""
        return Hook(check(lib.ws_bpf_attach(self._bpf, ifindex, int(hook)), "eBPF programs"))

    def detach(self, ifindex: int) -> None:
        """OSError ENOENT: not attached."""
        check(lib.ws_bpf_detach(self._bpf, ifindex), "eBPF programs")

    def set_ports(self, ports: Sequence[int]) -> None:
        """Replace the UDP ports that are ours, at most 16."""
        check(
            lib.ws_bpf_set_ports(self._bpf, ffi.new("uint16_t[]", list(ports)), len(ports)),
            "eBPF ports",
        )

    def set_locals(self, addresses: Sequence[str], broadcasts: Sequence[str] = ()) -> None:
        """Replace our addresses and those of our networks at which nobody may reach us (numeric
        text), at most LOCALS_MAX together; others are left alone."""
        every = [*addresses, *broadcasts]
        array = ffi.new("struct ws_addr[]", max(len(every), 1))
        for c, ip in zip(array, every, strict=False):
            fill_addr(c, Addr(ip, 0))
        check(
            lib.ws_bpf_set_locals(self._bpf, array, len(every), len(broadcasts)), "eBPF addresses"
        )

    def set_rates(self, rates: Rates) -> None:
        c = ffi.new("struct ws_shield_rates *")
        c.source_rate, c.source_burst = rates.source, rates.source_burst
        c.global_rate, c.global_burst = rates.strangers, rates.strangers_burst
        c.ladder, c.awaited = int(rates.ladder), int(rates.awaited)
        check(lib.ws_bpf_set_rates(self._bpf, c), "eBPF rates")

    def add_known(self, ip: str) -> None:
        """This address's handshake messages do not draw on the strangers' limit."""
        check(lib.ws_bpf_add_known(self._bpf, c_addr(Addr(ip, 0))), "eBPF peers")

    def expect_answer(self, index: int) -> None:
        """Of a message whose answer will name `index`; the engine tells of what it sends."""
        check(lib.ws_bpf_await(self._bpf, index), "eBPF answers")

    def remove_known(self, ip: str) -> None:
        check(lib.ws_bpf_remove_known(self._bpf, c_addr(Addr(ip, 0))), "eBPF peers")

    def shield_stats(self) -> ShieldStats:
        c = ffi.new("struct ws_shield_stats *")
        check(lib.ws_bpf_shield_stats(self._bpf, c), "eBPF counters")
        return ShieldStats(
            c.transport,
            c.handshake,
            c.short_,
            c.type,
            c.length,
            c.source_limit,
            c.global_limit,
            c.unasked,
            c.destination,
            c.headers,
        )

    def paths(self) -> tuple[dict[tuple[Addr, Addr], tuple[PathCounts, PathCounts]], PathCounts]:
        """{(local, remote): (received, sent)} and what came from where we never sent to."""
        array = ffi.new("struct ws_bpf_path[]", PATHS_READ)
        strangers = ffi.new("struct ws_path_counts *")
        n = check(lib.ws_bpf_paths(self._bpf, array, PATHS_READ, strangers), "eBPF counters")
        found = {}
        for c in array[0:n]:
            local, remote = py_addr(c.local), py_addr(c.remote)
            if local is not None and remote is not None:
                found[local, remote] = (_counts(c.rx), _counts(c.tx))
        return found, _counts(strangers)

    def steer(self, fds: Sequence[int]) -> int:
        """Make the bound SO_REUSEPORT sockets of one local address a group, in the workers' order:
        worker = receiver index % workers. Returns the group's number."""
        return check(lib.ws_bpf_steer_attach(self._bpf, list(fds), len(fds)), "eBPF steering")

    def unsteer(self, group: int) -> None:
        check(lib.ws_bpf_steer_detach(self._bpf, group), "eBPF steering")

    def steer_tun(self, fd: int) -> None:
        """Let `set_owner` choose the queues of this TUN device; unknown destinations: queue 0."""
        check(lib.ws_bpf_tunsteer_attach(self._bpf, fd), "TUN steering")

    def set_owner(self, network: Network, worker: int) -> None:
        check(lib.ws_bpf_tunsteer_set(self._bpf, _prefix(network), worker), "TUN steering")

    def remove_owner(self, network: Network) -> None:
        """OSError ENOENT: it had none."""
        check(lib.ws_bpf_tunsteer_remove(self._bpf, _prefix(network)), "TUN steering")

    def steer_stats(self, program: Program) -> tuple[int, int]:
        """(steered as asked, left to the kernel) of STEER or TUNSTEER."""
        sent, failed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        check(lib.ws_bpf_steer_stats(self._bpf, int(program), sent, failed), "eBPF counters")
        return int(sent[0]), int(failed[0])


def _prefix(network: Network) -> Any:
    c = ffi.new("struct ws_prefix *")
    c.family, c.cidr = network.version, network.prefixlen
    raw = network.network_address.packed
    ffi.memmove(c.ip, raw, len(raw))
    return c


def _counts(c: Any) -> PathCounts:
    return PathCounts(c.packets, c.bytes, tuple(c.types))
