"""Runs a scenario of the data plane in a process of its own, also under sanitizers."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.netlab import Lab, lock

ROOT = Path(__file__).resolve().parent.parent.parent


#: by the name of a make target: its libraries, and what it is told
SANITIZERS = {
    "asan": (
        ("libasan.so", "libubsan.so"),
        {
            # The interpreter does not free all that it has at its end.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
    "tsan": (("libtsan.so",), {"TSAN_OPTIONS": "exitcode=66:second_deadlock_stack=1"}),
}


@functools.cache
def sanitized(target: str = "asan") -> dict[str, str]:
    """The environment in which the scenarios use the extension of `make asan` or `make tsan`."""
    with lock(ROOT / f"build/{target}.lock"):
        built = subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
    if built.returncode:
        pytest.fail(f"`make {target}` failed:\n{built.stdout[-4000:]}{built.stderr[-4000:]}")
    names, options = SANITIZERS[target]
    # Python itself is not built under them: the libraries have to be there before it.
    found = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in names
    ]
    library = ROOT / "build" / target / "whalescale/dataplane/_lib.abi3.so"
    return {"WS_TEST_LIB": str(library), "LD_PRELOAD": " ".join(found), **options}


def run_scenario(
    lab: Lab,
    scenario: str,
    *,
    sanitize: bool | str = False,
    timeout: float = 60.0,
    **arguments: object,
) -> None:
    """Two hosts, a link, and the scenario between them (`dataplane_scenarios.py`).

    `sanitize`: False, True for ASan and UBSan, or "tsan".
    """
    a, b = lab.host("a"), lab.host("b")
    link = lab.link(a, b)
    hosts = {
        host.name: (host.netns, {family: link.address(host, family) for family in (4, 6)})
        for host in (a, b)
    }
    plan = json.dumps({"scenario": scenario, "hosts": hosts, **arguments})
    target = "asan" if sanitize is True else sanitize
    # ThreadSanitizer's shadow memory wants the addresses where they are without randomness.
    still = ["setarch", "-R"] if target == "tsan" else []
    command = [*still, sys.executable, "-m", "tests.netns.dataplane_scenarios", plan]
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd=ROOT,
            env={**os.environ, **(sanitized(target) if target else {})},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        pytest.fail(f"{plan} still ran after {timeout:g} s:\n{text[-4000:]}")
    if done.returncode:
        pytest.fail(f"{plan} ended with {done.returncode}:\n{done.stdout[-12000:]}")
