"""What ciphers, offloads and io_uring of this machine are worth, tried out part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from whalescale.dataplane.engine import Cipher, Offload, ffi, lib

#: nothing could be learned of a part, mostly because an earlier one is missing
UNTRIED: Final = 1


@dataclass(frozen=True, slots=True)
class UringParts:
    """Each part of io_uring that the data plane uses: 0, a negative errno, or UNTRIED."""

    ring: int
    deferred: int
    buffer_ring: int
    registered_files: int
    multishot_receive: int
    multishot_read: int


@dataclass(frozen=True, slots=True)
class UdpParts:
    """UDP offloads after their self-test (0, a negative errno, or UNTRIED) and socket buffers."""

    loopback: int
    gso: int
    gro: int
    both: int
    receive_force: int
    send_force: int
    receive_bytes: int
    send_bytes: int


def cipher_selftest(cipher: Cipher) -> int:
    """0: it is there and passes RFC 8439's vectors; else an errno (packet/aead.h)."""
    return -int(lib.ws_cipher_selftest(int(cipher)))


def offload_selftest() -> Offload:
    """The UDP offloads that do not carry bytes unharmed on this kernel (tried over loopback)."""
    return Offload(lib.ws_offload_selftest(ffi.NULL))


def udp_parts() -> UdpParts:
    """What `offload_selftest` found, part by part."""
    c = ffi.new("struct ws_udp_parts *")
    lib.ws_offload_selftest(c)
    return UdpParts(*(int(getattr(c, name)) for name in UdpParts.__slots__))


def uring_parts() -> tuple[int, UringParts]:
    """(0 or the errno that keeps the io_uring backend from running here, part by part)."""
    c = ffi.new("struct ws_uring_parts *")
    error = -int(lib.ws_uring_probe(c))
    return error, UringParts(*(int(getattr(c, name)) for name in UringParts.__slots__))
