"""What is likely wrong with the set-up: logged when it is first seen, and shown by `ws status`."""

from __future__ import annotations

import logging

from whalescale import doubts
from whalescale.config import Config
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)


class Warnings(Part):
    """`lines` is the list that the status shows; it stays the same object."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.lines: list[str] = []
        self._others: set[str] = set()

    def follow(self, here: Here) -> None:
        if here.moved:
            self._others = {a.ip for a in here.addresses}
            self._update()

    async def apply(self, config: Config) -> None:
        self._config = config
        self._update()

    def _update(self) -> None:
        found = doubts.of(self._config) + [
            f"{a.ip} is an address of another interface here too, which of the two gets a packet "
            "is left to chance"
            for a in self._config.interface.addresses
            if str(a.ip) in self._others
        ]
        for line in found:
            if line not in self.lines:
                log.warning("%s", line)
        self.lines[:] = found
