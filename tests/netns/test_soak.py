"""The soak's short form: each of its doings, and the judgement on it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.params import first

pytestmark = pytest.mark.netns
ROOT = Path(__file__).resolve().parents[2]


WORKERS = ["", pytest.param('backend = "mmsg"\\nworkers = 2', marks=pytest.mark.long)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", first(1, [16, 30]))
@pytest.mark.parametrize("dataplane", WORKERS, ids=["", "workers"])
def test_half_a_minute(dataplane: str, seconds: int) -> None:
    seed = random.randrange(1 << 32)  # noqa: S311
    words = ["--seconds", str(seconds), "--seed", str(seed), "--dataplane", dataplane, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.soak", *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    said = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    total = json.loads(said)
    assert total["runs"][0]["seed"] == seed
    for what in ("kills", "cuts", "readdressings", "hostile datagrams"):
        assert total["counts"].get(what, 0) > 0, total["counts"]
    figures = total["figures"]
    assert figures["udp_received_by_a"] > 0
    assert figures["stream_bytes_to_b"] > 0
