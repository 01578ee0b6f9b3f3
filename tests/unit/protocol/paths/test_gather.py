"""Acknowledgements are gathered for a flow that gains by it, and for no other."""

from __future__ import annotations

import pytest

from whalescale.protocol.paths.gather import MOST_US, REFUSED, Gathering

SECOND = 1_000_000_000
TICK = SECOND // 25
RTTS = [10_000, 30_000]


class Flow:
    """A flow over two paths that carry 150 Mbit/s together."""

    def __init__(self) -> None:
        self.gathering = Gathering()
        self.now = 5 * SECOND

    def run(
        self,
        seconds: float,
        rate_mbps: float = 120,
        grows: float = 1,
        waited: float = 0,
        noise_us: float = 100,
        rtts_us: list[int] | None = None,
    ) -> list[int]:
        """For how long acknowledgements wait, tick by tick."""
        asked = []
        for _ in range(int(seconds * 25)):
            self.now += TICK
            rate_mbps *= grows ** (1 / 25)
            asked.append(
                self.gathering.update(
                    RTTS if rtts_us is None else rtts_us,
                    *(rate_mbps * 1e6, 150e6, noise_us, lambda _: waited, self.now),
                )[0]
            )
        return asked

    def begun(self) -> Flow:
        """One whose acknowledgements are gathered."""
        assert self.run(2.5)[-1]
        return self


def test_what_an_inner_bbr_lacks_is_what_is_asked_for() -> None:
    # In order its packets take 30 ms; twice the least round trip is 20.
    asked = Flow().run(4)
    assert set(asked[: 2 * 25]) == {0}
    assert asked[-1] == 20_000
    assert Flow().run(4, rtts_us=[10_000, 300_000])[-1] == MOST_US


def test_how_often_is_by_the_longest_round_trip() -> None:
    asked = Gathering().update(RTTS, 120e6, 150e6, 0, lambda _: 0, SECOND)
    assert asked == (0, 6 * 30_000)


@pytest.mark.parametrize(
    "why",
    [
        {"rtts_us": []},  # no bulk flow
        {"rtts_us": [10_000]},
        {"rtts_us": [20_000, 28_000]},  # the window is enough for both
        {"waited": 0.8},  # packets wait: so it is
        {"noise_us": 3_000},  # jitter does it
        {"grows": 1.1},  # CUBIC on its way
        {"rate_mbps": 149},  # nothing is left to gain
    ],
)
def test_not_for_nothing(why: dict[str, float]) -> None:
    flow = Flow()
    assert not any(flow.run(6, **why))  # type: ignore[arg-type]
    assert flow.run(3)[-1]


def test_a_flow_that_gains_nothing_is_left_alone_for_a_while() -> None:
    flow = Flow().begun()
    asked = flow.run(REFUSED / SECOND)
    assert asked[10]
    assert not any(asked[2 * 25 :])
    assert flow.run(5)[-1]


def test_a_flow_that_gains_keeps_it() -> None:
    flow = Flow().begun()
    # Jitter may be that of the bunches, and nothing is left to gain because of them.
    assert all(flow.run(60, rate_mbps=149, noise_us=3_000))


def test_a_bbr_that_forgets_gets_more_and_another_tcp_does_not() -> None:
    flow = Flow().begun()
    flow.run(3, rate_mbps=140)
    assert not flow.run(1.5, rate_mbps=150, waited=1)[-1]  # the window is more than enough
    assert flow.run(0.2, rate_mbps=140)[-1]
    assert not flow.run(4, rate_mbps=150, waited=1)[-1]
    assert not any(flow.run(1.5))
    assert flow.run(1)[-1]


def test_it_ends_with_the_flow() -> None:
    flow = Flow().begun()
    assert not any(flow.run(1, rtts_us=[]))
    assert not any(flow.run(1.5))
