"""What a time line says: goodput, stalls, recovery. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

#: a link counts as used again from the first such window in which it carries its share
USED_WINDOW_S = 0.25
USED_SHARE = 0.25
#: a flow counts as recovered from the first such window, if what follows keeps to it
STEADY_WINDOW_S = 0.5


def padded(bins: Sequence[int], seconds: float, bin_s: float) -> list[int]:
    """The bins of exactly so many seconds: nothing came in those that lack at the end."""
    number = round(seconds / bin_s)
    return [*bins[:number], *([0] * (number - len(bins)))]


def mbps(bins: Sequence[int], bin_s: float, start_s: float = 0.0, end_s: float = math.inf) -> float:
    """Mean rate of [start, end), in Mbit/s; 0 where that is empty."""
    first = max(0, round(start_s / bin_s))
    last = len(bins) if math.isinf(end_s) else min(len(bins), round(end_s / bin_s))
    if last <= first:
        return 0.0
    return sum(bins[first:last]) * 8 / ((last - first) * bin_s) / 1e6


def longest_stall_s(
    bins: Sequence[int], bin_s: float, start_s: float = 0.0, end_s: float = math.inf
) -> float:
    """The longest time in [start, end) in which nothing at all came."""
    first = max(0, round(start_s / bin_s))
    last = len(bins) if math.isinf(end_s) else min(len(bins), round(end_s / bin_s))
    longest = run = 0
    for size in bins[first:last]:
        run = 0 if size else run + 1
        longest = max(longest, run)
    return longest * bin_s


def recovery_s(
    bins: Sequence[int], bin_s: float, event_s: float, end_s: float, least_mbps: float
) -> float:
    """Seconds from the event until the flow is at `least_mbps` and stays there.

    That is the first moment from which both the next half second and all that follows up to `end`
    are that fast on average: a burst of what a buffer held back is no recovery. Never: the whole
    time up to `end`.
    """
    first, last = round(event_s / bin_s), min(len(bins), round(end_s / bin_s))
    window = round(STEADY_WINDOW_S / bin_s)
    sums = [0]
    for size in bins[:last]:
        sums.append(sums[-1] + size)
    least = least_mbps * 1e6 / 8 * bin_s
    for at in range(first, last - window + 1):
        near = (sums[at + window] - sums[at]) / window
        rest = (sums[last] - sums[at]) / (last - at)
        if near >= least and rest >= least:
            return (at - first) * bin_s
    return end_s - event_s


def rates_mbps(times: Sequence[float], counts: Sequence[int]) -> list[float]:
    """The rate between each two readings of a byte counter."""
    pairs = zip(pairwise(times), pairwise(counts), strict=True)
    return [max(0, b - a) * 8 / (t - s) / 1e6 if t > s else 0.0 for (s, t), (a, b) in pairs]


def counted_mbps(times: Sequence[float], counts: Sequence[int], start: float, end: float) -> float:
    """The mean rate of a byte counter between two times; 0 where it was not read twice."""
    inside = [(t, c) for t, c in zip(times, counts, strict=True) if start <= t <= end]
    if len(inside) < 2:
        return 0.0
    (first, low), (last, high) = inside[0], inside[-1]
    return (high - low) * 8 / (last - first) / 1e6


def used_again_s(
    times: Sequence[float], counts: Sequence[int], since: float, rate_mbit: float
) -> float | None:
    """Seconds from `since` until a link carries a quarter of its rate; None: never.

    `times` and `since` on one clock, `counts` the link's bytes at those times.
    """
    for at, time in enumerate(times):
        if time < since:
            continue
        ahead = next((i for i in range(at, len(times)) if times[i] >= time + USED_WINDOW_S), None)
        if ahead is None:
            return None
        carried = (counts[ahead] - counts[at]) * 8 / (times[ahead] - time) / 1e6
        if carried >= USED_SHARE * rate_mbit:
            return max(0.0, time - since)
    return None
