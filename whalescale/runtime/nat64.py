"""IPv4 endpoints reached from a host that has IPv6 alone; protocol/nat/nat64.py says how."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Network
from typing import Any, ClassVar, Final

from whalescale.protocol.nat import nat64
from whalescale.protocol.places import Endpoint
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)

#: seconds until the resolver is asked again: where it had no answer, and where it had
RETRY_S: Final = 30.0
AGAIN_S: Final = 3600.0


class Nat64(Part):
    name: ClassVar[str] = "nat64"

    def __init__(
        self,
        lookup: Callable[[str, int], Awaitable[list[Endpoint]]],
        tell: Callable[[Sequence[IPv6Network]], None],
    ) -> None:
        """`lookup`: all addresses of a name. `tell`: takes the prefixes, if they are others."""
        self._lookup = lookup
        self._tell = tell
        self._here: Here | None = None
        self._prefixes: tuple[IPv6Network, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def follow(self, here: Here) -> None:
        before, self._here = self._here, here
        needed = nat64.is_needed(here.links)
        if before is not None and needed and set(before.links) == set(here.links):
            return
        self._stop()
        if needed:
            self._task = asyncio.get_running_loop().create_task(self._ask())
        else:
            self._set(())

    def status(self) -> dict[str, Any]:
        return {"prefixes": [str(p) for p in self._prefixes]}

    async def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _set(self, found: tuple[IPv6Network, ...]) -> None:
        if found != self._prefixes:
            self._prefixes = found
            if found:
                log.info("NAT64: IPv4 is reached by %s", ", ".join(map(str, found)))
            self._tell(found)

    async def _ask(self) -> None:
        while True:
            wait = RETRY_S
            try:
                answers = await self._lookup(nat64.NAME, 1)
                self._set(nat64.prefixes(endpoint.ip for endpoint in answers))
                wait = AGAIN_S
            except OSError as e:
                log.debug("NAT64: %s", e)
            await asyncio.sleep(wait)
