# SPDX-License-Identifier: MIT
"""Which congestion control this host's own TCPs have (net.ipv4.tcp_congestion_control)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FILE: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
NAME_BYTES: Final = 16  # TCP_CA_NAME_MAX


class CongestionControl:
    """Looked at again and again. Opened once: the agent may open no such file later."""

    def __init__(self, file: Path = FILE) -> None:
        try:
            self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no IPv4 in this kernel, or no /proc
            self._file = -1

    def is_bbr(self) -> bool:
        """Whether a socket that asks for nothing else gets a BBR, of any version."""
        if self._file < 0:
            return False
        try:
            return os.pread(self._file, NAME_BYTES, 0).startswith(b"bbr")
        except OSError:
            return False

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
