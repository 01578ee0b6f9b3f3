"""What the programs print, read back; and what must not pass for a figure."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from whalescale.bench import measure
from whalescale.bench.measure import Load, MeasureError

RECEIVED = {"bytes": 5_000_000_000, "bits_per_second": 8e9}
BACK = {"bytes": 1_000_000_000, "bits_per_second": 1.6e9}
SENT = {"bytes": 5_100_000_000, "bits_per_second": 8.2e9, "retransmits": 7}


def iperf(**end: Any) -> str:
    return json.dumps({"end": end})


def test_iperf_tells_what_was_received_not_what_was_sent() -> None:
    carried = measure.parse_iperf(iperf(sum_sent=SENT, sum_received=RECEIVED))
    assert carried.gbps == pytest.approx(8.0)
    assert carried.bytes == 5_000_000_000
    assert carried.retransmits == 7


def test_iperf_both_ways_is_the_sum() -> None:
    end = {
        "sum_sent": SENT,
        "sum_received": RECEIVED,
        "sum_sent_bidir_reverse": {**SENT, "retransmits": 3},
        "sum_received_bidir_reverse": BACK,
    }
    carried = measure.parse_iperf(iperf(**end))
    assert carried.gbps == pytest.approx(9.6)
    assert carried.retransmits == 10


def test_iperf_udp_sum_is_of_the_sender_and_does_not_count() -> None:
    with pytest.raises(MeasureError):
        measure.parse_iperf(iperf(sum=SENT, sum_sent=SENT))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "nothing at all"),
        ("iperf3: error - unable to connect", "unable to connect"),
        ('{"error": "the server is busy"}', "the server is busy"),
        ('{"start": {}}', "no end"),
        ("[]", "no object"),
        (iperf(sum_received={"bytes": 0, "bits_per_second": 0}), "carried nothing"),
        (iperf(sum_received={"bytes": "many"}), "lacks the sum"),
        (iperf(sum_received=None), "lacks the sum"),
    ],
)
def test_iperf_that_failed_is_no_figure(output: str, said: str) -> None:
    with pytest.raises(MeasureError, match=said):
        measure.parse_iperf(output)


def test_load_makes_the_command() -> None:
    words = Load(2.5, flows=4, bidir=True).client("10.0.0.1", 5201)
    assert words == [
        "iperf3",
        "-J",
        "-c",
        "10.0.0.1",
        "-p",
        "5201",
        "-t",
        "2.5",
        "-P",
        "4",
        "--bidir",
    ]
    assert "-u" in Load(udp_bytes=1200).client("::1", 1)
    assert "-R" in Load(reverse=True).client("::1", 1)
    assert Load(5).timeout > 5


def test_ping_times_in_order() -> None:
    out = (
        "64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.512 ms\n"
        "64 bytes from 10.77.0.2: icmp_seq=2 ttl=64 time=12.0 ms\n"
        "rtt min/avg/max/mdev = 0.512/6.256/12.000/5.744 ms\n"
    )
    assert measure.parse_ping(out) == [0.512, 12.0]


def test_no_ping_is_no_figure() -> None:
    with pytest.raises(MeasureError, match="100% packet loss"):
        measure.parse_ping("3 packets transmitted, 0 received, 100% packet loss\n")


def test_busy_time_leaves_out_idle_waiting_and_stolen() -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  100 20 30 9000 500 7 3 4000 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert measure.busy_seconds(stat) == pytest.approx(160 / measure.TICKS_PER_S)


def test_busy_time_of_this_machine_grows() -> None:
    before = measure.busy_seconds()
    deadline = os.times().elapsed + 5
    while measure.busy_seconds() == before:
        assert os.times().elapsed < deadline
    assert measure.busy_seconds() > before


def test_busy_time_of_something_else() -> None:
    with pytest.raises(MeasureError):
        measure.busy_seconds("intr 1 2 3\n")


def test_rss_of_this_process_and_of_none() -> None:
    assert 1e6 < measure.rss_bytes(os.getpid()) < 1e10
    with pytest.raises(MeasureError, match="gone"):
        measure.rss_bytes(2**22 + 1)


def test_cpu_time_of_this_process_and_of_none() -> None:
    assert measure.process_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
    with pytest.raises(MeasureError, match="gone"):
        measure.process_seconds(2**22 + 1)


def test_ratio_is_of_each_round() -> None:
    """The machine halves its speed in round 2; the ratio does not care."""
    assert measure.ratio_of_rounds([4, 2, 4.4], [2, 1, 2]) == pytest.approx(2.0)


def test_rounds_in_which_one_side_failed_do_not_count() -> None:
    assert measure.ratio_of_rounds([4, None, 9], [2, 1, None]) == 2
    assert measure.ratio_of_rounds([4.0], [0.0]) is None
    assert measure.ratio_of_rounds([], []) is None
    assert measure.median([None, 3.0, 1.0]) == 2
    assert measure.median([None]) is None


def test_percentiles() -> None:
    values = [float(v) for v in range(1, 101)]
    assert measure.percentile(values, 0.5) == 50
    assert measure.percentile(values, 0.95) == 95
    assert measure.percentile(values, 1.0) == 100
    with pytest.raises(ValueError, match="no values"):
        measure.percentile([], 0.5)
