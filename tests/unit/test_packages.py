"""The parts of `make deb` and `make wheel` that need no build; a wheel in a clean environment."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tools import arm64, built, deb
from whalescale import __version__

ROOT = Path(__file__).parents[2]
SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree" / deb.LIB / "other-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Other_Thing\nVersion: 1.2\nLicense: MIT\n more of it\n\nx\n"
    )
    return tmp_path / "tree"


def test_the_sbom_names_what_is_inside(tree: Path) -> None:
    (found,) = deb.sbom(tree)["components"]
    assert found["purl"] == "pkg:pypi/other-thing@1.2"
    assert found["licenses"] == [{"license": {"name": "MIT"}}]
    assert "Other_Thing 1.2: MIT" in deb.copyright_text(tree)


def test_nothing_tells_when_it_was_built(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    deb.install_gz(tree / "a.gz", b"text")
    (tree / "b").write_text("#!/bin/sh\n")
    (tree / "b").chmod(0o775)
    deb.settle(tree)
    for path in (tree, *tree.rglob("*")):
        assert path.stat().st_mtime == 1700000000
        assert path.stat().st_mode & 0o022 == 0
    assert (tree / "a.gz").read_bytes()[4:8] == bytes(4)
    assert gzip.decompress((tree / "a.gz").read_bytes()) == b"text"


def test_one_version_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"\n' in text
    newest, *older = re.findall(r"^whalescale \((\S+)~deb\d+\)", deb.changelog(), re.M)
    assert newest == __version__ == deb.version()
    assert older[0] == "0.1.0"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_is_sound_and_ends_well(name: str) -> None:
    path = deb.FILES / name
    subprocess.run(["sh", "-n", path], check=True)
    text = path.read_text()
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert text.endswith("\nexit 0\n")


def test_no_script_takes_keys_away() -> None:
    for name in SCRIPTS:
        for line in (deb.FILES / name).read_text().splitlines():
            assert not ("rm -rf" in line and "/etc" in line), line


def test_the_command_reads_packages_of_nowhere_else() -> None:
    first = (deb.FILES / "ws").read_text().splitlines()[0]
    assert first == "#!@PYTHON@ -IS"


def test_what_is_opened_at_run_time_is_recommended() -> None:
    """dpkg-shlibdeps knows of what is linked alone."""
    code = [*(ROOT / "whalescale").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]")]
    found = {m for path in code for m in re.findall(r'"lib(\w+)\.so\.(\d+)"', path.read_text())}
    assert ("nftables", "1") in found
    for name, version in found:
        assert f"lib{name}{version}" in deb.RECOMMENDS, name


def test_the_control_file(tree: Path, tmp_path: Path) -> None:
    """Without a build: fields as dpkg reads them."""
    if shutil.which("dpkg-shlibdeps") is None:
        pytest.skip("dpkg-dev is not installed")
    if not re.search(r"^ID=debian", Path("/etc/os-release").read_text(), re.M):
        pytest.skip("not a Debian")
    extension = next((ROOT / "whalescale/dataplane").glob("_lib*.so"))
    shutil.copy(extension, tree / deb.LIB)
    work = tmp_path / "work"
    work.mkdir()
    text = deb.control(tree, work, sys.executable)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(text)
    deb.scripts(tree)
    # dpkg-deb refuses a field that it cannot read, and scripts that do not run.
    made = tmp_path / "a.deb"
    words = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(made)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    fields = subprocess.run(
        ["dpkg-deb", "-f", str(made)], capture_output=True, text=True, check=True
    ).stdout
    assert f"Version: {deb.version()}~deb" in fields
    assert f"python3 (>= 3.{sys.version_info[1]}~)" in fields
    assert "libsodium" in fields
    # of the version that the code asks for when it is compiled
    header = Path("/usr/include/intel-ipsec-mb.h")
    if header.exists():
        number = re.search(r"define IMB_VERSION_NUM 0x(\w+)", header.read_text(errors="replace"))
        assert number is not None
        assert f"libipsec-mb{int(number[1], 16) >> 16}" in fields


def test_what_a_package_lacks_is_named(tmp_path: Path) -> None:
    assert len(list(built.missing(tmp_path))) == len(built.EXPECTED)
    for name in built.EXPECTED:
        path = tmp_path / built.both(name)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert not list(built.missing(tmp_path))
    (tmp_path / "usr/bin/ws").unlink()
    assert list(built.missing(tmp_path)) == ["usr/bin/ws is missing"]


def test_a_path_of_the_build_is_found(tmp_path: Path) -> None:
    (tmp_path / "clean").write_bytes(b"\x7fELF /somewhere/else/x.c")
    assert not list(built.paths_of_the_build(tmp_path, Path("/where/it/was/built")))
    (tmp_path / "told").write_bytes(b"\x7fELF\0/where/it/was/built/csrc/x.c\0")
    (tmp_path / "whole").write_bytes(b"\x7fELF\0/where/it/was/built\0")
    told, whole = built.paths_of_the_build(tmp_path, Path("/where/it/was/built"))
    assert (told.split()[0], whole.split()[0]) == ("told", "whole")


def test_another_ones_data_plane_is_no_proof(tmp_path: Path) -> None:
    """Of a package without one: what is installed on this machine must not answer for it."""
    (tmp_path / "whalescale").mkdir()
    (tmp_path / "whalescale/__init__.py").write_text(f'__version__ = "{__version__}"\n')
    told = "\n".join(built.data_plane(tmp_path, sys.executable))
    assert "shield.bpf.o is missing" in told
    assert "No module named 'whalescale.dataplane'" in told


def test_the_builders_are_the_locks(tmp_path: Path) -> None:
    text = deb.builders_of(ROOT / "requirements.lock", tmp_path).read_text()
    names = re.findall(r"^([a-z-]+)==", text, re.M)
    assert names == list(deb.BUILDERS)
    assert text.count("--hash=sha256:") > len(names)


def test_parts_are_all_files_once() -> None:
    whole = arm64.files("tests/sim", 1, 1)
    assert len(whole) == len(list((ROOT / "tests/sim").glob("test_*.py")))
    parts = [arm64.files("tests/sim", n, 5) for n in range(1, 6)]
    assert [name for p in parts for name in p] == whole
    assert arm64.part("2/5") == (2, 5)
    for wrong in ("0/5", "6/5", "5"):
        with pytest.raises(ValueError, match=r".*"):
            arm64.part(wrong)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_wheel_runs_in_a_clean_environment(tmp_path: Path) -> None:
    subprocess.run(["make", "wheel"], cwd=ROOT, check=True, capture_output=True)
    wheel = max((ROOT / "dist").glob("whalescale-*.whl"), key=lambda p: p.stat().st_mtime)
    first = wheel.read_bytes()
    subprocess.run(["make", "wheel"], cwd=ROOT, check=True, capture_output=True)
    assert wheel.read_bytes() == first
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for words in (["version"], ["keygen"], ["doctor"]):
        done = subprocess.run(
            [tmp_path / "venv/bin/ws", *words], cwd="/", env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert "fault in whalescale" not in done.stderr
    code = (
        "from whalescale.dataplane import engine, programs; from pathlib import Path; "
        "f = Path(engine.__file__).parent; print(len(list((f / 'bpf').glob('*.o'))))"
    )
    done = subprocess.run(
        [python, "-c", code], cwd="/", env=env, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(list((ROOT / "bpf").glob("*.bpf.c")))
