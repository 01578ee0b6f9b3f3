"""mac1, mac2 and cookie replies (whitepaper section 5.4.4 and 5.4.7), and when to ask for mac2.

The under-load rule: every handshake message with a valid mac1 adds one to a bucket that drains at
`load_drain_per_second`. A message that finds the bucket at `load_backlog` puts the node under load,
and it stays there for `under_load_after_time` after the last such message (WireGuard's hysteresis
of 1 s; its measure is the length of a queue, which a core without a queue does not have). A
thousand peers that wake at once fit into the bucket; a flood of a longer breath does not.

Under load a handshake message without a valid mac2 is answered by a cookie reply and dropped, and
one with a valid mac2 goes through a limiter by source IP (an IPv6 /64 counts as one).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.messages import (
    MAC_BYTES,
    MACS_BYTES,
    NONCE_BYTES,
    CookieReply,
    encode_cookie_reply,
    sender_index,
)
from whalescale.protocol.places import Endpoint

LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

Random = Callable[[int], bytes]


def mac(key: bytes, data: bytes) -> bytes:
    """The whitepaper's Mac: keyed BLAKE2s of 16 bytes."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_BYTES).digest()


def _label_key(label: bytes, static_public: bytes) -> bytes:
    return hashlib.blake2s(label + static_public).digest()


def source_bytes(remote: Endpoint) -> bytes:
    """What a cookie is bound to: IP address, port, zone. ValueError: not a numeric address."""
    return (
        ip_address(remote.ip).packed
        + remote.port.to_bytes(2, "little")
        + remote.scope_id.to_bytes(4, "little")
    )


class CookieChecker:
    """Our side as the one under load: checks mac1 and mac2, makes cookie replies."""

    __slots__ = ("_cookie_key", "_limits", "_mac1_key", "_random", "_secret", "_secret_set")

    def __init__(self, static_public: bytes, limits: Limits, random: Random) -> None:
        self._mac1_key = _label_key(LABEL_MAC1, static_public)
        self._cookie_key = _label_key(LABEL_COOKIE, static_public)
        self._limits = limits
        self._random = random
        self._secret = b""
        self._secret_set = 0

    def check_mac1(self, data: bytes) -> bool:
        return hmac.compare_digest(
            mac(self._mac1_key, data[:-MACS_BYTES]), data[-MACS_BYTES:-MAC_BYTES]
        )

    def _secret_expired(self, now: int) -> bool:
        return not self._secret or now - self._secret_set >= self._limits.cookie_secret_max_age

    def check_mac2(self, data: bytes, remote: Endpoint, now: int) -> bool:
        if self._secret_expired(now):
            return False
        cookie = mac(self._secret, source_bytes(remote))
        return hmac.compare_digest(mac(cookie, data[:-MAC_BYTES]), data[-MAC_BYTES:])

    def create_reply(self, data: bytes, remote: Endpoint, now: int) -> bytes:
        """Message 3 for an initiation or response whose mac1 is valid."""
        if self._secret_expired(now):
            self._secret = self._random(32)
            self._secret_set = now
        cookie = mac(self._secret, source_bytes(remote))
        nonce = self._random(NONCE_BYTES)
        mac1 = data[-MACS_BYTES:-MAC_BYTES]
        sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            cookie, mac1, nonce, self._cookie_key
        )
        return encode_cookie_reply(sender_index(data), nonce, sealed)


class CookieGenerator:
    """Our side as the one that wants in: closes our messages to one peer, keeps its cookie."""

    __slots__ = ("_cookie", "_cookie_key", "_cookie_set", "_last_mac1", "_mac1_key")

    def __init__(self, static_public: bytes) -> None:
        self._mac1_key = _label_key(LABEL_MAC1, static_public)
        self._cookie_key = _label_key(LABEL_COOKIE, static_public)
        self._last_mac1 = b""
        self._cookie = b""
        self._cookie_set = 0

    def add_macs(self, message: bytes, now: int, limits: Limits) -> bytes:
        """The whole message: mac1, then mac2 if a cookie is held that its maker still takes."""
        self._last_mac1 = mac(self._mac1_key, message)
        message += self._last_mac1
        usable = limits.cookie_secret_max_age - limits.cookie_secret_latency
        if self._cookie and now - self._cookie_set < usable:
            return message + mac(self._cookie, message)
        self._cookie = b""
        return message + bytes(MAC_BYTES)

    def consume_reply(self, reply: CookieReply, now: int) -> bool:
        """False: not sealed by this peer for our last message."""
        if not self._last_mac1:
            return False
        try:
            self._cookie = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                reply.sealed, self._last_mac1, reply.nonce, self._cookie_key
            )
        except CryptoError:
            return False
        # One cookie for one mac1: a replayed reply must not bring an old cookie back.
        self._last_mac1 = b""
        self._cookie_set = now
        return True


class LoadMonitor:
    """The under-load rule of the module's head."""

    __slots__ = ("_drain", "_full", "_hold", "_level", "_since", "_until", "forced")

    def __init__(self, limits: Limits) -> None:
        self._full = limits.load_backlog * NS_PER_S
        self._drain = limits.load_drain_per_second
        self._hold = limits.under_load_after_time
        self._level = 0  # in messages * 1e9, so that the drain is exact
        self._since = 0
        self._until: int | None = None
        #: Overrides the rule where not None.
        self.forced: bool | None = None

    def count(self, now: int) -> bool:
        """One more handshake message; whether the node is under load for it."""
        elapsed = max(0, now - self._since)
        self._since = now
        self._level = max(0, self._level - elapsed * self._drain)
        if self._level + NS_PER_S > self._full:
            self._until = now + self._hold
        else:
            self._level += NS_PER_S
        return self.is_loaded(now)

    def is_loaded(self, now: int) -> bool:
        if self.forced is not None:
            return self.forced
        return self._until is not None and now < self._until


class RateLimiter:
    """A token bucket by source IP with a bounded table (wireguard-go ratelimiter/)."""

    __slots__ = ("_burst", "_cost", "_entries", "_max_entries")

    def __init__(self, limits: Limits) -> None:
        self._cost = NS_PER_S // limits.ratelimit_per_second
        self._burst = self._cost * limits.ratelimit_burst
        self._max_entries = limits.ratelimit_entries
        # Ordered by last use: what has been idle longest stands first.
        self._entries: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def allow(self, remote: Endpoint, now: int) -> bool:
        """False: this source has used up its share, or the table is full of busy ones."""
        packed = ip_address(remote.ip).packed
        key = packed[:8] if len(packed) == 16 else packed
        entry = self._entries.pop(key, None)
        if entry is None:
            self._collect(now)
            if len(self._entries) >= self._max_entries:
                return False
            self._entries[key] = (self._burst - self._cost, now)
            return True
        tokens, last = entry
        tokens = min(self._burst, tokens + max(0, now - last))
        allowed = tokens >= self._cost
        self._entries[key] = (tokens - self._cost if allowed else tokens, now)
        return allowed

    def _collect(self, now: int) -> None:
        """Forget sources idle for so long that their bucket is full again (and over 1 s)."""
        idle = max(self._burst, NS_PER_S)
        while self._entries:
            key, (_, last) = next(iter(self._entries.items()))
            if now - last <= idle:
                return
            del self._entries[key]
