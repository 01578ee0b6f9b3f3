"""Timers and limits: WireGuard's under their own names (whitepaper section 6.1), then ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
#: when both ends of a hole that is punched send, ns after its start (docs/nat.md)
PUNCH_AT: Final = tuple(
    ms * NS_PER_MS for ms in (0, 200, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500)
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations are ns. The defaults are WireGuard's; tests of rekeying pass shorter ones."""

    rekey_after_messages: int = 2**60
    reject_after_messages: int = 2**64 - 2**13 - 1
    rekey_after_time: int = 120 * NS_PER_S
    reject_after_time: int = 180 * NS_PER_S
    rekey_attempt_time: int = 90 * NS_PER_S
    rekey_timeout: int = 5 * NS_PER_S
    rekey_timeout_jitter_max: int = 334 * NS_PER_MS
    keepalive_timeout: int = 10 * NS_PER_S

    cookie_secret_max_age: int = 120 * NS_PER_S
    #: A cookie is used this much shorter than its secret lives: the way there takes time.
    cookie_secret_latency: int = 5 * NS_PER_S
    #: HandshakeInitiationRate: a peer's initiations nearer to each other than this are refused.
    handshake_initiation_rate: int = NS_PER_S // 50

    #: Under-load rule, see cookie.py: we are "under load" while a bucket of
    #: this many handshake messages is full
    load_backlog: int = 2048
    #: how fast that bucket drains, messages a second
    load_drain_per_second: int = 256
    #: "under load" lasts this long after the bucket was last full
    under_load_after_time: int = NS_PER_S

    #: Per source IP, WireGuard's ratelimiter: handshakes with a valid mac2 while under load, and
    #: bootstrap requests at all times.
    ratelimit_per_second: int = 20
    ratelimit_burst: int = 5
    ratelimit_entries: int = 8192

    @property
    def max_handshake_attempts(self) -> int:
        """Initiations sent before giving up: REKEY_ATTEMPT_TIME / REKEY_TIMEOUT.

        Counted, not clocked, so that a suspended machine does not give up on waking.
        """
        return max(1, self.rekey_attempt_time // self.rekey_timeout)

    @property
    def ask_after(self) -> int:
        """So long after an initiation without an answer: is the other side there at all?"""
        return self.rekey_timeout * 2 // 5

    @property
    def anew_after(self) -> int:
        """So long after an initiation another one may go, if it is wanted for something new."""
        return self.rekey_timeout // 5

    @property
    def response_late(self) -> int:
        """So long after our initiation no answer counts: the next one was due long before."""
        return 2 * self.rekey_timeout

    @property
    def zero_keys_after(self) -> int:
        """REJECT_AFTER_TIME * 3 without a new session: every key is zeroed."""
        return 3 * self.reject_after_time

    def jitter(self, random: Callable[[int], bytes]) -> int:
        """Uniform in [0, rekey_timeout_jitter_max)."""
        return (int.from_bytes(random(4), "little") * self.rekey_timeout_jitter_max) >> 32
