"""Which peers are sent data frames, and up to which length a packet fits one."""

from __future__ import annotations

from typing import Final

from whalescale.dataplane.engine import Engine
from whalescale.protocol.places import PeerHandle
from whalescale.protocol.types import ExtendedModeChanged

#: of a data frame, before the packet (shared/wire.h)
FRAME_HEADER_BYTES: Final = 8


class Frames:
    """A data frame is 8 bytes longer than a packet (docs/multipath.md section 3).

    The tunnel's MTU, as configured, leaves room for a message over IPv6. Over IPv4 20 bytes are to
    spare; over IPv6 packets longer than the MTU less 8 stay plain.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mtu = engine.mtu
        #: by peer whose session was once in extended mode: the engine's number of it, and the mode
        self._modes: dict[PeerHandle, tuple[int, ExtendedModeChanged]] = {}

    def changed(self, number: int, mode: ExtendedModeChanged) -> None:
        """`number`: the engine's of the peer. OSError: the engine refused."""
        self._modes[mode.peer] = number, mode
        self.moved(mode.peer)

    def moved(self, peer: PeerHandle) -> None:
        """The peer may be reached over the other IP version."""
        if peer in self._modes:
            number, mode = self._modes[peer]
            endpoint = self._engine.peer_stats(number).endpoint
            over_ipv6 = endpoint is not None and ":" in endpoint.ip
            limit = self._mtu - FRAME_HEADER_BYTES if over_ipv6 else 0
            self._engine.set_frames(number, mode.active, limit, bundles=mode.bundles)

    def set_mtu(self, mtu: int) -> None:
        """The tunnel's, as configured."""
        if mtu != self._mtu:
            self._mtu = mtu
            for peer in tuple(self._modes):
                self.moved(peer)

    def forget(self, peer: PeerHandle) -> None:
        """The peer is removed."""
        self._modes.pop(peer, None)
