"""Post-quantum keys, byte for byte (tests/vectors/postquantum.json), by two readings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pq_reading as reading
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from whalescale.protocol import postquantum as pq
from whalescale.protocol import tai64n
from whalescale.protocol.control import ControlError

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "postquantum.json").read_text(encoding="utf-8")
)
EXCHANGE = VECTORS["exchange"]


def raw(name: str) -> bytes:
    return bytes.fromhex(EXCHANGE[name])


def test_the_library_has_the_key_and_the_secret() -> None:
    private = MLKEM768PrivateKey.from_seed_bytes(raw("seed"))
    assert private.public_key().public_bytes_raw() == raw("public_key")
    assert private.decapsulate(raw("ciphertext")) == raw("shared_secret")


def least_ms(work: Callable[[], object]) -> float:
    """Of processor time, which others on the machine only add to."""
    best = 1.0
    for _ in range(30):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best * 1000


def test_a_side_of_an_exchange_costs_less_than_a_millisecond() -> None:
    public = raw("public_key")

    def ask() -> bytes:
        private = MLKEM768PrivateKey.from_seed_bytes(raw("seed"))
        private.public_key().public_bytes_raw()
        return private.decapsulate(raw("ciphertext"))

    assert ask() == raw("shared_secret")
    assert least_ms(ask) < 1
    assert least_ms(lambda: MLKEM768PublicKey.from_public_bytes(public).encapsulate()) < 1


def test_what_follows_on_it() -> None:
    following = raw("successor")
    assert pq.successor_key(raw("secret")) == reading.following(raw("secret")) == following
    assert pq.tag_of(following) == reading.tag(following) == EXCHANGE["successor_tag"]


@pytest.mark.parametrize("kind", list(pq.Kind), ids=str)
def test_frames(kind: pq.Kind) -> None:
    number, tag = EXCHANGE["exchange"], EXCHANGE["tag"].to_bytes(3, "little")
    whole, name = {
        pq.Kind.KEY: (raw("public_key"), "key_frames"),
        pq.Kind.CIPHERTEXT: (raw("ciphertext"), "ciphertext_frames"),
        pq.Kind.DONE: (tag, "done_frame"),
    }[kind]
    stored = EXCHANGE[name]
    frames = [bytes.fromhex(f) for f in ([stored] if isinstance(stored, str) else stored)]
    assert list(pq.encode(kind, number, whole)) == frames
    assert reading.frames(kind.name, number, whole) == frames
    for n, frame in enumerate(frames):
        for padding in (b"", bytes(15), b"later"):
            told = pq.decode(frame + padding)
            assert told == pq.Frame(kind, n, number, whole[400 * n : 400 * n + 400])
        for length in range(2, len(frame)):
            with pytest.raises(ControlError, match=r"^control_length$"):
                pq.decode(frame[:length])
        # in a datagram over the shortest link of IPv4, with its 28 bytes and our 32
        assert -(-len(frame) // 16) * 16 + 60 <= 576


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_refused(case: dict[str, str]) -> None:
    with pytest.raises(ControlError, match=rf"^{case['refused']}$"):
        pq.decode(bytes.fromhex(case["frame"]))


def test_the_secret_and_its_tag() -> None:
    said = [raw(n) for n in ("shared_secret", "public_key", "ciphertext", "asker", "answerer")]
    assert raw("asker") < raw("answerer")
    assert pq.secret_key(*said) == raw("secret") == reading.kept(*said)
    assert pq.tag_of(raw("secret")) == EXCHANGE["tag"] == reading.tag(raw("secret"))
    for n, one in enumerate(said):
        other = [*said]
        other[n] = bytes([one[0] ^ 1]) + one[1:]
        assert pq.secret_key(*other) != raw("secret")


def test_preshared_keys() -> None:
    found = set()
    for case in VECTORS["preshared"]:
        ends = [raw("asker"), raw("answerer")]
        if case["initiator"] == "answerer":
            ends.reverse()
        said = bytes.fromhex(case["configured"]), raw("secret"), *ends
        assert pq.preshared(*said).hex() == case["psk"] == reading.psk(*said).hex()
        found.add(case["psk"])
    assert len(found) == len(VECTORS["preshared"])


@pytest.mark.parametrize("case", VECTORS["timestamps"], ids=lambda case: hex(case["tag"]))
def test_timestamps(case: dict[str, Any]) -> None:
    whitened, marked = bytes.fromhex(case["whitened"]), bytes.fromhex(case["marked"])
    assert tai64n.mark(whitened, case["tag"]) == marked
    assert reading.timestamp(whitened, case["tag"]) == marked
    assert tai64n.tag_of(marked) == case["tag"]
    assert tai64n.after(marked) == tai64n.after(whitened) > marked
