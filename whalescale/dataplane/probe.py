"""What io_uring can do here, asked of the kernel through PyPI's `liburing`."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

#: what the io_uring backend is built of; IORING_OP_READ_MULTISHOT (Linux 6.7) it does without
OPCODES: Final = (
    "IORING_OP_SENDMSG",
    "IORING_OP_RECVMSG",
    "IORING_OP_READ",
    "IORING_OP_WRITEV",
    "IORING_OP_ASYNC_CANCEL",
)
#: liburing has a package for these machines alone
PACKAGED: Final = "x86_64"


@dataclass(frozen=True, slots=True)
class IoUring:
    """`problem`: what is wrong, for the user, "" when nothing is; `fix`: what would mend it."""

    operations: int
    problem: str = ""
    fix: str = ""


def io_uring() -> IoUring:
    """Never raises; takes about a millisecond."""
    try:
        from liburing import probe
    except ImportError as e:
        if os.uname().machine != PACKAGED:
            return IoUring(0)  # what the data plane tries for itself decides
        return IoUring(0, f"liburing is missing ({e})", "`make setup`")
    try:
        found = probe()
    except (OSError, RuntimeError) as e:
        number = abs(e.errno) if isinstance(e, OSError) and e.errno else 0
        if number in {errno.EPERM, errno.EACCES}:
            fix = "`sudo sysctl -w kernel.io_uring_disabled=0`"
            return IoUring(0, "forbidden here", fix)
        return IoUring(0, "not in this kernel", "Linux 6.1 has it")
    missing = [op for op in OPCODES if not found.get(op)]
    if missing:
        return IoUring(0, f"lacks {', '.join(missing)}", "use Linux 6.1 or newer")
    return IoUring(sum(found.values()))
