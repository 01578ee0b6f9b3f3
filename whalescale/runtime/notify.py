"""Telling whoever started the agent that it is ready: sd_notify(3) and an inherited pipe."""

from __future__ import annotations

import contextlib
import os
import socket


def sd_notify(state: str) -> bool:
    """Send e.g. "READY=1" to NOTIFY_SOCKET. False: nobody asked for it, or nobody listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    # "@" stands for the leading NUL of an abstract socket
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def ready_fd() -> None:
    """Write one byte to the descriptor named by WHALESCALE_READY_FD and close it.

    `ws up` without -f waits for it: end of file without a byte means that the start failed.
    """
    text = os.environ.pop("WHALESCALE_READY_FD", "")
    if not text.isdecimal():
        return
    fd = int(text)
    with contextlib.suppress(OSError):
        os.write(fd, b"\n")
    with contextlib.suppress(OSError):
        os.close(fd)
