"""The reordering buffer in C and its model in Python: the same vectors and random schedules."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from reorder_model import FOLLOW, NEVER, RANGE, SPAN, STATS, Reorder
from test_csrc import HERE, build

from tests.params import first

VECTORS = HERE.parents[1] / "tests" / "vectors" / "reorder.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())
# of an operation in the vectors, in the order of the script's words
FIELDS = {
    "insert": ("path", "seq", "again", "bytes", "now_us"),
    "pass": ("path", "seq", "bytes", "now_us"),
    "expire": ("now_us",),
    "gaps": ("now_us",),
    "set": ("depth", "hold_us", "loss_wait_us", "path_idle_us", "deliver_late"),
    "reset": (),
    "stats": (),
}
DEFAULTS = {"path": 0, "again": False, "bytes": 40}


@pytest.fixture(scope="module")
def binary() -> Path:
    return build("test_reorder")


def run_c(binary: Path, lines: list[str]) -> list[str]:
    run = subprocess.run(
        [binary, "script"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, f"exit {run.returncode}: {run.stderr[-4000:]}"
    return run.stdout.splitlines()


def words(step: dict[str, Any]) -> str:
    """A step of a vector as a line of the script."""
    values = {**DEFAULTS, **step}
    out = [step["op"]]
    for field in FIELDS[step["op"]]:
        value = int(values[field])
        out.append(str(value * 1000 if field == "now_us" else value))
    return " ".join(out)


def check(case: dict[str, Any], lines: list[str]) -> None:
    """`lines`: what came of each step."""
    for number, (step, line) in enumerate(zip(case["steps"], lines, strict=True)):
        where = f"{case['name']}, step {number}: {step}: {line}"
        if step["op"] == "stats":
            got = dict(zip(STATS, map(int, line.split()), strict=True))
            want = step["want"]
            assert {name: got[name] for name in want} == want, where
            continue
        following, deadline_ns, *rest = line.split()
        deadline_us = None if int(deadline_ns) == NEVER else int(deadline_ns) / 1000
        if step["op"] == "gaps":
            assert rest == [f"{first}+{count}" for first, count in step["want"]], where
        else:
            assert [int(word) for word in rest] == step["out"], where
        if "next" in step:
            assert int(following) == step["next"], where
        if "deadline_us" in step:
            assert deadline_us == step["deadline_us"], where


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_model_does_the_vectors(case: dict[str, Any]) -> None:
    model = Reorder(case["slot_bytes"])
    check(case, [model.run(words(step)) for step in case["steps"]])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_c_does_the_vectors(case: dict[str, Any], binary: Path) -> None:
    lines = [f"new {case['slot_bytes']}", *map(words, case["steps"])]
    check(case, run_c(binary, lines)[1:])


def schedule(rng: random.Random, stored: int) -> list[str]:
    """One random life of a buffer: paths of unlike delay, loss, copies, nonsense."""
    lines = [
        f"set {rng.choice((1, 2, 5, 20, 128, 9999))} {rng.choice((0, 500, 5000, 40000))}"
        f" {rng.choice((0, 100, 3000, 10**9))} {rng.choice((0, 1000, 8000, 10**6))}"
        f" {rng.randrange(2)}"
    ]
    base = rng.choice((0, 2**32 - 25, rng.randrange(2**32)))
    delays = [rng.choice((0, 300, 4000)) for _ in range(rng.randrange(1, 4))]
    loss, copies, odd = rng.choice((0, 0.02, 0.3)), rng.choice((0, 0.1)), rng.choice((0, 0.05))
    arrivals: list[tuple[int, int, int, int]] = []  # us, path, seq, again
    step_us = rng.choice((20, 300))
    for seq in range(rng.randrange(10, 60)):
        path = rng.randrange(len(delays))
        at = seq * step_us + delays[path] + rng.randrange(1 + delays[path] // 2)
        if rng.random() >= loss:
            arrivals.append((at, path, seq, 0))
        if rng.random() < copies:
            again = int(rng.random() < 0.7)
            arrivals.append((at + rng.randrange(5000), rng.randrange(len(delays)), seq, again))
    far = 0
    for now_us, path, seq, again in sorted(arrivals):
        now_ns = now_us * 1000 + rng.randrange(1000)
        if rng.random() < odd:
            far += rng.choice((-SPAN, -50, 7, 40, SPAN - 2, 2 * SPAN, RANGE, RANGE + 100))
        elif rng.random() < odd:
            far = 0
        size = stored + rng.randrange(-3, 2) if rng.random() < 0.2 else 40
        low = (base + seq + far) % 2**32
        if rng.random() < 0.05:
            lines.append(f"pass {path} {low} {size} {now_ns}")
        else:
            lines.append(f"insert {path} {low} {again} {size} {now_ns}")
        draw = rng.random()
        if draw < 0.4:
            lines.append(f"expire {now_ns}")
        elif draw < 0.5:
            lines.append(f"gaps {now_ns + rng.randrange(3_000_000)}")
        elif draw < 0.51:
            lines.append(f"set {rng.randrange(1, 30)} 2000 50 5000 {rng.randrange(2)}")
        elif draw < 0.515:
            lines.append("reset")
    end_ns = (max(arrivals)[0] + 10**6 if arrivals else 0) * 1000
    return [*lines, "stats", f"expire {end_ns}", "stats"]


@pytest.mark.parametrize("schedules", first(1, [1000, 4000]))
def test_c_does_what_the_model_does(binary: Path, schedules: int) -> None:
    rng = random.Random(0x5EED)  # noqa: S311
    total: dict[str, int] = dict.fromkeys(STATS, 0)
    for _ in range(4):
        lines, expected = [], []
        for _ in range(schedules // 4):
            stored = rng.choice((60, 64, 1500))
            model = Reorder(stored)
            todo = schedule(rng, stored)
            lines += [f"new {stored}", *todo]
            expected += [f"0 {NEVER}", *map(model.run, todo)]
            for name, value in model.stats.items():
                total[name] += value
            assert not model.held
        got = run_c(binary, lines)
        for number, (line, want) in enumerate(zip(got, expected, strict=True)):
            if line != want:
                start = max(i for i in range(number + 1) if lines[i].startswith("new"))
                history = "\n".join(lines[start : number + 1])
                pytest.fail(f"{history}\nC:     {line}\nmodel: {want}")
    # Schedules that never come to these would show nothing.
    assert all(total[name] > schedules // 10 for name in STATS if name != "depth"), total


def test_model_follows_a_sender_that_went_on() -> None:
    """The vectors' case is written out by hand; this one says what its length hangs on."""
    model = Reorder(64)
    model.run("insert 0 0 0 40 0")
    outs = [model.run(f"insert 0 {2 * RANGE + n} 0 40 0").split()[2:] for n in range(FOLLOW + 1)]
    assert outs == [[]] * (FOLLOW - 1) + [[str(FOLLOW)], [str(FOLLOW + 1)]]
