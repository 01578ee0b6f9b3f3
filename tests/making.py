"""Builds of C tests: what several processes of a test run may ask for at once."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path


def make(folder: Path, out: Path, target: str, *definitions: str, seconds: float = 600) -> Path:
    """The file `target` of `out`, by the Makefile of `folder`.

    One build at a time: two would write the same objects, or what another test already runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-s", "-j2", "-C", folder, f"OUT={out}", *definitions, out / target],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    assert done.returncode == 0, f"{target} does not build:\n{done.stdout}{done.stderr}"
    return out / target
