"""What this process may still do: capabilities, Landlock, seccomp (csrc/kernel).

Each of these only takes away, for good. OSError: the kernel refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from whalescale.dataplane.engine import check, ffi, lib


def keep_net_admin_only() -> None:
    """Drop every capability but CAP_NET_ADMIN; call it while there is one thread only."""
    check(lib.ws_caps_keep_net_admin(), "capabilities")


def drop_all_capabilities() -> None:
    """Call it while there is one thread only."""
    check(lib.ws_caps_drop_all(), "capabilities")


def landlock_version() -> int:
    """0: this kernel has no Landlock, or it is switched off."""
    return max(int(lib.ws_landlock_version()), 0)


def restrict_files(read: Sequence[Path], write: Sequence[Path], *, tcp: bool = False) -> int:
    """Landlock, for this thread and those that it starts: these files and folders, nothing else.

    Returns Landlock's version. OSError ENOSYS, EOPNOTSUPP: the kernel has none.
    """
    paths = [(path, 0) for path in read] + [(path, 1) for path in write]
    texts = [ffi.new("char[]", os.fsencode(path)) for path, _ in paths]
    rules = ffi.new("struct ws_may[]", max(len(paths), 1))
    for rule, text, (_, writable) in zip(rules, texts, paths, strict=False):
        rule.path, rule.write = text, writable
    return check(lib.ws_landlock_restrict(rules, len(paths), int(tcp)), "Landlock")


def restrict_calls() -> None:
    """seccomp, for this thread and those that it starts. OSError."""
    check(lib.ws_seccomp_restrict(), "seccomp")


def close_doors() -> None:
    """seccomp, for all threads: no new UNIX sockets, no new rings. OSError."""
    check(lib.ws_seccomp_close_doors(), "seccomp")


def protect_process() -> None:
    """No core dumps, no ptrace by others: keys stay in this process."""
    check(lib.ws_process_protect(), "core dumps")


def end_with_parent() -> None:
    """Have this process killed when its parent ends, from the last change of user on."""
    check(lib.ws_process_end_with_parent(), "parent")
