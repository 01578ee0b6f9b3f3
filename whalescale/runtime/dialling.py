"""Places of members dialled from a socket of their own, for who wants to know whether it can be
reached (docs/mesh.md section 7.1). Which, and how often, says protocol/mesh/duties.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from whalescale.identity import fingerprint_of
from whalescale.protocol import bootstrap
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.dialback import DIAL_AT, DIAL_WAIT
from whalescale.protocol.mesh.events import DialPlace
from whalescale.protocol.messages import MessageError
from whalescale.protocol.places import Endpoint

log = logging.getLogger(__name__)

#: what else comes is not looked at beyond this
DATAGRAMS_MAX: Final = 16
DATAGRAM_BYTES: Final = 2048


class PlaceDialler:
    """`done(job, answered)` is called for each, on the loop."""

    def __init__(self, mark: Callable[[], int], done: Callable[[int, bool], None]) -> None:
        """`mark`: of the tunnel's sockets, 0: none, so that nothing goes into the tunnel."""
        self._mark = mark
        self._done = done
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wanted: DialPlace) -> None:
        task = asyncio.get_running_loop().create_task(self._run(wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, wanted: DialPlace) -> None:
        answered = False
        try:
            async with asyncio.timeout(DIAL_WAIT / NS_PER_S):
                answered = await dial(wanted.place, wanted.node_id, wanted.nonce, self._mark())
        except TimeoutError:
            pass
        except OSError as e:
            log.debug("dialling %s: %s", wanted.place.ip, e)
        self._done(wanted.job, answered)


async def dial(place: Endpoint, node_id: bytes, nonce: bytes, mark: int = 0) -> bool:
    """Bootstrap requests from a new port, until this member answers. Does not end by itself
    otherwise. OSError: no socket.
    """
    fingerprint = fingerprint_of(node_id)
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in place.ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.connect((place.ip, place.port))  # the kernel drops what comes from others
        request = bootstrap.encode_request(fingerprint, nonce)

        def send() -> None:
            with contextlib.suppress(OSError):  # an ICMP error of the one before
                sock.send(request)

        timers = [loop.call_later(at / NS_PER_S, send) for at in DIAL_AT]
        try:
            for _ in range(DATAGRAMS_MAX):
                try:
                    data = await loop.sock_recv(sock, DATAGRAM_BYTES)
                    if len(data) == len(request) and bootstrap.nonce_of(data) == nonce:
                        bootstrap.decode_reply(data, fingerprint)
                        return True
                except (MessageError, OSError):
                    continue
        finally:
            for timer in timers:
                timer.cancel()
    return False
