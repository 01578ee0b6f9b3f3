"""Which guest takes which messages and frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from whalescale.protocol.control import head_type
from whalescale.protocol.guest import Guest


class Takers:
    """By type. ValueError: two would take the same one."""

    __slots__ = ("_frames", "_messages", "lengths")

    def __init__(self, guests: Iterable[Guest], own: Mapping[int, tuple[int, int]]) -> None:
        """`own`: the node's messages, with their least and greatest length."""
        #: of every message that is taken
        self.lengths = dict(own)
        self._messages: dict[int, Guest] = {}
        self._frames: dict[int, Guest] = {}
        for guest in guests:
            for kind, *span in guest.messages:
                if kind in self.lengths:
                    raise ValueError(f"two machines would take messages of type {kind:#x}")
                self.lengths[kind] = span[0], span[1]
                self._messages[kind] = guest
            for kind in guest.frames:
                if kind in self._frames:
                    raise ValueError(f"two machines would take frames of type {kind:#x}")
                self._frames[int(kind)] = guest

    def of_message(self, kind: int) -> Guest | None:
        """None: it is the node's own."""
        return self._messages.get(kind)

    def of_frame(self, frame: bytes) -> Guest:
        """ControlError: too short, of no known type, or of a version of a later day."""
        return self._frames[head_type(frame, self._frames)]
