#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `make deb` and `make wheel` have put into dist/ for this machine: looked at, and run.

    tools/built.py

The Debian package is unpacked beside everything, never installed: its fields, the files that an
administrator expects, its size, no path of this build in it; `ws version` and the data plane run
from there, and lintian looks at it where that is installed (tests/netns/test_deb.py installs it, in
clean systems). The wheel likewise. Exit status 1: something is wrong, each thing on a line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import deb

ROOT = deb.ROOT
INSTALLED_MB_MAX = 60
#: below the package's root; of what is one of two places, both
EXPECTED = (
    "usr/bin/ws",
    "{usr/,}lib/systemd/system/ws@.service",
    "usr/share/man/man1/ws.1.gz",
    "usr/share/bash-completion/completions/ws",
    "usr/share/zsh/vendor-completions/_ws",
    "usr/share/fish/vendor_completions.d/ws.fish",
    "usr/share/doc/whalescale/changelog.gz",
    "usr/share/doc/whalescale/copyright",
    "usr/share/doc/whalescale/sbom.cdx.json",
    "usr/share/doc/whalescale/deploy.md",
    "etc/whalescale",
)
RUN = (
    "from whalescale.dataplane import engine; from whalescale import __version__; "
    "import rich.traceback, typer.rich_utils; "
    "print(engine.__file__, __version__)"
)


def missing(tree: Path) -> Iterator[str]:
    for name in EXPECTED:
        if not any((tree / found).exists() for found in both(name)):
            yield f"{name} is missing"


def both(name: str) -> tuple[str, ...]:
    """ "{usr/,}lib" as the shell reads it."""
    return (name.replace("{usr/,}", "usr/"), name.replace("{usr/,}", ""))


def paths_of_the_build(tree: Path, root: Path = ROOT) -> Iterator[str]:
    """They would make the bytes others in another folder."""
    for path in sorted(p for p in tree.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if any(f"{root}{end}".encode() in data for end in "/\0"):
            yield f"{path.relative_to(tree)} names {root}"


def data_plane(folder: Path, python: str) -> Iterator[str]:
    """`folder` has the package `whalescale`: it is whole, and runs."""
    programs = {p.name.replace(".c", ".o") for p in (ROOT / "bpf").glob("*.bpf.c")}
    there = {p.name for p in (folder / "whalescale/dataplane/bpf").glob("*.o")}
    yield from (f"eBPF program {name} is missing" for name in sorted(programs - there))
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    for words in (("-c", RUN), ("-m", "whalescale.cli", "version")):
        done = subprocess.run(
            [python, "-P", *words], cwd="/", env=env, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        told = done.stdout.strip()
        if done.returncode or deb.version() not in told:
            yield f"`{' '.join(words)}` of it: {told}{done.stderr[-500:]}"
        elif words[0] == "-c" and not told.startswith(str(folder)):
            yield f"another one's data plane runs: {told}"


def look_at_deb(path: Path, folder: Path) -> Iterator[str]:
    deb.run("dpkg-deb", "-x", path, folder)
    told = deb.run("dpkg-deb", "-f", path)
    fields = dict(re.findall(r"^(\S+): (.+)$", told, re.M))
    for name, wanted in (("Package", deb.PACKAGE), ("Version", deb.deb_version())):
        if fields.get(name) != wanted:
            yield f"{name} is {fields.get(name)}, not {wanted}"
    for library in ("python3 ", "libc6 ", "libsodium23 "):
        if library not in fields.get("Depends", ""):
            yield f"it does not depend on {library}"
    yield from missing(folder)
    yield from paths_of_the_build(folder)
    yield from data_plane(folder / deb.LIB, "/usr/bin/python3")
    # As its postinst does.
    deb.run("/usr/bin/python3", "-IS", "-m", "compileall", "-q", folder / deb.LIB)
    room = -(-sum(p.lstat().st_blocks for p in folder.rglob("*")) // 2048)
    if room > INSTALLED_MB_MAX:
        yield f"{room} MB installed and compiled, {INSTALLED_MB_MAX} are allowed"
    if shutil.which("lintian"):
        words = ("lintian", "--fail-on", "error,warning", "--allow-root", path)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            yield f"lintian: {done.stdout}{done.stderr}"


def look_at_wheel(path: Path, folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            yield f"{broken} is damaged"
            return
        archive.extractall(folder)
    if "manylinux" not in path.name:
        yield "auditwheel has not completed it"
    for metadata in folder.glob("*.dist-info/METADATA"):
        if f"\nVersion: {deb.version()}\n" not in metadata.read_text():
            yield f"its metadata have not version {deb.version()}"
    yield from paths_of_the_build(folder)
    yield from data_plane(folder, sys.executable)


def main() -> int:
    wrong = 0
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for pattern, look in (
        (f"{deb.PACKAGE}_{deb.deb_version()}_{deb.architecture(None)}.deb", look_at_deb),
        (f"{deb.PACKAGE}-{deb.version()}-{python}-*.whl", look_at_wheel),
    ):
        found = sorted((ROOT / "dist").glob(pattern), key=lambda p: p.stat().st_mtime)
        if not found:
            print(f"dist/{pattern} is missing")
            wrong += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            faults = list(look(found[-1], Path(folder)))
        print(f"{found[-1].name} ({found[-1].stat().st_size >> 10} KiB)", *faults, sep="\n  ")
        wrong += len(faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
