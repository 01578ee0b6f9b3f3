"""Telling whoever started the agent that it is ready: sd_notify(3) and an inherited pipe."""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """sd_notify(3): NOTIFY_SOCKET is opened at once, for later the agent may open none."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        path = os.environ.get("NOTIFY_SOCKET", "")
        if path[:1] not in ("/", "@"):
            return
        # "@" stands for the leading NUL of an abstract socket
        address = "\0" + path[1:] if path[0] == "@" else path
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            s.connect(address)
        except OSError:
            s.close()
            return
        self._socket = s

    def send(self, state: str) -> bool:
        """E.g. "READY=1". False: nobody asked for it, or nobody listens."""
        try:
            return self._socket is not None and self._socket.send(state.encode()) > 0
        except OSError:
            return False

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


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
