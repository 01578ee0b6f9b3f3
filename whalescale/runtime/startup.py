"""Before an agent: one for each interface, and limits that tests make shorter."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import fields, replace
from typing import Any, Final

from whalescale import locations
from whalescale.protocol.limits import NS_PER_MS, Limits
from whalescale.runtime.control_socket import private_directory
from whalescale.runtime.errors import AgentError

TEST_LIMITS: Final = "WHALESCALE_TEST_LIMITS"


def limits_from(text: str) -> Limits:
    """For tests of rekeying: JSON of Limits in ms (message counts as they are), shorter only.

    WHALESCALE_TEST_LIMITS='{"rekey_after_time": 2000, "keepalive_timeout": 500}'
    """
    if not text:
        return Limits()
    defaults = Limits()
    counts = ("rekey_after_messages", "reject_after_messages")
    times = [f.name for f in fields(Limits) if getattr(defaults, f.name) >= NS_PER_MS]
    known = {n for n in times if n.endswith(("_time", "_timeout", "_max", "_age"))} | {*counts}
    try:
        asked = json.loads(text)
        values = {
            name: int(value) if name in counts else int(float(value) * NS_PER_MS)
            for name, value in asked.items()
        }
        if not values.keys() <= known:
            raise ValueError(f"unknown: {', '.join(sorted(values.keys() - known))}")
        if any(not 0 < v <= getattr(defaults, n) for n, v in values.items()):
            raise ValueError("limits can only be made shorter")
    except (ValueError, TypeError, AttributeError) as e:
        raise AgentError(f"{TEST_LIMITS}: {e}", "unset it, it is for tests") from None
    return replace(defaults, **values)


@contextlib.contextmanager
def lock(interface: str) -> Any:
    """One agent per interface name and runtime directory; the kernel lets go of a killed one's."""
    path = locations.runtime_dir() / f"{interface}.lock"
    private_directory(path.parent)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                break
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AgentError(
                f"an agent for {interface} is running already (process {pid})",
                f"`ws status -i {interface}` shows it, `ws down -i {interface}` stops it",
            ) from None
        # An agent that ended has removed this file between our two steps.
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)
