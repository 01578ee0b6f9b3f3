"""tests/vectors/scheduler.json against the C leaf: which path takes the packet in a given state.

Each entry has a `name`, `in` and `want`. `in`: `kind` (the scheduler's name), `depth`, `now_ns`,
`bytes`, `queued_bytes` (that packet included), `seq`, and `paths`, each of which says what differs
from `default_path`. Times in ns are absolute, `next_ns` and `now_ns` alike.

`want` is either `picks`, the paths of successive picks at the same `now_ns`, each sent before the
next (an empty one: wait), with the `wake_ns` of the last one where that is a wait ("ack": an ACK
alone can help; "drop": no path takes the packet); or `urgent`, the path of an urgent packet (or of
a copy that should avoid the paths of `in.except`), -1 for none.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_csrc import build

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "scheduler.json").read_text(encoding="utf-8")
)
KINDS = ("edf", "wrr", "minrtt", "redundant", "backup")
PATH_FIELDS = (
    "usable",
    "degraded",
    "tier",
    "weight",
    "srtt_us",
    "delay_us",
    "queue_us",
    "in_flight_bytes",
    "window_bytes",
    "max_packet_bytes",
    "acked_seq",
    "rate_bps",
    "base_us",
    "starting",
    "silent_us",
    "next_ns",
    "pace_bps",
)
WAKES = {"ack": 2**64 - 1, "drop": 0}


def numbers(vector: dict[str, Any]) -> list[int]:
    """The vector's state as answer_vectors of sched_vectors.h reads it."""
    given = vector["in"]
    row = [
        KINDS.index(given["kind"]),
        given.get("depth", 128),
        given["now_ns"],
        given["bytes"],
        given.get("queued_bytes", given["bytes"]),
        given.get("seq", 0),
        sum(1 << path for path in given.get("except", [])),
        len(vector["want"].get("picks", [])),
        len(given["paths"]),
    ]
    for path in given["paths"]:
        unknown = set(path) - set(PATH_FIELDS)
        assert not unknown, f"{vector['name']}: {unknown}"
        row += [int({**VECTORS["default_path"], **path}[field]) for field in PATH_FIELDS]
    return [number % 2**64 for number in row]


@pytest.fixture(scope="module")
def binary() -> Path:
    return build("test_scheduler")


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any], binary: Path) -> None:
    run = subprocess.run(
        [binary, "vectors"],
        input=" ".join(map(str, [1, *numbers(vector)])),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    want = vector["want"]
    if "urgent" in want:
        assert int(run.stdout) == want["urgent"]
        return
    answers = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert [[p for p in range(8) if mask >> p & 1] for mask, _ in answers] == want["picks"]
    if "wake_ns" in want:
        wake_ns = want["wake_ns"]
        assert answers[-1][1] == WAKES.get(wake_ns, wake_ns)
    else:
        assert want["picks"][-1], "a vector that ends in a wait says until when"


def test_every_scheduler_has_vectors() -> None:
    assert {vector["in"]["kind"] for vector in VECTORS["vectors"]} == set(KINDS)
