"""What names of members need of the host: port 53, and word to systemd-resolved.

Apart from responder.py, which takes a library: these sockets are opened at each start, while the
right to use port 53 is there, because a network may be joined later.
"""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

PORT: Final = 53
SUFFIX: Final = "internal"
RESOLVED: Final = Path("/run/systemd/resolve")
RESOLVECTL_S: Final = 3.0


def open_sockets(addresses: Iterable[str], *, quiet: bool = False) -> dict[str, socket.socket]:
    """By address. What cannot be bound is left out, and said unless `quiet`."""
    found: dict[str, socket.socket] = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            continue  # IPv6 is switched off
        try:
            # A name server of this host that takes port 53 at all addresses can start after us.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, PORT))
        except OSError as e:
            sock.close()
            level = logging.DEBUG if quiet else logging.INFO
            log.log(level, "no names at %s port %d: %s; `ws hosts` prints them", address, PORT, e)
            continue
        found[address] = sock
    return found


def tell_resolved(interface: str, network: str, servers: Iterable[str]) -> str | None:
    """For this link alone; it forgets when the link goes. Blocks for some milliseconds.

    Returns why it was not told; None: it was, or it does not run here.
    """
    program, own = shutil.which("resolvectl"), sorted(servers)
    if not own or program is None or not RESOLVED.exists():
        return None
    for words in (
        ("dns", interface, *own),
        ("domain", interface, f"~{network}.{SUFFIX}", f"~{SUFFIX}"),
        ("default-route", interface, "no"),
    ):
        try:
            done = subprocess.run(
                [program, *words], capture_output=True, timeout=RESOLVECTL_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            return f"systemd-resolved was not told of names: {e}"
        if done.returncode:
            said = done.stderr.decode(errors="replace")[:200].strip()
            return f"resolvectl {words[0]}: {said}"
    return None
