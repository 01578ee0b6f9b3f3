"""Records: what an interval added, on both sides, and how they are written."""

from __future__ import annotations

import json

import pytest
from records import FLOW, sample, trace

from whalescale.trace import join
from whalescale.trace.events import Retransmission
from whalescale.trace.flows import Flow, address_of
from whalescale.trace.join import Joiner


def test_the_first_interval_knows_no_change() -> None:
    (first,) = trace([({"total_retrans": 7}, {"gaps": 3})])
    assert first.interval_s is None
    assert first.flows[0].change is None
    assert first.flows[0].tcp["total_retrans"] == 7
    assert first.buffers[0].change is None
    assert first.buffers[0].reordering.gaps == 3


def test_a_change_is_of_this_interval_alone() -> None:
    records = trace(
        [
            ({"total_retrans": 7}, {"gaps": 3, "held": 10, "wait_us": 5_000, "depth": 4}),
            ({"total_retrans": 9}, {"gaps": 8, "held": 30, "wait_us": 65_000, "depth": 2}),
            ({"total_retrans": 9}, {"gaps": 8, "held": 30, "wait_us": 65_000}),
        ]
    )
    second, third = records[1:]
    assert second.interval_s == pytest.approx(0.1)
    assert second.t == 1000.1
    assert second.flows[0].change is not None
    assert second.flows[0].change["total_retrans"] == 2
    assert second.buffers[0].change is not None
    assert second.buffers[0].change["gaps"] == 5
    assert second.buffers[0].wait_mean_us == 3_000
    assert second.buffers[0].reordering.depth == 2
    assert third.flows[0].change is not None
    assert third.flows[0].change["total_retrans"] == 0
    assert third.buffers[0].wait_mean_us is None


def test_a_new_session_starts_anew() -> None:
    _, second, third = trace(
        [({}, {"gaps": 100}), ({}, {"gaps": 1}), ({}, {"gaps": 5})]
    )  # fmt: skip
    assert second.buffers[0].change is None
    assert third.buffers[0].change is not None
    assert third.buffers[0].change["gaps"] == 4


def test_another_socket_with_the_same_ports_is_another_flow() -> None:
    joiner = Joiner("ws0")
    for cookie, retrans, expected in ((1, 5, None), (1, 6, 1), (2, 40, None), (2, 42, 2)):
        one = sample(cookie, total_retrans=retrans)
        (row,) = joiner.step(1.0, 1.0, [(one, None)], {}, None, {}).flows
        assert (row.change or {}).get("total_retrans") == expected


def test_retransmissions_go_to_their_flow_at_the_time_of_the_wall() -> None:
    other = Flow(address_of("10.77.0.1"), 40052, address_of("10.77.0.2"), 5202)
    events = [Retransmission(9.95, FLOW), Retransmission(9.96, other), Retransmission(9.99, FLOW)]
    samples = [(sample(1), "berlin"), (sample(2, other), "berlin")]
    record = Joiner("ws0").step(10.0, 5000.0, samples, {}, events, {})
    assert [row.retransmits for row in record.flows] == [(4999.95, 4999.99), (4999.96,)]
    unseen = Joiner("ws0").step(10.0, 5000.0, samples, {}, None, {})
    assert [row.retransmits for row in unseen.flows] == [None, None]


def test_a_line_is_read_as_it_was_written() -> None:
    for record in trace([({"total_retrans": 1}, {"gaps": 2}), ({}, None)]):
        line = join.encode(record)
        assert b"\n" not in line
        assert json.loads(line)["version"] == 1
        assert join.decode(line) == record


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b'{"version": 2, "t": 1, "interval_s": null, "interface": "x"}']
)
def test_what_is_no_record(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        join.decode(line)
