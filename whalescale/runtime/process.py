"""What the agent's process may have open and may do."""

from __future__ import annotations

import os
import resource
from typing import Final

from whalescale.dataplane import confine
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError

#: descriptors that the agent may have open, where the hard limit allows it
OPEN_FILES: Final = 16_384


def raise_open_files() -> None:
    """Sockets are up to 64 a worker; the usual soft limit of 1,024 would be all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def may_pin_cpus() -> bool:
    """Whether this process may choose its CPUs; a service's filter of system calls may refuse."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError:
        return False
    return True


def drop_capabilities() -> None:
    """All but CAP_NET_ADMIN, for good. AgentError: refused, or too late."""
    # They belong to threads: one that runs already would keep all of them.
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise AgentError(
            f"{threads} threads run before the capabilities are dropped", "report this as a fault"
        )
    try:
        confine.keep_net_admin_only()
    except OSError as e:
        raise AgentError(
            f"capabilities: {e.strerror}",
            "run `sudo ws up`, or give the service CAP_NET_ADMIN",
            EXIT_PERMISSION,
        ) from None
