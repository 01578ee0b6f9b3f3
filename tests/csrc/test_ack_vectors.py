"""ACKs in C: the vectors of tests/vectors/ack.json, which the Python codec is tested with too."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from test_csrc import HERE, build

VECTORS = HERE.parents[1] / "tests" / "vectors" / "ack.json"
PATH_FIELDS = (
    "path",
    "hold_16us",
    "highest",
    "datagrams",
    "bytes",
    "arrived_us",
    "echo_us",
    "delay_us",
    "delay_min_us",
)


def expected(case: dict[str, Any]) -> str:
    """The line that test_ack.c's decode mode prints."""
    if "refused" in case:
        return "refused"
    ack = case["ack"]
    parts = [f"{ack['time_us']} {ack['next_seq']}"]
    parts += ["| " + " ".join(str(path[field]) for field in PATH_FIELDS) for path in ack["paths"]]
    parts += [f"+ {gap['first']} {gap['count']}" for gap in ack["gaps"]]
    return " ".join([*parts, "=", case["frame"]])


def test_vectors() -> None:
    cases = json.loads(VECTORS.read_text())
    run = subprocess.run(
        [build("test_ack"), "decode"],
        input="".join(case["frame"] + case.get("padding", "") + "\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(cases) > 10
    for case, line in zip(cases, run.stdout.splitlines(), strict=True):
        assert line == expected(case), case["name"]
