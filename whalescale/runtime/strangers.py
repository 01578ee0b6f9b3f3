"""Who asks for a session with a key that no peer here has: said in the log, seldom enough."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from whalescale.keyfiles import encode_wireguard_key
from whalescale.protocol.limits import NS_PER_S

log = logging.getLogger(__name__)

#: the same key is told again after this time
AGAIN: Final = 600 * NS_PER_S
#: no more lines than so many at once, and one more each time this is over: keys cost nothing
BURST: Final = 5
EACH: Final = 60 * NS_PER_S
KEPT: Final = 64


@dataclass(slots=True)
class _Seen:
    told_at: int
    count: int = 1


class Strangers:
    """`tell(text)` gets what goes into the list of events as well."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._seen: dict[bytes, _Seen] = {}
        self._room = float(BURST)
        self._at = 0
        self._untold = 0

    def note(self, static_public: bytes, where: str, now: int) -> None:
        seen = self._seen.get(static_public)
        if seen is not None and now - seen.told_at < AGAIN:
            seen.count += 1
            return
        self._room = min(BURST, self._room + (now - self._at) / EACH)
        self._at = now
        if self._room < 1:
            self._untold += 1
            return
        self._room -= 1
        while len(self._seen) >= KEPT:
            del self._seen[next(iter(self._seen))]
        times = f", {seen.count} times" if seen is not None and seen.count > 1 else ""
        others = f" ({self._untold} others since the last line)" if self._untold else ""
        self._untold = 0
        self._seen[static_public] = _Seen(now)
        key = encode_wireguard_key(static_public)
        self._tell(f"stranger {where} asks for a session{times}: no peer here has its key {key}")
        log.warning(
            "%s asks for a session%s, but no peer here has its key: public key %s as `ws status` "
            "there shows it; `ws peer add NAME --id ITS_NODE_ID` lets it in%s",
            where,
            times,
            key,
            others,
        )
