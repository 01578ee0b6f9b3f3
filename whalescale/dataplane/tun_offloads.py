"""The TUN device's queue and offloads: how the agent opens them, and what `ws doctor` tries."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

# <linux/if_tun.h>
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40
#: of the devices that the probe makes; the kernel numbers them
PROBE_NAME: Final = "wsprobe%d"
#: struct virtio_net_hdr, without the merged-buffers count
VNET_HEADER_BYTES: Final = 10
#: what each part is asked with; USO is both families or none, and nothing goes without checksums
OFFLOADS: Final = {
    "checksum": TUN_F_CSUM,
    "TSO4": TUN_F_CSUM | TUN_F_TSO4,
    "TSO6": TUN_F_CSUM | TUN_F_TSO6,
    "USO4 and USO6": TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6,
}
CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True, slots=True)
class TunParts:
    """Each part: 0 or a negative errno. `error`: likewise; no device, nothing was tried."""

    error: int = 0
    parts: dict[str, int] = field(default_factory=dict)


def open_queue(name: str, *, several: bool = False) -> int:
    """A non-blocking queue of interface `name`, with a virtio header. OSError: there is none."""
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    if several:
        flags |= IFF_MULTI_QUEUE
    # A second device of the same name is another queue.
    try:
        import pytun
    except ImportError:  # there is no package of it but for x86-64
        return _open_bare(name, flags)
    try:
        device = pytun.TunTapDevice(name=name, flags=flags)
    except pytun.Error as e:
        raise OSError(*e.args) from None
    try:
        fd = fcntl.fcntl(device.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        device.close()
    os.set_blocking(fd, False)
    return fd


def _open_bare(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))  # struct ifreq
    except OSError:
        os.close(fd)
        raise
    return fd


def set_header(fd: int) -> None:
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))


def set_offloads(fd: int, *, tso: bool, uso: bool) -> bool:
    """Ask the kernel for super-packets. Returns whether USO is on. OSError: it takes none."""
    flags = TUN_F_CSUM
    if tso:
        flags |= TUN_F_TSO4 | TUN_F_TSO6
    if uso and tso:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, flags | TUN_F_USO4 | TUN_F_USO6)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
        else:
            return True
    fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
    return False


def probe() -> TunParts:
    """Every part, tried on a device of its own that is gone afterwards. Never raises.

    Where it may, in a network namespace of its own: nobody who watches interfaces sees it.
    """
    found: list[TunParts] = []

    def run() -> None:
        ctypes.CDLL(None).unshare(CLONE_NEWNET)  # this thread alone; refused: here, then
        found.append(_probe())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else TunParts(-errno.EIO)


def _probe() -> TunParts:
    parts: dict[str, int] = {}
    try:
        fd = open_queue(PROBE_NAME)
    except Exception as e:
        return TunParts(_number(e))
    try:
        parts["vnet header"] = _try(lambda: set_header(fd))
        for name, flags in OFFLOADS.items():
            parts[name] = _try(functools.partial(fcntl.ioctl, fd, TUNSETOFFLOAD, flags))
    finally:
        os.close(fd)
    parts["several queues"] = _try(lambda: os.close(open_queue(PROBE_NAME, several=True)))
    return TunParts(parts=parts)


def _try(what: Callable[[], object]) -> int:
    try:
        what()
    except Exception as e:
        return _number(e)
    return 0


def _number(error: Exception) -> int:
    """Negative."""
    first = error.args[0] if error.args else 0
    return -first if isinstance(first, int) and first else -errno.EIO
