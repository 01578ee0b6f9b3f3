"""The eBPF programs in the agent's life: loaded at start, then kept on the interfaces in use.

Never required: what goes wrong here is a line in `ws status`, and the tunnel works without.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import zlib
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Final

from whalescale.dataplane.engine import Addr
from whalescale.dataplane.programs import (
    LOCALS_MAX,
    TYPE_NAMES,
    Hook,
    PathCounts,
    Program,
    Programs,
    Rates,
)
from whalescale.runtime.netlink import LocalAddress
from whalescale.runtime.notices import Notices, PortChanged
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)

#: What may reach a worker, which sorts it (gate.h): some microseconds each. One source: many
#: peers behind one NAT start at once, then come back every two minutes. All strangers: what a flood
#: may cost a running transfer decides (docs/decisions.md).
RATES: Final = Rates(
    source=200,
    source_burst=1000,
    strangers=200,
    strangers_burst=2000,
    ladder=True,
    awaited=True,
)
HOOKS: Final = {
    Hook.TC: "tc",
    Hook.TC_LEGACY: "tc (clsact)",
    Hook.XDP: "xdp",
    Hook.XDP_GENERIC: "xdp (generic)",
}


class Bpf(Part):
    """`load` while the capabilities are there, `confirm` once they are dropped, then `follow`."""

    name = "bpf"

    def __init__(self, reason: str, programs: Programs | None = None, hook: Hook = Hook.TC) -> None:
        self._programs = programs
        #: why it is off, or what part of it is
        self.reason = reason
        self._hook = hook
        self._attached: dict[int, Hook] = {}
        self._refused: set[int] = set()
        self._addresses: Sequence[LocalAddress] = ()

    @classmethod
    def load(
        cls,
        interface: str,
        *,
        wanted: bool,
        xdp: bool,
        workers: int = 1,
        relay: bool = False,
        rates: Rates = RATES,
        notices: Notices | None = None,
    ) -> Bpf:
        """`relay`: the kernel may relay for us. Never raises."""
        kinds = Program.SHIELD | Program.PATHS
        if workers > 1:
            kinds |= Program.STEER | Program.TUNSTEER
        if relay:
            kinds |= Program.RELAY
        loaded = cls._load(interface, wanted, xdp, kinds, rates)
        if notices is not None:
            notices.on(PortChanged, lambda changed: loaded.set_port(changed.port))
        return loaded

    @classmethod
    def _load(cls, interface: str, wanted: bool, xdp: bool, kinds: Program, rates: Rates) -> Bpf:
        if not wanted:
            return cls("[dataplane] bpf = false")
        programs: Programs | None = None
        try:
            tag = zlib.crc32(interface.encode()) % 65535 + 1
            programs = Programs.load(kinds, tag)
            programs.set_rates(rates)
        except OSError as e:
            if programs is not None:
                programs.close()
            log.info("bpf: off, because %s", e)
            return cls(str(e))
        return cls(programs.lacks, programs, Hook.XDP if xdp else Hook.TC)

    @property
    def programs(self) -> Programs | None:
        """For the engine's steering."""
        return self._programs

    def confirm(self) -> None:
        """After the capabilities are dropped: off if the maps cannot be reached any more."""
        if self._programs is None:
            return
        try:
            self._programs.check()
        except OSError as e:
            why = (
                "needs Linux 5.19 or newer" if e.errno == errno.EPERM else os.strerror(e.errno or 0)
            )
            self.reason = f"its maps cannot be read without CAP_BPF here: {why}"
            log.info("bpf: off, because %s", self.reason)
            self._unload()

    async def close(self) -> None:
        self._unload()

    def _unload(self) -> None:
        if self._programs is not None:
            self._programs.close()
        self._programs = None
        self._attached.clear()

    def follow(self, here: Here) -> None:
        """Guard our port on these addresses and their interfaces."""
        if here.moved:
            self._follow(here.addresses, here.port)

    def _follow(self, addresses: Sequence[LocalAddress], port: int) -> None:
        if self._programs is None:
            return
        self._addresses = addresses
        try:
            self._programs.set_ports([port])
            ours = [a.ip for a in addresses[:LOCALS_MAX]]
            self._programs.set_locals(ours, broadcasts(addresses, LOCALS_MAX - len(ours)))
        except OSError as e:
            log.warning("bpf: %s", e)
        wanted = {a.ifindex for a in addresses}
        for ifindex in self._attached.keys() - wanted:
            del self._attached[ifindex]
            try:
                self._programs.detach(ifindex)
            except OSError as e:
                log.warning("bpf: interface %d: %s", ifindex, e)
        self._refused &= wanted
        for ifindex in wanted - self._attached.keys():
            try:
                self._attached[ifindex] = self._programs.attach(ifindex, self._hook)
            except OSError as e:
                if ifindex not in self._refused:
                    log.warning("bpf: interface %d is not guarded: %s", ifindex, e)
                self._refused.add(ifindex)

    def set_port(self, port: int) -> None:
        """The port changed, the addresses did not."""
        self._follow(self._addresses, port)

    def know(self, ip: str) -> None:
        """An address of a peer: its handshakes are no stranger's. Never raises."""
        if self._programs is None:
            return
        try:
            self._programs.add_known(ip)
        except OSError as e:
            log.warning("bpf: %s", e)

    def forget(self, ip: str) -> None:
        if self._programs is None:
            return
        try:
            self._programs.remove_known(ip)
        except OSError as e:
            log.warning("bpf: %s", e)

    def status(self) -> dict[str, Any]:
        """The "bpf" of whalescale/status.py."""
        result: dict[str, Any] = {
            "state": "off" if self._programs is None else "on",
            "reason": self.reason,
        }
        if self._programs is None:
            return result
        result["hooks"] = {_name(i): HOOKS[h] for i, h in sorted(self._attached.items())}
        loaded = self._programs.loaded
        try:
            if loaded & Program.SHIELD:
                stats = self._programs.shield_stats()
                result["shield"] = {f: getattr(stats, f) for f in type(stats).__slots__}
            if loaded & Program.PATHS:
                paths, strangers = self._programs.paths()
                result["strangers"] = _counts(strangers)
                result["paths"] = [
                    {"local": _text(a), "remote": _text(b), "rx": _counts(rx), "tx": _counts(tx)}
                    for (a, b), (rx, tx) in paths.items()
                ]
        except OSError as e:
            result["reason"] = str(e)
        return result


def broadcasts(addresses: Sequence[LocalAddress], most: int) -> list[str]:
    """Addresses that reach every host of our IPv4 networks: their last, and for older kernels their
    first one."""
    ours = {a.ip for a in addresses}
    found: dict[str, None] = {}
    for address in addresses:
        if ":" in address.ip or not 0 < address.prefix_length < 31:
            continue
        network = ip_network(f"{address.ip}/{address.prefix_length}", strict=False)
        for ip in (str(network.broadcast_address), str(network.network_address)):
            if ip not in ours:
                found[ip] = None
    return list(found)[:most]


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


def _text(addr: Addr) -> str:
    return f"[{addr.ip}]:{addr.port}" if ":" in addr.ip else f"{addr.ip}:{addr.port}"


def _counts(counts: PathCounts) -> dict[str, Any]:
    return {
        "packets": counts.packets,
        "bytes": counts.bytes,
        "types": {n: c for n, c in zip(TYPE_NAMES, counts.types, strict=True) if c},
    }
