#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`make deb`: dist/whalescale_VERSION~debNN_ARCH.deb for the Debian that this runs on.

The package brings every Python package that requirements.lock names, in /usr/lib/whalescale, for
the Python of this Debian (3.11 in 12, 3.13 in 13: extensions are built for one of them, so each
release has a package of its own); C libraries are Debian's. Nothing is fetched that the lock does
not have by its hash. Two builds of one commit give the same bytes: times are the commit's, the
order is that of names, and no path of the build is left in what was compiled.

    tools/deb.py [--python /usr/bin/python3] [--out dist] [--arm64 SYSTEM]

With --arm64 it is for arm64: SYSTEM has the data plane, built by `python -m tools.arm64 build`.
Needs dpkg-dev, binutils and what `tools/apt.sh build bpf` installs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import arm64

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "whalescale"
FILES = ROOT / "tools/debian"
LIB = Path("usr/lib/whalescale")
DOC = Path("usr/share/doc/whalescale")
MAINTAINER = "Whalescale maintainers <maintainers@whalescale.invalid>"
#: libraries bound at run time where they are there (dlopen), and what commands call
RECOMMENDS = ("libbpf1", "libnftables1", "iproute2", "iputils-ping")
SUGGESTS = ("nftables", "wireguard-tools", "python3-bpfcc")
#: of the tree, what an administrator reads
DOCS = ("README.md", "SECURITY.md", "docs/deploy.md", "docs/troubleshooting.md",
        "docs/security.md", "docs/grafana/README.md", "docs/grafana/alerts.yml",
        "docs/grafana/whalescale.json")  # fmt: skip
#: what a package of another one's brings and nobody runs
LEFT_OUT = ("bin", "share", "__pycache__", "pip", "setuptools", "pkg_resources", "_distutils_hack",
            "distutils-precedence.pth", "pycparser", "examples")  # fmt: skip

#: pygments, with which rich would colour code if anybody here showed some, knows 500 languages: 8
#: MB of the installed size. What is imported stays.
LEXERS = ("__init__.py", "_mapping.py", "python.py", "special.py")
#: of the lock, what compiles the data plane
BUILDERS = ("cffi", "pip", "pycparser", "setuptools")


def run(*words: str | Path, **more: Any) -> str:
    done = subprocess.run(
        [str(w) for w in words], check=False, stdout=subprocess.PIPE, text=True, **more
    )
    if done.returncode:
        raise SystemExit(f"deb: `{' '.join(map(str, words))}` failed ({done.returncode})")
    return str(done.stdout)


def version() -> str:
    text = (ROOT / "whalescale/__init__.py").read_text()
    found = re.search(r'__version__ = "([^"]+)"', text)
    assert found is not None
    return found[1]


def release() -> str:
    """VERSION_ID of os-release: "12", "13"."""
    found = re.search(r'^VERSION_ID="?(\d+)', Path("/etc/os-release").read_text(), re.M)
    if found is None:
        raise SystemExit("deb: no Debian release in /etc/os-release; build it on Debian 12 or 13")
    return found[1]


def epoch() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    git = ("git", "-c", "safe.directory=*", "-C", str(ROOT))
    return int(run(*git, "log", "-1", "--format=%ct"))


# what goes in


def packages(python: str, tree: Path, work: Path, system: Path | None) -> None:
    """Everything of the lock, and ourselves, for this Python; `system`: of arm64, with ours."""
    lib = tree / LIB
    env = {
        **os.environ,
        "TMPDIR": str(work / "tmp"),
        "WS_CFLAGS": f"-Werror -g0 -ffile-prefix-map={ROOT}=.",
        # It would be made of the paths in the debugging information too.
        "WS_LDFLAGS": "-Wl,--build-id=none",
        "SOURCE_DATE_EPOCH": str(epoch()),
    }
    (work / "tmp").mkdir()
    venv = work / "venv"
    run(python, "-m", "venv", venv)
    pip = (venv / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    lock = ROOT / "requirements.lock"
    locked: tuple[str | Path, ...] = ("--require-hashes", "--only-binary", ":all:", "-r")
    # For arm64 `libraries` looks at all of this machine's.
    builders = builders_of(lock, work) if system is None else lock
    run(*pip, "install", "--no-deps", *locked, builders, env=env)
    locked = (*locked, lock)
    if system is None:
        run(*pip, "install", "--no-compile", "--target", lib, *locked, env=env)
    else:
        run(*pip, "install", "--no-compile", *arm64.locked(work, lib), env=env)
    source = work / "source"
    copy_source(source)
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", work / "wheel", source, env=env)
    (wheel,) = (work / "wheel").glob("*.whl")
    shutil.rmtree(lib / "bin", ignore_errors=True)
    run(*pip, "install", "--no-compile", "--no-deps", "--target", lib, wheel, env=env)
    if system is not None:
        ours = lib / "whalescale/dataplane"
        for path in ours.glob("_lib*.so"):
            path.unlink()
        (built,) = (system / "src/whalescale/dataplane").glob("_lib*.so")
        shutil.copyfile(built, ours / built.name)
    for name in LEFT_OUT:
        for path in (lib / name, *lib.glob(f"{name}-*.dist-info")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in (lib / "pygments/lexers").glob("*.py"):
        if path.name not in LEXERS:
            path.unlink()
    for path in sorted(lib.rglob("*")):
        if path.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            path.unlink()  # of pip, with the paths of this build
        elif path.suffix in (".pyi", ".c", ".h", ".pyx", ".pxd") or path.name == "py.typed":
            path.unlink()
        elif path.name in ("__pycache__", "tests") and path.is_dir():
            shutil.rmtree(path)
    for path in lib.rglob("*.so*"):
        strip = "strip" if system is None else "aarch64-linux-gnu-strip"
        run(strip, "--strip-unneeded", "--remove-section=.comment", path)
        path.chmod(0o644)


def builders_of(lock: Path, work: Path) -> Path:
    blocks = re.split(r"\n(?=\S)", lock.read_text())
    chosen = [b for b in blocks if b.split("==")[0] in BUILDERS]
    if len(chosen) != len(BUILDERS):
        raise SystemExit(f"deb: {lock.name} has not all of {', '.join(BUILDERS)}")
    path = work / "builders.lock"
    path.write_text("\n".join(chosen) + "\n")
    return path


def copy_source(target: Path) -> None:
    """What git knows, and the eBPF programs, in a folder whose name is the same each time."""
    git = ("git", "-c", "safe.directory=*", "-C", str(ROOT))
    for name in run(*git, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    objects = ROOT / "whalescale/dataplane/bpf"
    if not list(objects.glob("*.bpf.o")):
        raise SystemExit("deb: no eBPF programs here; `make build` makes them (needs clang)")
    shutil.copytree(objects, target / "whalescale/dataplane/bpf", dirs_exist_ok=True)


def files(tree: Path, python: str) -> None:
    """All but the Python packages."""
    install(tree / "usr/bin/ws", (FILES / "ws").read_text().replace("@PYTHON@", python), 0o755)
    unit = (ROOT / "tools/systemd/ws@.service").read_text().replace("@WS@", "/usr/bin/ws")
    units = "lib" if release() == "12" else "usr/lib"  # lintian of each wants its own
    install(tree / units / "systemd/system/ws@.service", unit)
    page = (ROOT / "docs/man/ws.1").read_bytes()
    install_gz(tree / "usr/share/man/man1/ws.1.gz", page)
    env = {**os.environ, "PYTHONPATH": str(tree / LIB), "PYTHONDONTWRITEBYTECODE": "1"}
    for shell, path in (
        ("bash", "usr/share/bash-completion/completions/ws"),
        ("zsh", "usr/share/zsh/vendor-completions/_ws"),
        ("fish", "usr/share/fish/vendor_completions.d/ws.fish"),
    ):
        words = (python, "-m", "whalescale.cli", "--show-completion", shell)
        install(tree / path, run(*words, env=env, cwd="/"))
    for name in DOCS:
        flat = name.removeprefix("docs/").replace("grafana/README.md", "grafana/README.md")
        install(tree / DOC / flat, (ROOT / name).read_text())
    install_gz(tree / DOC / "changelog.gz", changelog().encode())
    install(tree / DOC / "copyright", copyright_text(tree))
    install(tree / DOC / "sbom.cdx.json", json.dumps(sbom(tree), indent=1, sort_keys=True) + "\n")
    install(tree / "usr/share/lintian/overrides/whalescale", (FILES / "overrides").read_text())
    (tree / "etc/whalescale").mkdir(parents=True)


def install(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def install_gz(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def changelog() -> str:
    """Debian's form of CHANGELOG.md (deb-changelog(5)): of each version what its section begins
    with. The newest has the time of the build, which is that of the commit."""
    import email.utils
    import textwrap
    from datetime import UTC, datetime

    found = []
    text = (ROOT / "CHANGELOG.md").read_text()
    for match in re.finditer(r"^## ([0-9.]+) \(([0-9-]+)\)\n\n(.+?)\n\n", text, re.M | re.S):
        number, day, told = match.groups()
        newest = number == version()
        when = epoch() if newest else datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        items = textwrap.fill(
            " ".join(told.split()), 78, initial_indent="  * ", subsequent_indent="    "
        )
        found.append(
            f"{PACKAGE} ({number}~deb{release()}) unstable; urgency=medium\n\n{items}\n\n"
            f" -- {MAINTAINER}  {email.utils.formatdate(when)}\n"
        )
    if not found or not found[0].startswith(f"{PACKAGE} ({deb_version()})"):
        raise SystemExit(f"deb: CHANGELOG.md has no section of {version()} at its top")
    return "\n".join(found)


def deb_version() -> str:
    return f"{version()}~deb{release()}"


def distributions(tree: Path) -> list[dict[str, str]]:
    """Of what is inside: name, version, licence, as its metadata says."""
    from email.parser import HeaderParser

    found = []
    for path in sorted((tree / LIB).glob("*.dist-info/METADATA")):
        told = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        licence = told.get("License-Expression") or (told.get("License") or "").split("\n")[0]
        if not licence:
            kinds = [c for c in told.get_all("Classifier", []) if c.startswith("License ::")]
            licence = kinds[0].split(" :: ")[-1] if kinds else "see its files"
        found.append({"name": told["Name"], "version": told["Version"], "licence": licence[:80]})
    return found


def sbom(tree: Path) -> dict[str, Any]:
    """CycloneDX 1.5: what is inside, and where it is from."""
    components = [
        {
            "type": "library",
            "name": d["name"],
            "version": d["version"],
            "purl": f"pkg:pypi/{d['name'].lower().replace('_', '-')}@{d['version']}",
            "licenses": [{"license": {"name": d["licence"]}}],
        }
        for d in distributions(tree)
        if d["name"] != PACKAGE
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": PACKAGE, "version": deb_version()}
        },
        "components": components,
    }


def copyright_text(tree: Path) -> str:
    mit = (ROOT / "LICENSE").read_text().strip()
    body = "\n".join(f" {line}" if line.strip() else " ." for line in mit.splitlines()[2:])
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: whalescale",
        "Comment: Under /usr/lib/whalescale lie these packages of others, each with its licence in",
        " its .dist-info folder:",
        *(f"  {d['name']} {d['version']}: {d['licence']}" for d in distributions(tree)
          if d["name"] != PACKAGE),
        "",
        "Files: *",
        f"Copyright: {mit.splitlines()[2] if len(mit.splitlines()) > 2 else '2026'}".replace(
            "Copyright: Copyright (c) ", "Copyright: "
        ),
        "License: Expat",
        body,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


# the package


def control(tree: Path, work: Path, python: str, system: Path | None = None) -> str:
    found = run(python, "-c", "import sys; print(*sys.version_info[:2])").split()
    minor = int(found[1])
    depends = [
        f"python3 (>= 3.{minor}~)",
        f"python3 (<< 3.{minor + 1}~)",
        *libraries(tree, work, system),
    ]
    kib = sum(-(-p.lstat().st_size // 1024) for p in tree.rglob("*") if p.is_file())
    lines = [
        f"Package: {PACKAGE}",
        f"Version: {deb_version()}",
        f"Architecture: {architecture(system)}",
        f"Maintainer: {MAINTAINER}",
        f"Installed-Size: {kib}",
        f"Depends: {', '.join(depends)}",
        f"Recommends: {', '.join(recommends() if system is None else RECOMMENDS)}",
        f"Suggests: {', '.join(SUGGESTS)}",
        "Section: net",
        "Priority: optional",
        "Description: peer-to-peer multipath VPN that is WireGuard on the wire",
        " Whalescale joins your own machines into a private network, with no server",
        " of others in the middle. Any WireGuard peer can be on the other end; between",
        " two Whalescale nodes one session uses every link that both hosts have,",
        " packet by packet.",
        " .",
        " The agent runs as ws@NAME.service; ws(1) sets it up and watches it.",
    ]
    return "\n".join(lines) + "\n"


def architecture(system: Path | None) -> str:
    return run("dpkg", "--print-architecture").strip() if system is None else "arm64"


def recommends() -> list[str]:
    """With the cipher's library of the version compiled against, where the architecture has it:
    libipsec-mb1 in Debian 12, libipsec-mb2 in 13."""
    words = ("dpkg-query", "-W", "-f", "${Depends}", "libipsec-mb-dev")
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    found = re.search(r"\blibipsec-mb\d+", done.stdout)
    return [*([found[0]] if found else []), *RECOMMENDS]


def libraries(tree: Path, work: Path, system: Path | None = None) -> list[str]:
    """What the extensions are linked against, as dpkg-shlibdeps finds it. For arm64, whose packages
    are not installed here, what it finds of this machine's build: of one release the same."""
    stage = work / "shlibs"
    (stage / "debian").mkdir(parents=True)
    (stage / "debian/control").write_text(
        f"Source: {PACKAGE}\n\nPackage: {PACKAGE}\nArchitecture: any\n"
    )
    folders = [tree / LIB] if system is None else [work / "venv/lib", ROOT / "whalescale"]
    objects = sorted(str(p) for folder in folders for p in folder.rglob("*.so*"))
    out = run("dpkg-shlibdeps", "-O", "--ignore-missing-info", *(f"-e{o}" for o in objects),
              cwd=stage, stderr=subprocess.DEVNULL)  # fmt: skip
    found = re.search(r"^shlibs:Depends=(.+)$", out, re.M)
    return found[1].split(", ") if found else []


def scripts(tree: Path) -> None:
    for name in ("postinst", "prerm", "postrm"):
        install(tree / "DEBIAN" / name, (FILES / name).read_text(), 0o755)


def sums(tree: Path) -> Iterator[str]:
    import hashlib

    for path in sorted(p for p in tree.rglob("*") if p.is_file()):
        name = path.relative_to(tree)
        if name.parts[0] != "DEBIAN":
            yield f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n"


def settle(tree: Path) -> None:
    """Modes as Debian wants them, and one time for all."""
    when = epoch()
    for path in (tree, *tree.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        else:
            runs = path.stat().st_mode & 0o100 and tree / LIB not in path.parents
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (when, when))


def build(python: str, out: Path, system: Path | None = None) -> Path:
    work = ROOT / "build/deb"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    tree.mkdir(parents=True)
    packages(python, tree, work, system)
    files(tree, python)
    (tree / "DEBIAN").mkdir()
    install(tree / "DEBIAN/control", control(tree, work, python, system))
    scripts(tree)
    install(tree / "DEBIAN/md5sums", "".join(sums(tree)))
    settle(tree)
    out.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    name = f"{PACKAGE}_{deb_version()}_{architecture(system)}.deb"
    # One thread: how many there are shows in the bytes.
    words = ("--root-owner-group", "-Zxz", "--threads-max=1", "--build", tree, out / name)
    run("dpkg-deb", *words, env=env)
    return out / name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--arm64", type=Path, metavar="SYSTEM")
    options = parser.parse_args(arguments)
    made = build(options.python, options.out, options.arm64)
    print(f"{made} ({made.stat().st_size >> 10} KiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
