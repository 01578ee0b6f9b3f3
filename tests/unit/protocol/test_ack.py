"""The codec of ACKs on the vectors that the C one is tested with, and there and back."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol.control import (
    ACK_MAX_GAPS,
    ACK_MAX_PATHS,
    Ack,
    AckGap,
    AckPath,
    ControlError,
    decode_ack,
    encode_ack,
    frame_type,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "ack.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())
TAKEN = [case for case in CASES if "ack" in case]
REFUSED = [case for case in CASES if "refused" in case]


def uint(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


PATHS = st.builds(
    AckPath,
    st.integers(0, ACK_MAX_PATHS - 1),
    *map(uint, (16, 32, 32, 64, 32, 24, 24, 24)),
)
ACKS = st.builds(
    Ack,
    uint(32),
    uint(32),
    st.lists(PATHS, max_size=ACK_MAX_PATHS, unique_by=lambda path: path.path).map(tuple),
    st.lists(st.builds(AckGap, uint(32), uint(16)), max_size=ACK_MAX_GAPS).map(tuple),
)


@pytest.mark.parametrize("case", TAKEN, ids=[case["name"] for case in TAKEN])
def test_vector(case: dict[str, Any]) -> None:
    frame = bytes.fromhex(case["frame"])
    ack = decode_ack(frame + bytes.fromhex(case.get("padding", "")))
    told = asdict(ack)
    told["paths"], told["gaps"] = list(told["paths"]), list(told["gaps"])
    assert told == case["ack"]
    assert encode_ack(ack) == frame


@pytest.mark.parametrize("case", REFUSED, ids=[case["name"] for case in REFUSED])
def test_refused_vector(case: dict[str, Any]) -> None:
    frame = bytes.fromhex(case["frame"])

    def take() -> None:
        frame_type(frame)
        decode_ack(frame)

    with pytest.raises(ControlError, match=f"^{case['refused']}$"):
        take()


@given(ACKS, st.binary(max_size=40))
def test_there_and_back(ack: Ack, padding: bytes) -> None:
    assert decode_ack(encode_ack(ack) + padding) == ack


@given(ACKS, st.data())
def test_every_cut_is_refused(ack: Ack, data: st.DataObject) -> None:
    frame = encode_ack(ack)
    keep = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(ControlError, match="control_length"):
        decode_ack(frame[:keep])


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        ack = decode_ack(data)
    except ControlError:
        return
    assert decode_ack(encode_ack(ack)) == ack


PATH = AckPath(1, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "ack",
    [
        Ack(0, 0, paths=(PATH,) * 9),
        Ack(0, 0, gaps=(AckGap(0, 1),) * 33),
        Ack(0, 0, paths=(replace(PATH, path=8),)),
        Ack(0, 0, paths=(replace(PATH, path=-1),)),
        Ack(0, 0, paths=(replace(PATH, echo_us=2**24),)),
        Ack(0, 0, paths=(replace(PATH, delay_us=2**24),)),
        Ack(0, 0, paths=(replace(PATH, delay_min_us=-1),)),
        Ack(2**32, 0),
    ],
)
def test_what_does_not_fit_is_not_encoded(ack: Ack) -> None:
    with pytest.raises((ValueError, OverflowError, struct.error)):
        encode_ack(ack)
