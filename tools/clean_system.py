#!/usr/bin/env python3
"""The README's commands on a clean, minimal Debian: `make test-clean DEBIAN=13`.

debootstrap makes the system once (build/clean/debian13); each run takes a copy of it, clones the
last commit into it and runs the steps there as its root, with an empty environment (`env -i`) and
mount and process namespaces of its own. The network is this machine's, for the package registries:
apt's mirror, pip's index, proxies and certificates are taken over where this machine has any.
Needs root and debootstrap. Exit status 1: a step failed or took too much room.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.netlab import LabError, run, terminate_as_exception

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/clean"
CODENAMES = {12: "bookworm", 13: "trixie"}
MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
#: What the README has a newcomer install.
PACKAGES = "ca-certificates,git,make"
BASE_DAYS = 7
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: of pip's options, those that say where packages are and how they are reached
PIP_OPTIONS = (
    *("index-url", "extra-index-url", "trusted-host", "cert", "proxy"),
    *("timeout", "default-timeout", "retries"),
)
PROXIES = ("http_proxy", "https_proxy", "no_proxy")

# The root is made a mount point, which `ip netns exec` and `unshare -m` ask for, and the only one
# that there is: by chroot alone, `nsenter -m` would lead out, to this machine's own files.
ENTER = """
set -e
root=$1; shift
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=0755 tmpfs run
pivot_root . mnt
cd /
umount -l /mnt
exec /usr/bin/env -i "$@"
"""


@dataclass(frozen=True, slots=True)
class Step:
    command: str
    #: the room that the set-up of everything so far may take, 0: not looked at
    most_mb: int = 0


STEPS = {
    "demo": Step("make demo", 500),
    "setup": Step("make setup", 1000),
    "test": Step("make test"),
    "ci": Step("bash .ci/run"),
    "deb": Step("make deb"),
    "packages": Step("make packages"),
}


def apt_mirrors() -> dict[str, str]:
    """Where this machine gets its Debian from, by the label of the archive."""
    if shutil.which("apt-get") is None:
        return {}
    shown = run(
        *("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"),
        check=False,
    )
    lines = (line.split() for line in shown.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def apt_sources(codename: str, mirrors: Mapping[str, str]) -> str:
    main = mirrors.get("Debian", MIRROR)
    security = mirrors.get("Debian-Security", SECURITY)
    return (
        f"deb {main} {codename} main\n"
        f"deb {main} {codename}-updates main\n"
        f"deb {security} {codename}-security main\n"
    )


def apt_options(dump: str) -> list[str]:
    """Of `apt-config dump`, how archives are reached: proxies, certificates, time-outs, tries."""
    kept = ("Acquire::http", "Acquire::https", "Acquire::Retries")
    return [line for line in dump.splitlines() if line.startswith(kept) and not _empty(line)]


def _empty(line: str) -> bool:
    return line.endswith(' "";')


def pip_options(files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, str]:
    """What these files and PIP_* variables say of where packages come from; the latter win."""
    found: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= dict(parser.items(section))
    for name, value in environment.items():
        if name.startswith("PIP_"):
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return {name: found[name] for name in PIP_OPTIONS if found.get(name)}


def _copy_in(root: Path, path: Path) -> None:
    if path.is_absolute() and path.is_file():
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def configure(root: Path, codename: str) -> None:
    """Tell the system how this machine reaches the registries."""
    (root / "etc/apt/sources.list").write_text(apt_sources(codename, apt_mirrors()))
    for path in (Path("/etc/resolv.conf"), Path("/etc/hosts")):
        _copy_in(root, path)
    own = Path("/usr/local/share/ca-certificates")
    if own.is_dir() and any(own.iterdir()):
        shutil.copytree(own, root / own.relative_to("/"), dirs_exist_ok=True)
        run("chroot", root, "update-ca-certificates")
    lines = []
    if shutil.which("apt-config"):
        lines = apt_options(run("apt-config", "dump").stdout)
        (root / "etc/apt/apt.conf.d/90host").write_text("".join(f"{line}\n" for line in lines))
    home = Path.home()
    files = (Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf")
    options = pip_options(files, os.environ)
    if options:
        text = "".join(f"{name} = {value}\n" for name, value in options.items())
        (root / "etc/pip.conf").write_text(f"[global]\n{text}")
    # Certificates that these name lie where they say.
    for value in (*options.values(), *(line.split('"')[1] for line in lines)):
        _copy_in(root, Path(value))
    # It is thrown away: no need to wait for its disk.
    (root / "etc/dpkg/dpkg.cfg.d/90host").write_text("force-unsafe-io\n")
    # As who just installed git and make has done; apt's lists are no part of the room.
    run("chroot", root, "apt-get", "-q", "update", timeout=300)


def base_system(debian: int) -> Path:
    """The folder with the minimal system, made when it is missing or old."""
    base = FOLDER / f"debian{debian}"
    stamp = FOLDER / f"debian{debian}.made"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < BASE_DAYS * 86400:
        return base
    run(ROOT / "tools/apt.sh", "clean", timeout=600)
    remove(base)
    stamp.unlink(missing_ok=True)
    words = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", CODENAMES[debian])
    run(*words, base, apt_mirrors().get("Debian", MIRROR), timeout=1800)
    run("chroot", base, "apt-get", "clean")
    stamp.touch()
    return base


def clone(target: Path) -> None:
    """The last commit, as `git clone` would give it, whoever owns this folder."""
    bundle = FOLDER / "source.bundle"
    git = ("git", "-c", "safe.directory=*")
    if run(*git, "-C", ROOT, "status", "--porcelain").stdout:
        print("  what is not committed here is not tried", flush=True)
    run(*git, "-C", ROOT, "bundle", "create", "-q", bundle, "HEAD")
    run("git", "init", "-q", target)
    run("git", "-C", target, "fetch", "-q", bundle, "HEAD")
    run("git", "-C", target, "checkout", "-q", "-b", "main", "FETCH_HEAD")
    bundle.unlink()


def remove(root: Path) -> None:
    """LabError: something of this machine is mounted in there."""
    if f" {root}" in Path("/proc/self/mounts").read_text():
        raise LabError(f"{root} has mounts; unmount them first")
    shutil.rmtree(root, ignore_errors=True)


def room_mb(root: Path) -> int:
    return int(run("du", "-sxm", root, timeout=300).stdout.split()[0])


def enter(root: Path, command: str) -> list[str]:
    """The words that run a shell command in the clone, in the system, in an empty environment."""
    proxies = (name for lower in PROXIES for name in (lower, lower.upper()))
    environment = ["HOME=/root", f"PATH={PATH}"]
    environment += [f"{name}={os.environ[name]}" for name in proxies if name in os.environ]
    return [
        *("setpriv", "--pdeathsig", "TERM"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"),
        *(str(root), *environment, "sh", "-c", f"cd /root/whalescale && {command}"),
    ]


def largest(root: Path) -> Iterator[str]:
    """What takes the room, for a set-up that takes too much."""
    folders = ("usr", "var/cache", "var/lib/apt", "root/.cache")
    clone_parts = ("root/whalescale/.venv", "root/whalescale/build")
    for name in (*folders, *clone_parts):
        if (root / name).exists():
            yield f"{room_mb(root / name)} MB {name}"


def trial(debian: int, steps: Sequence[str], root: Path) -> int:
    """Run the steps in a new system in the folder `root`. Returns how many of them went wrong."""
    print(f"Debian {debian} ({CODENAMES[debian]})", flush=True)
    run("cp", "-a", "--reflink=auto", base_system(debian), root, timeout=600)
    configure(root, CODENAMES[debian])
    clone(root / "root/whalescale")
    before = room_mb(root)
    print(f"  {before} MB before anything", flush=True)
    wrong = 0
    for name in steps:
        step = STEPS[name]
        log = FOLDER / f"debian{debian}-{name}.log"
        began = time.monotonic()
        with log.open("wb") as out:
            done = subprocess.run(
                enter(root, step.command),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        took, more = time.monotonic() - began, room_mb(root) - before
        fits = not step.most_mb or more <= step.most_mb
        verdict = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
        verdict += "" if fits else f", more than {step.most_mb} MB"
        print(f"  {step.command:<14} {verdict}, {took:.0f} s, {more} MB so far, {log}", flush=True)
        if done.returncode:
            print(*log.read_text(errors="replace").splitlines()[-40:], sep="\n", flush=True)
        if not fits:
            print(*largest(root), sep="\n", flush=True)
        wrong += done.returncode != 0 or not fits
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--debian", type=int, default=13, choices=CODENAMES)
    parser.add_argument("--take", metavar="FOLDER", help="copy it out of the clone afterwards")
    parser.add_argument("--keep", action="store_true", help="leave the system in build/clean")
    parser.add_argument("steps", nargs="*", default=["demo", "setup", "test"], metavar="STEP")
    options = parser.parse_args()
    unknown = set(options.steps) - set(STEPS)
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if os.geteuid() != 0:
        print("clean_system: a system of its own needs root", file=sys.stderr)
        return 1
    terminate_as_exception()
    FOLDER.mkdir(parents=True, exist_ok=True)
    root = FOLDER / f"root{options.debian}"
    try:
        remove(root)
        wrong = trial(options.debian, options.steps, root)
        if options.take and not wrong:
            made = root / "root/whalescale" / options.take
            shutil.copytree(made, ROOT / options.take, dirs_exist_ok=True)
            print(*(f"  {ROOT / options.take / p.name}" for p in sorted(made.iterdir())), sep="\n")
        return 1 if wrong else 0
    except LabError as error:
        print(f"clean_system: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not options.keep:
            remove(root)


if __name__ == "__main__":
    sys.exit(main())
