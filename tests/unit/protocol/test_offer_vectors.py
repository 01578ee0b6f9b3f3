"""Offers, byte for byte (tests/vectors/offer.json); tests/csrc has the C pass the same ones up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whalescale.protocol.control import (
    OFFER_BYTES,
    ControlError,
    Feature,
    FrameType,
    Offer,
    decode_offer,
    encode_offer,
    frame_type,
)

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "offer.json").read_text(encoding="utf-8")
)
TAKEN = [case for case in CASES if "offer" in case]
REFUSED = [case for case in CASES if "refused" in case]


def offer_of(told: dict[str, Any]) -> Offer:
    features = sum((Feature[name] for name in told["features"]), Feature(0))
    return Offer(**{**told, "features": features})


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case["name"])
def test_vector(case: dict[str, Any]) -> None:
    frame = bytes.fromhex(case["frame"])
    assert frame_type(frame) is FrameType.OFFER
    assert decode_offer(frame) == offer_of(case["offer"])
    if not case.get("odd"):
        assert encode_offer(offer_of(case["offer"])) == frame
    for length in range(OFFER_BYTES):
        with pytest.raises(ControlError, match=r"^control_length$"):
            decode_offer(frame[:length])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_refused_vector(case: dict[str, Any]) -> None:
    def take() -> None:
        frame = bytes.fromhex(case["frame"])
        frame_type(frame)
        decode_offer(frame)

    with pytest.raises(ControlError, match=rf"^{case['refused']}$"):
        take()


def test_every_feature_has_a_vector() -> None:
    assert {name for case in TAKEN for name in case["offer"]["features"]} == {
        feature.name for feature in Feature
    }
