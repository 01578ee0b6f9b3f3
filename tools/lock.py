#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write requirements.lock: every package that a run of Whalescale needs, with its files' hashes.

    tools/lock.py            after a change of [project] dependencies, or for newer versions

`make install` installs as root what the lock names, and nothing else. Versions are chosen by uv (in
an environment of its own) for all Pythons from 3.11 on and every kind of machine at once.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
#: what installing itself takes; cffi, which the build calls too, is among the dependencies
TOOLS = ("pip>=25.1", "setuptools>=77")
HEAD = """\
# What `make install` and `make setup` install: exactly these files. Made by tools/lock.py from
# pyproject.toml; tests/unit/test_lock.py sees that the two agree.
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        run(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "uv")
        (folder / "tools.in").write_text("\n".join(TOOLS) + "\n")
        run(
            *(folder / "venv/bin/uv", "pip", "compile", "--quiet", "--universal", "--upgrade"),
            *("--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"),
            *(ROOT / "pyproject.toml", folder / "tools.in", "-o", folder / "out"),
        )
        text = (folder / "out").read_text()
    # One block a package. Whalescale runs on Linux.
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    kept = [b for b in blocks if "sys_platform == 'win32'" not in b.partition("\n")[0]]
    LOCK.write_text(HEAD + "".join(kept))
    print(f"{LOCK.name}: {len([b for b in kept if b.strip()])} packages")
    return 0


def run(*words: str | Path) -> None:
    subprocess.run([str(w) for w in words], check=True)


if __name__ == "__main__":
    sys.exit(main())
