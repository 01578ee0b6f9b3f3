"""The machines that every node has beside the handshake: a new one is added here."""

from __future__ import annotations

from typing import Final

from whalescale.protocol.guest import Part
from whalescale.protocol.keeping import Keeping
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Signalling

PARTS: Final[tuple[Part, ...]] = (Multipath, Signalling, Keeping)
