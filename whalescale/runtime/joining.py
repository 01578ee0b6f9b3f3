"""The way into a network: one session with a ticket's key, in Python, before any tunnel is up.

Plain WireGuard on the wire. Inside go two frames: our OFFER, so that the inviter sends frames, and
JOIN; what comes back are the records that make this machine a member.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from whalescale.identity import Identity
from whalescale.protocol.control import ControlError, Feature, Offer, encode_offer
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.mesh import frames, invite
from whalescale.protocol.mesh.invite import Refusal, Ticket
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.node import Node
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import KeypairReady, PeerConfig

TIMEOUT_S: Final = 15.0
ASK_EVERY_S: Final = 0.5
#: what else comes from the inviter's places is not looked at beyond this
DATAGRAMS_MAX: Final = 20_000
RECORDS_MAX: Final = 256
_TRANSPORT: Final = struct.Struct("<B3xIQ")
_NONCE: Final = struct.Struct("<4xQ")

_REFUSED: Final = {
    Refusal.UNKNOWN: ("the ticket was used by another machine, or called back", "new"),
    Refusal.EXPIRED: ("the ticket has expired", "new"),
    Refusal.NOT_ADMIN: ("the inviter is no admin of the network any more", "admin"),
    Refusal.REVOKED: ("this machine's key was revoked; it needs a new one", "key"),
    Refusal.PROOF: ("the inviter did not take our proof", "new"),
    Refusal.FULL: ("the network takes no more members", "admin"),
}
_FIXES: Final = {
    "new": "ask for another one: `ws invite NAME` there",
    "admin": "ask an admin for a ticket",
    "key": "`ws init --force` makes one, then join again",
}


class JoinError(Exception):
    """Not joined; `fix` says what would mend it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def no_answer(ticket: Ticket, wall_s: float) -> JoinError:
    """Whoever lets its key in no more does not answer; the ticket says by itself when that is."""
    places = ", ".join(f"{p.ip} port {p.port}" for p in ticket.places)
    message = f"no answer from the inviter at {places or 'no address at all'}"
    if wall_s < ticket.expires:
        fix = "see that its agent runs, that UDP gets there, and that the ticket is not used up"
        return JoinError(message, fix)
    minutes = int(wall_s - ticket.expires) // 60 + 1
    ago = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return JoinError(f"{message}, and the ticket expired {ago} ago", _FIXES["new"])


class _Session:
    """Transport messages of one keypair (docs/wire.md, message 4)."""

    def __init__(self, ready: KeypairReady) -> None:
        self._remote, self._local = ready.remote_index, ready.local_index
        self._send = ChaCha20Poly1305(bytes(ready.send_key))
        self._receive = ChaCha20Poly1305(bytes(ready.receive_key))
        self._counter = 0
        self._highest = -1

    def seal(self, frame: bytes) -> bytes:
        padded = frame + bytes(-len(frame) % 16)
        head = _TRANSPORT.pack(4, self._remote, self._counter)
        sealed = self._send.encrypt(_NONCE.pack(self._counter), padded, None)
        self._counter += 1
        return head + sealed

    def open(self, data: bytes) -> bytes | None:
        """None: not ours, forged, or older than the last (nothing here minds a lost frame)."""
        if len(data) < 32 or data[0] != 4:
            return None
        _, index, counter = _TRANSPORT.unpack_from(data)
        if index != self._local or counter <= self._highest:
            return None
        try:
            plain = self._receive.decrypt(_NONCE.pack(counter), data[16:], None)
        except InvalidTag:
            return None
        self._highest = counter
        return plain


class _Joining:
    def __init__(self, ticket: Ticket, identity: Identity) -> None:
        self._ticket, self._identity = ticket, identity
        self._one_time = ticket.one_time()
        limits = Limits(rekey_timeout=2 * NS_PER_S, rekey_timeout_jitter_max=NS_PER_S // 10)
        self._node = Node(
            self._one_time, limits=limits, random=os.urandom, wall_clock=time.time_ns, parts=()
        )
        self._session: _Session | None = None
        self.raws: list[bytes] = []
        self.refused: Refusal | None = None

    def run(self, timeout_s: float) -> Mesh:
        with contextlib.ExitStack() as stack:
            sockets = list(_sockets(stack))
            end, ask_at = time.monotonic() + timeout_s, 0.0
            config = PeerConfig(node_id=self._ticket.inviter, endpoints=self._ticket.places)
            self._peer = self._node.add_peer(config, _now())
            self._node.want_handshake(self._peer, _now())
            seen = 0
            while time.monotonic() < end and seen < DATAGRAMS_MAX and self.refused is None:
                self._send_all(sockets)
                if self._session is not None and time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + ASK_EVERY_S
                    self._ask(sockets)
                for sock in select.select(sockets, [], [], 0.1)[0]:
                    with contextlib.suppress(OSError):
                        data, address = sock.recvfrom(2048)
                        seen += 1
                        self._take(data, Endpoint(address[0], address[1]))
                self._node.handle_timeout(_now())
                mesh = self._whole()
                if mesh is not None:
                    return mesh
        self._one_time.zero()
        if self.refused is not None:
            message, fix = _REFUSED[self.refused]
            raise JoinError(message, _FIXES[fix])
        if self._session is not None:
            raise JoinError("the inviter answered, and then no more", "try again")
        raise no_answer(self._ticket, time.time())

    def _send_all(self, sockets: list[socket.socket]) -> None:
        while (event := self._node.poll_event()) is not None:
            if isinstance(event, KeypairReady):
                self._session = _Session(event)
                self._remote = self._node.peer_status(self._peer).endpoint
                event.send_key[:] = bytes(32)
                event.receive_key[:] = bytes(32)
        while (message := self._node.poll_transmit()) is not None:
            _send(sockets, message.data, message.remote)

    def _ask(self, sockets: list[socket.socket]) -> None:
        assert self._session is not None
        if self._remote is None:
            return
        offer = Offer(False, 0, Feature(0), 1)
        join = invite.encode_join(self._identity.seed, self._identity.node_id, self._ticket)
        for frame in (encode_offer(offer), join):
            _send(sockets, self._session.seal(frame), self._remote)

    def _take(self, data: bytes, remote: Endpoint) -> None:
        frame = self._session.open(data) if self._session is not None else None
        if frame is None:
            if data[:1] != b"\x04":
                self._node.receive_datagram(data, remote, None, _now())
            return
        refused = invite.decode_refused(frame)
        if refused is not None:
            self.refused = refused
            return
        try:
            told = frames.decode(frame)
        except ControlError:
            return  # an offer, or of a later day
        if isinstance(told, frames.Update):
            self.raws = list(dict.fromkeys([*self.raws, *told.records]))[:RECORDS_MAX]

    def _whole(self) -> Mesh | None:
        """The network as we know it now, once we belong to it."""
        if not self.raws:
            return None
        now = _now()
        mesh = Mesh(self._identity, self._ticket.network, random=os.urandom, now=now)
        mesh.restore(self.raws, now)
        return mesh if mesh.belongs else None


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _sockets(stack: contextlib.ExitStack) -> Iterator[socket.socket]:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        with contextlib.suppress(OSError):
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, 0))
            sock.setblocking(False)
            yield sock


def _send(sockets: list[socket.socket], data: bytes, remote: Endpoint) -> None:
    family = socket.AF_INET6 if ":" in remote.ip else socket.AF_INET
    for sock in sockets:
        if sock.family == family:
            with contextlib.suppress(OSError):
                sock.sendto(data, (remote.ip, remote.port))


def join(ticket: Ticket, identity: Identity, timeout_s: float = TIMEOUT_S) -> Mesh:
    """Become a member with this ticket. JoinError: the inviter refused, or does not answer.

    The network's records are in the table of what is returned.
    """
    if identity.node_id == ticket.inviter:
        raise JoinError("this machine made the ticket itself", "join with another machine")
    return _Joining(ticket, identity).run(timeout_s)
