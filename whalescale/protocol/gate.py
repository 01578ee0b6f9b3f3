"""What a message has to pass before it may cost a computation: mac1, the under-load rule, limits.

The rules are those of cookie.py; here they stand in order. What does not pass is a MessageError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from whalescale.protocol.cookie import CookieChecker, LoadMonitor, RateLimiter
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import MessageError
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import Transmit


class Gate:
    """One for all peers. Cookie replies are added to `transmits`."""

    def __init__(
        self,
        static_public: bytes,
        limits: Limits,
        random: Callable[[int], bytes],
        transmits: deque[Transmit],
    ) -> None:
        self._checker = CookieChecker(static_public, limits, random)
        self._load = LoadMonitor(limits)
        self._handshake_limiter = RateLimiter(limits)
        self._transmits = transmits
        self._under_load = False

    @property
    def under_load(self) -> bool:
        """As of the last message or timeout. Setting it overrides the rule."""
        return self._under_load

    @under_load.setter
    def under_load(self, value: bool) -> None:
        self._load.forced = self._under_load = value

    def handle_timeout(self, now: int) -> None:
        self._under_load = self._load.is_loaded(now)

    def check_mac1(self, data: bytes) -> None:
        if not self._checker.check_mac1(data):
            raise MessageError("mac1")

    def admit(self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int) -> None:
        """The under-load rule for a handshake message with a valid mac1."""
        self._under_load = self._load.count(now)
        if not self._under_load:
            return
        if not self._checker.check_mac2(data, remote, now):
            reply = self._checker.create_reply(data, remote, now)
            self._transmits.append(Transmit(reply, remote, local))
            raise MessageError("mac2")
        if not self._handshake_limiter.allow(remote, now):
            raise MessageError("ratelimit")
