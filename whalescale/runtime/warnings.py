"""What is likely wrong with the set-up: logged when it is first seen, and shown by `ws status`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from whalescale import doubts
from whalescale.config import Config
from whalescale.runtime.netlink import LocalAddress

log = logging.getLogger(__name__)


class Warnings:
    """`lines` is the list that the status shows; it stays the same object."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._others: set[str] = set()

    def update(self, config: Config, others: Iterable[LocalAddress] | None = None) -> None:
        """`others`: addresses of the other interfaces of this host; None: as before."""
        if others is not None:
            self._others = {a.ip for a in others}
        found = doubts.of(config) + [
            f"{a.ip} is an address of another interface here too, which of the two gets a packet "
            "is left to chance"
            for a in config.interface.addresses
            if str(a.ip) in self._others
        ]
        for line in found:
            if line not in self.lines:
                log.warning("%s", line)
        self.lines[:] = found
