"""The Debian package in clean Debians: installed, upgraded, removed, purged; built twice alike."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import clean_system
from tools.clean_system import CODENAMES
from tools.netlab import run
from tools.peers import ROOT
from whalescale import __version__

pytestmark = [pytest.mark.netns, pytest.mark.alone, pytest.mark.long]

#: the version that an upgrade comes from
BEFORE = "0.1.0"
#: of a Debian 12 or 13 that is not changed by us
INSTALLED_MB_MAX = 60


def in_system(root: Path, command: str, *, network: bool = True) -> str:
    """As root in the clean system; without the network in a network namespace of its own."""
    words = clean_system.enter(root, command)
    at = words.index("--mount")
    if not network:
        words.insert(at, "--net")
    words[-1] = words[-1].replace("cd /root/whalescale && ", "cd /root && ")
    done = subprocess.run(
        words, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


def built(debian: int) -> Path:
    """The package for a release, built in a clean system of that release (once)."""
    pattern = f"whalescale_{__version__}~deb{debian}_*.deb"
    found = sorted((ROOT / "dist").glob(pattern))
    newest = max(p.stat().st_mtime for p in (ROOT / "whalescale").rglob("*.py"))
    if not found or found[-1].stat().st_mtime < newest:
        words = (sys.executable, ROOT / "tools/clean_system.py", "--debian", debian)
        run(*words, "--take", "dist", "deb", timeout=3600)
        found = sorted((ROOT / "dist").glob(pattern))
    return found[-1]


@pytest.fixture(params=sorted(CODENAMES))
def debian(request: pytest.FixtureRequest) -> int:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return int(request.param)


@pytest.fixture
def system(debian: int) -> Iterator[Path]:
    root = clean_system.FOLDER / f"deb{debian}"
    clean_system.FOLDER.mkdir(parents=True, exist_ok=True)
    clean_system.remove(root)
    base = clean_system.base_system(debian)
    run("cp", "-a", "--reflink=auto", base, root, timeout=600)
    clean_system.configure(root, CODENAMES[debian])
    yield root
    clean_system.remove(root)


def before(package: Path, folder: Path) -> Path:
    """The package of the version before, where one was built; else the same by its number."""
    real = package.parent / package.name.replace(__version__, BEFORE)
    return real if real.exists() else older(package, folder)


def older(package: Path, folder: Path) -> Path:
    """The same by the number of the version before, to upgrade from."""
    tree = folder / "older"
    run("dpkg-deb", "-R", package, tree)
    control = tree / "DEBIAN/control"
    control.write_text(
        control.read_text().replace(f"\nVersion: {__version__}", f"\nVersion: {BEFORE}", 1)
    )
    return_to = folder / "whalescale_older.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, return_to, timeout=300)
    shutil.rmtree(tree)
    return return_to


def everything(root: Path) -> set[str]:
    folders = ("etc", "usr", "var/lib/whalescale", "run", "lib/systemd")
    ours = ("whalescale", "ws@", "bin/ws", "man1/ws.1", "_ws", "ws.fish", "completions/ws")
    found = (p for f in folders for p in (root / f).rglob("*"))
    return {str(p.relative_to(root)) for p in found if any(str(p).endswith(o) or f"{o}/" in str(p)
                                                           for o in ours)}  # fmt: skip


@pytest.mark.timeout(5400)
def test_install_upgrade_remove_purge(debian: int, system: Path, tmp_path: Path) -> None:
    package = built(debian)
    at_first = everything(system)
    room = clean_system.room_mb(system / "usr/lib")
    shutil.copy(before(package, tmp_path), system / "root/older.deb")
    shutil.copy(package, system / "root/new.deb")
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends"
    in_system(system, f"{apt} install ./older.deb")
    assert clean_system.room_mb(system / "usr/lib/whalescale") <= INSTALLED_MB_MAX
    assert clean_system.room_mb(system / "usr/lib") - room < 3 * INSTALLED_MB_MAX
    assert "whalescale " in in_system(system, "ws version")
    # One command from here to a running agent; and it is there after the upgrade.
    life = "ws init -a 10.77.0.1/24 >/dev/null && ws up && ws status && ws down"
    assert "10.77.0.1/24" in in_system(system, life, network=False)
    assert "Examples:" in in_system(system, "ws import --help")
    in_system(system, f"{apt} install ./new.deb")
    assert (system / "etc/whalescale/ws0.key").exists()
    assert "is configured" in in_system(system, "ws")
    assert not in_system(system, "dpkg --verify whalescale")
    in_system(system, f"{apt} remove whalescale")
    assert (system / "etc/whalescale/ws0.key").exists()
    assert "/etc/whalescale stay" in in_system(system, "dpkg --purge whalescale 2>&1")
    left = everything(system) - at_first
    assert left == {"etc/whalescale", "etc/whalescale/ws0.toml", "etc/whalescale/ws0.key"}


@pytest.mark.timeout(5400)
def test_two_builds_are_the_same_bytes(debian: int) -> None:
    first = hashlib.sha256(built(debian).read_bytes()).hexdigest()
    built(debian).unlink()
    assert hashlib.sha256(built(debian).read_bytes()).hexdigest() == first


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_nothing(debian: int) -> None:
    words = ("lintian", "--fail-on", "error,warning", "--allow-root", built(debian))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
