"""The TUN device: made through python-pytun where there is one, its offloads and header by ioctl.

It is never persistent: the interface goes with the last descriptor, so a killed agent leaves none.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from whalescale.dataplane.tun_offloads import open_queue, set_header, set_offloads
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError


@dataclass(frozen=True, slots=True)
class Tun:
    """One descriptor per queue, non-blocking; whoever takes them closes them."""

    fds: tuple[int, ...]
    #: False: the kernel is too old for USO (6.2), or it was not asked for
    uso: bool

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def open_tun(name: str, *, queues: int = 1, tso: bool = True, uso: bool = True) -> Tun:
    """Create interface `name` with `queues` queues. AgentError with the fix on failure.

    The caller has checked that no interface of that name exists: attaching to a
    persistent TUN device of someone else would succeed silently.
    """
    fds: list[int] = []
    uso_on = False
    try:
        for _ in range(queues):
            fd = open_queue(name, several=queues > 1)
            fds.append(fd)
            set_header(fd)
            uso_on = set_offloads(fd, tso=tso, uso=uso)
    except OSError as e:
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
