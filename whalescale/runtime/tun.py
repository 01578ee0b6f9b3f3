"""The TUN device: made through python-pytun, its offloads and header by ioctl.

It is never persistent: the interface goes with the last descriptor, so a killed agent leaves none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final

from whalescale.runtime.errors import EXIT_PERMISSION, AgentError

# <linux/if_tun.h>
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40
#: struct virtio_net_hdr, without the merged-buffers count
VNET_HEADER_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class Tun:
    """One descriptor per queue, non-blocking; whoever takes them closes them."""

    fds: tuple[int, ...]
    #: False: the kernel is too old for USO (6.2), or it was not asked for
    uso: bool

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


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


def open_tun(name: str, *, queues: int = 1, tso: bool = True, uso: bool = True) -> Tun:
    """Create interface `name` with `queues` queues. AgentError with the fix on failure.

    The caller has checked that no interface of that name exists: attaching to a
    persistent TUN device of someone else would succeed silently.
    """
    import pytun

    flags = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR
    if queues > 1:
        flags |= pytun.IFF_MULTI_QUEUE
    fds: list[int] = []
    uso_on = False
    try:
        for _ in range(queues):
            # A second device of the same name is another queue.
            device = pytun.TunTapDevice(name=name, flags=flags)
            try:
                fd = fcntl.fcntl(device.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
            finally:
                device.close()
            fds.append(fd)
            os.set_blocking(fd, False)
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
            uso_on = set_offloads(fd, tso=tso, uso=uso)
    except (OSError, pytun.Error) as e:
        for fd in fds:
            os.close(fd)
        raise _explain(name, e) from None
    return Tun(tuple(fds), uso_on)


def _explain(name: str, error: Exception) -> AgentError:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if number in (errno.EPERM, errno.EACCES):
        return AgentError(
            f"interface {name}: no permission to create it (CAP_NET_ADMIN is missing)",
            "run `sudo ws up`, or give the container --cap-add=NET_ADMIN",
            EXIT_PERMISSION,
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return AgentError(
            "/dev/net/tun is missing",
            "load the module (`modprobe tun`), or give the container --device=/dev/net/tun",
        )
    if number in (errno.EBUSY, errno.EINVAL):
        return AgentError(
            f"interface {name}: the name is taken or the kernel refuses it ({os.strerror(number)})",
            f"choose another [interface] name, or remove it: ip link del {name}",
        )
    return AgentError(f"interface {name}: {error}", "see `ws doctor`")
