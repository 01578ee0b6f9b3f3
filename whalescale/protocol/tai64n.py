"""TAI64N timestamps (https://cr.yp.to/libtai/tai64.html), whitened as WireGuard does."""

from __future__ import annotations

from typing import Final

from whalescale.protocol.limits import NS_PER_S

TIMESTAMP_BYTES: Final = 12

#: 2**62 and the 10 leap seconds of 1970; later leap seconds are left out, as WireGuard does.
_BASE: Final = 0x400000000000000A
#: The low bits of the nanoseconds are cleared, so that the wire shows no precise clock.
_WHITENER: Final = 0x1000000 - 1


def encode(wall_ns: int) -> bytes:
    """12 bytes, big endian: they compare as the times do. `wall_ns` is ns since 1970."""
    seconds, nanoseconds = divmod(wall_ns, NS_PER_S)
    return (_BASE + seconds).to_bytes(8, "big") + (nanoseconds & ~_WHITENER).to_bytes(4, "big")


def mark(timestamp: bytes, tag: int) -> bytes:
    """With `tag`, 24 bits, in place of the cleared ones."""
    return timestamp[:9] + tag.to_bytes(3, "big")


def tag_of(timestamp: bytes) -> int:
    """0: a whitened one."""
    return int.from_bytes(timestamp[9:], "big")


def after(timestamp: bytes) -> bytes:
    """The next whitened timestamp: for a wall clock that stood still or was set back."""
    seconds = int.from_bytes(timestamp[:8], "big")
    nanoseconds = (int.from_bytes(timestamp[8:], "big") | _WHITENER) + 1
    if nanoseconds >= NS_PER_S:
        seconds, nanoseconds = seconds + 1, 0
    return seconds.to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")
