"""Two agents of one key (a copied disk): a person is told; they outdo each other seldom.

Each hears the other's word of where "it" is and signs above it, as one does whose disk was put
back; as fast as gossip goes that would be a record a second to every member, for ever.
"""

from __future__ import annotations

from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.directory import Directory

#: between two words of ours above the other's
GAP: Final = 300 * NS_PER_S
#: between two notices
SAID: Final = 600 * NS_PER_S


class Clones:
    """Of our own key. Times are ns."""

    __slots__ = ("_directory", "_said_until", "_until", "at")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._said_until = self._until = 0
        #: when our word goes above the other's; None: nothing waits
        self.at: int | None = None

    def to_say(self, now: int) -> bool:
        """Whether a person is to be told (again)."""
        if not self._directory.is_cloned or now < self._said_until:
            return False
        self._said_until = now + SAID
        return True

    def may_sign(self, now: int) -> bool:
        """Whether our word may go out; if not, at `at`."""
        self.at = None
        if self._directory.outdone and self._directory.is_cloned:
            if now < self._until:
                self.at = self._until
                return False
            self._until = now + GAP
        return True
