"""A stream of the peer's that stops."""

from __future__ import annotations

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.paths.hush import AGAIN, Incoming

EACH = 100 * NS_PER_MS


class Looks:
    """One each 100 ms."""

    def __init__(self) -> None:
        self.incoming = Incoming()
        self.count = 0
        self.now = NS_PER_S

    def look(self, came: int) -> bool:
        self.now += EACH
        self.count += came
        return self.incoming.ended(self.count, self.now)


def test_it_is_told_once_that_a_stream_has_stopped() -> None:
    looks = Looks()
    assert not any(looks.look(20) for _ in range(10))
    # Packets may come to the end of the look before: the last few do not make it another.
    assert not looks.look(1)
    assert [looks.look(0) for _ in range(5)] == [True, False, False, False, False]


def test_what_trickles_is_no_stream() -> None:
    looks = Looks()
    for _ in range(50):
        assert not looks.look(2)
        assert not any(looks.look(0) for _ in range(10))


def test_one_that_stops_and_goes_on_is_told_of_once_a_second() -> None:
    looks = Looks()
    told = 0
    begin = looks.now
    while looks.now - begin < 10 * NS_PER_S:
        for came in (20, 20, 0, 0, 0):
            told += looks.look(came)
    assert 8 <= told <= 10 * NS_PER_S // AGAIN + 1
