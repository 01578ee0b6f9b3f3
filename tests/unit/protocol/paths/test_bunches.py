"""Acknowledgements are let through in bunches for a flow that gains by it, and for no other."""

from __future__ import annotations

import pytest

from whalescale.protocol.paths.bunches import MOST_US, REFUSED, Bunches

SECOND = 1_000_000_000
TICK = SECOND // 25
RTTS = [10_000, 30_000]


class Flow:
    """A flow over two paths that carry 150 Mbit/s together."""

    def __init__(self) -> None:
        self.bunches = Bunches()
        self.now = 5 * SECOND

    def run(
        self,
        seconds: float,
        rate_mbps: float = 120,
        grows: float = 1,
        waited: float = 0,
        noise_us: float = 0,
        rtts_us: list[int] | None = None,
        gone: bool = False,
    ) -> list[int]:
        """For how long acknowledgements wait, tick by tick."""
        asked = []
        for _ in range(int(seconds * 25)):
            self.now += TICK
            rate_mbps *= grows ** (1 / 25)
            asked.append(
                self.bunches.update(
                    RTTS if rtts_us is None else rtts_us,
                    *(
                        rate_mbps * 1e6,
                        rate_mbps * 1e6,
                        150e6,
                        noise_us,
                        lambda _: waited,
                        self.now,
                    ),
                    gone=gone,
                )[0]
            )
        return asked

    def begun(self) -> Flow:
        """One whose acknowledgements wait for each other."""
        assert self.run(0.5)[-1]
        return self


def test_what_an_inner_bbr_lacks_is_what_is_asked_for() -> None:
    # In order its packets take 30 ms; twice the least round trip is 20.
    asked = Flow().run(2)
    assert set(asked[:7]) == {0}
    assert asked[-1] == 25_000
    assert Flow().run(2, noise_us=1_000)[-1] == 35_000
    assert Flow().run(2, rtts_us=[10_000, 50_000], noise_us=1_000)[-1] == MOST_US


def test_how_often_is_by_the_longest_round_trip() -> None:
    asked = Bunches().update(RTTS, 120e6, 120e6, 150e6, 0, lambda _: 0, SECOND)
    assert asked == (0, 8 * 30_000)
    # On a LAN that jitters it would be all the time.
    asked = Bunches().update([500, 2_000], 120e6, 120e6, 150e6, 1_000, lambda _: 0, SECOND)
    assert asked == (0, 4 * 12_000)


@pytest.mark.parametrize(
    "why",
    [
        {"rtts_us": []},  # no bulk flow
        {"rtts_us": [10_000]},
        {"rtts_us": [20_000, 28_000]},  # the window is enough for both
        {"rtts_us": [1_000, 1_100], "noise_us": 2_000},
        {"waited": 0.8},  # packets wait: so it is
        {"rtts_us": [10_000, 65_000]},  # no bunch is long enough
        {"grows": 2.5},  # a slow start on its way
        {"rate_mbps": 149},  # nothing is left to gain
    ],
)
def test_not_for_nothing(why: dict[str, float]) -> None:
    flow = Flow()
    assert not any(flow.run(6, **why))  # type: ignore[arg-type]
    assert flow.run(3)[-1]


def test_a_flow_that_loses_by_it_is_left_alone_for_a_while() -> None:
    flow = Flow().begun()
    asked = flow.run(3 + REFUSED / SECOND, rate_mbps=114)
    assert asked[10]
    assert not any(asked[3 * 25 : -1])
    assert flow.run(1, rate_mbps=114)[-1]


def test_a_bbr_that_gains_nothing_would_fall_without() -> None:
    assert all(Flow().begun().run(60, rate_mbps=118))


def test_one_that_was_cut_is_no_bbr() -> None:
    flow = Flow()
    asked = flow.run(1, rate_mbps=146, grows=80 / 146) + flow.run(3, rate_mbps=80, grows=2)
    assert not any(asked)


def test_a_refusal_outlives_a_moment_on_one_path() -> None:
    flow = Flow().begun()
    flow.run(3.5, rate_mbps=100)
    for _ in range(5):
        assert not any(flow.run(0.2, rtts_us=[10_000]) + flow.run(4.8))


def test_a_pause_of_the_flow_is_no_judgement() -> None:
    flow = Flow().begun()
    assert all(flow.run(1, rate_mbps=140) + flow.run(1, rate_mbps=90) + flow.run(5, rate_mbps=140))
    # One second is enough, whenever in the time of the trial it is.
    flow = Flow().begun()
    assert all(flow.run(1.5, rate_mbps=90) + flow.run(0.5) + flow.run(5, rate_mbps=90))


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
    assert not any(flow.run(0.2))
    assert flow.run(0.6)[-1]


def test_it_ends_with_the_flow() -> None:
    flow = Flow().begun()
    assert not any(flow.run(1, rtts_us=[]))
    assert not any(flow.run(0.2))


def test_at_once_when_the_quick_path_fails() -> None:
    flow = Flow()
    assert flow.run(0.04, gone=True, waited=1) == [25_000]
    assert all(flow.run(10, rate_mbps=90, gone=True))
    assert not any(flow.run(0.2, rate_mbps=90))  # it is back
    # With their help it fills the path, so packets that wait are no reason to let it fall.
    flow = Flow()
    assert all(flow.run(10, gone=True, waited=1))
    assert not any(flow.run(2, waited=1))
    assert flow.run(0.04, gone=True, waited=1)[0]
