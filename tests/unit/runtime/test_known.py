"""Which addresses the flood defences know: configured, authenticated, validated, and no others."""

from __future__ import annotations

from whalescale.runtime.known import OBSERVED_MOST, Known


class Guard:
    def __init__(self) -> None:
        self.ips: set[str] = set()

    def know(self, ip: str) -> None:
        assert ip not in self.ips
        self.ips.add(ip)

    def forget(self, ip: str) -> None:
        self.ips.remove(ip)


def test_what_anybody_vouches_for_is_known() -> None:
    guard = Guard()
    known = Known(guard)
    known.configured(["192.0.2.1", "192.0.2.2"])
    known.observed(1, "192.0.2.2")
    known.observed(2, "192.0.2.2")
    known.observed(2, "2001:db8::1")
    assert guard.ips == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}
    known.configured(["192.0.2.3"], ["192.0.2.1", "192.0.2.2"])
    assert guard.ips == {"192.0.2.2", "192.0.2.3", "2001:db8::1"}
    known.configured([], ["192.0.2.3"])
    known.removed(1)
    assert guard.ips == {"192.0.2.2", "2001:db8::1"}
    known.removed(2)
    assert not guard.ips


def test_a_peer_that_changes_address_all_the_time_fills_nothing() -> None:
    guard = Guard()
    known = Known(guard)
    known.configured(["192.0.2.1"])
    known.observed(2, "192.0.2.9")
    for n in range(10_000):
        known.observed(1, f"10.0.{n >> 8}.{n & 255}")
        known.observed(1, "10.9.9.9")
    assert len(guard.ips) == OBSERVED_MOST + 2
    assert {"192.0.2.1", "192.0.2.9", "10.9.9.9"} <= guard.ips


def test_a_guard_that_comes_late_hears_of_all() -> None:
    known = Known()
    known.observed(1, "192.0.2.1")
    guard = Guard()
    known.add_guard(guard)
    known.observed(1, "192.0.2.2")
    assert guard.ips == {"192.0.2.1", "192.0.2.2"}
