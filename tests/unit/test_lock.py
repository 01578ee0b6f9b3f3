"""requirements.lock against pyproject.toml: what root installs is what was chosen, file by file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "implementation_name": "cpython",
    "platform_machine": "x86_64",
}


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """By name: the requirement, and the SHA-256 sums of its files."""
    found = {}
    text = re.sub(r"(?m)^#.*\n", "", LOCK).replace("\\\n", " ")
    for line in text.splitlines():
        words = re.split(r"\s+--hash=", line.strip())
        if words[0]:
            requirement = Requirement(words[0])
            found[canonicalize_name(requirement.name)] = requirement, words[1:]
    return found


def dependencies() -> list[Requirement]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        texts = tomllib.load(file)["project"]["dependencies"]
    return [Requirement(t) for t in texts]


@pytest.mark.parametrize("wanted", dependencies(), ids=lambda r: r.name)
def test_each_dependency_is_locked_to_what_it_allows(wanted: Requirement) -> None:
    requirement, _ = locked()[canonicalize_name(wanted.name)]
    (version,) = requirement.specifier
    assert version.operator == "=="
    assert wanted.specifier.contains(version.version), "run tools/lock.py"


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_everything_is_pinned_by_hash(python: str) -> None:
    packages = locked()
    assert {"pip", "setuptools", "cffi"} <= packages.keys()
    for name, (requirement, hashes) in packages.items():
        assert [s.operator for s in requirement.specifier] == ["=="], name
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), name
        marker = requirement.marker or Marker("python_version > '3'")
        assert marker.evaluate({**LINUX, "python_version": python}), name


def test_it_names_no_registry() -> None:
    assert not re.search(r"https?:|--(extra-)?index|--find-links|--trusted", LOCK)


def test_the_installer_takes_nothing_else() -> None:
    script = (ROOT / "tools/venv.sh").read_text()
    (install,) = [line for line in script.splitlines() if "pip install" in line]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "-r requirements.lock" in install
    whole = (ROOT / "tools/install.sh").read_text()
    for line in whole.splitlines():
        if "pip install" in line:
            assert "--no-build-isolation" in line
            assert "--no-deps" in line
