"""Strangers are told of, and a flood of them tells little."""

from __future__ import annotations

import logging

import pytest

from whalescale.protocol.limits import NS_PER_S
from whalescale.runtime.strangers import AGAIN, BURST, EACH, Strangers


def test_a_flood_of_strangers_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    strangers = Strangers(told.append)
    with caplog.at_level(logging.WARNING):
        for n in range(10000):
            strangers.note(n.to_bytes(32, "little"), "192.0.2.9:1", EACH * 10 + n)
    assert len(told) == len(caplog.records) == BURST
    strangers.note(b"\1" * 32, "192.0.2.9:1", EACH * 12)
    assert "others since the last line" in caplog.text


def test_one_key_is_told_again_after_a_while() -> None:
    told: list[str] = []
    strangers = Strangers(told.append)
    for second in range(0, 1200, 5):
        strangers.note(bytes(32), "192.0.2.9:1", AGAIN + second * NS_PER_S)
    assert len(told) == 2
    assert "120 times" in told[1]
