#!/usr/bin/env python3
"""Build and tests on arm64 without an arm64 machine: python -m tools.arm64 [STEP...]

Debian's arm64 packages are unpacked into build/arm64/root (nothing of them is configured: a
compiler and a Python need no more), and programs in there are run by QEMU's user emulation. Where
this machine has the cross compiler (Debian: gcc-aarch64-linux-gnu), that one compiles: a kernel
that emulates runs its own kind as well. The kernel learns of the emulator in a user namespace of
its own (binfmt_misc, Linux 6.7), so this machine is left as it is. Python packages are the wheels
for arm64 that requirements.lock names. Emulation is some twenty times slower than this machine.
Needs root, debootstrap, and the network for packages.

Steps, all unless some are named:
    build   the data plane (`setup.py build_ext`), imported
    csrc    tests of the C leaves, without sanitizers, which do not run under emulation
    unit    tests/unit, but what asks for systemd, other packages or the agent's own kernel
    sim     tests/sim; hours: `--part 2/4 sim` is a quarter of its files
    deb     the package for arm64, in dist/; `ws` from it
    refuse  a compiler that says big-endian is refused
Exit status 1: a step went wrong; its output is in build/arm64/STEP.log.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.clean_system import CODENAMES, MIRROR, PATH, apt_mirrors
from tools.netlab import LabError, run

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/arm64"
DEBIAN = 12
PYTHON = "3.11"
PACKAGES = (
    "gcc,libc6-dev,python3-dev,python3-venv,libssl-dev,liburing-dev,libsodium-dev,libbpf-dev,make,"
    "iproute2"
)
TEST_PACKAGES = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
_FOR_ARM64 = (
    *(w for n in (17, 28, 34) for w in ("--platform", f"manylinux_2_{n}_aarch64")),
    *("--platform", "manylinux2014_aarch64", "--python-version", PYTHON),
    *("--only-binary", ":all:", "--implementation", "cp"),
)
#: /proc/sys/fs/binfmt_misc/register: an ELF of 64 bits, little-endian, for aarch64; F: opened now
MAGIC = (
    r":aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
)
# The namespace's, and nobody's beside it.
ENTER = """
set -e
read go
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$1" > /proc/sys/fs/binfmt_misc/register
root=$2; cross=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
ip link set lo up
for folder in $cross; do mount --bind "$folder" "$root$folder"; done
exec chroot "$root" /usr/bin/env -i "$@"
"""
#: what QEMU's user emulation, or a machine twenty times slower, cannot show: the test, and why
LEFT_OUT = {
    "runtime/test_portmapper.py": "SO_BINDTOIFINDEX is unknown to it",
    "runtime/test_upnp.py": "the same",
    "runtime/test_house.py::test_without_liburing_the_data_planes_own_trial_decides": "no io_uring",
    "runtime/test_outside.py::test_names_are_looked_up_by_a_process_of_no_rights": "no seccomp",
    "runtime/test_netlink.py::test_addresses_routes_and_rules": "has a thread of its own",
    "protocol/test_postquantum_vectors.py::test_a_side_of_an_exchange_costs_less_than_a_"
    "millisecond": "measures",
    "runtime/test_metrics.py::test_a_thousand_peers_cost_less_than_100_ms": "measures",
    "runtime/test_wg_uapi.py::test_twenty_thousand_networks_are_set_in_a_moment": "measures",
}
DESELECT = " ".join(f"--deselect tests/unit/{name}" for name in LEFT_OUT)
# Each test's name is written as it ends: a run that takes hours may be cut short.
PYTEST = f"python3 -m pytest -vv -p no:cacheprovider --timeout 3000 -n 2 {DESELECT}"
STEPS = {
    "build": (
        "WS_CFLAGS='-Werror -g0 -ffile-prefix-map=/src=.' WS_LDFLAGS=-Wl,--build-id=none "
        "python3 setup.py -q build_ext --inplace && "
        "python3 -c 'from whalescale.dataplane import engine; print(engine.__file__)'"
    ),
    "csrc": "make -s -j2 -C tests/csrc check SANITIZE= CC=aarch64-linux-gnu-gcc",
    "unit": f"{PYTEST} tests/unit/protocol tests/unit/runtime tests/unit/test_identity.py "
    "tests/unit/test_config.py tests/unit/test_keyfiles.py",
    "sim": f"{PYTEST} tests/sim",
    # The package is made by this machine, of what `build` built, and run by the emulator.
    "deb": "/usr/bin/ws version && WHALESCALE_STATE_DIR=/tmp /usr/bin/ws init -c /tmp/ws0.toml -a "
    "10.77.0.1/24 && /usr/bin/ws pubkey < /tmp/ws0.key && cd / && PYTHONPATH=/usr/lib/whalescale "
    "python3 -c 'from whalescale.dataplane import engine; print(engine.__file__)'",
    # as a compiler for such a machine would say it
    "refuse": (
        "echo '#include \"shared/wire.h\"' | gcc -U__BYTE_ORDER__ "
        "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__ -iquote . -fsyntax-only -x c - 2>&1 "
        "| grep 'little-endian machines'"
    ),
}


def cross_compiler(root: Path) -> list[Path]:
    """Put this machine's into the system; folders that are to be seen there too, [] without one."""
    found = shutil.which("aarch64-linux-gnu-gcc")
    if found is None:
        return []
    names = [*Path("/usr/bin").glob("aarch64-linux-gnu-*"), Path("/usr/lib/gcc-cross")]
    names.append(Path("/usr/aarch64-linux-gnu"))
    for path in names:
        target = root / path.relative_to("/")
        run("rm", "-rf", target)
        run("cp", "-a", path, target, timeout=300)
    folders = [Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64")]
    for path in folders:
        (root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
    return folders


def emulator() -> Path:
    """qemu-aarch64-static, installed or unpacked here. LabError."""
    found = shutil.which("qemu-aarch64-static")
    if found:
        return Path(found)
    made = FOLDER / "qemu/usr/bin/qemu-aarch64-static"
    if not made.exists():
        folder = FOLDER / "packages"
        folder.mkdir(parents=True, exist_ok=True)
        words = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "qemu-user-static")
        subprocess.run(words, cwd=folder, check=True, timeout=600)
        run("dpkg-deb", "-x", next(folder.glob("qemu-user-static_*.deb")), FOLDER / "qemu")
    return made


def _unpack(package: Path, root: Path) -> None:
    """`dpkg-deb -x` would put a folder in the place of the link /lib."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as unpacked:
        words = ("tar", "-C", root, "-x", "--keep-directory-symlink")
        subprocess.run(words, stdin=unpacked.stdout, check=True, timeout=300)


def make_root() -> Path:
    """The unpacked system, made once."""
    root, stamp = FOLDER / "root", FOLDER / "root.made"
    if stamp.exists() and stamp.read_text() == PACKAGES:
        return root
    stamp.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    down = FOLDER / "download"
    mirror = apt_mirrors().get("Debian", MIRROR)
    run(
        *("debootstrap", "--arch=arm64", "--download-only", "--variant=minbase"),
        *(f"--include={PACKAGES}", CODENAMES[DEBIAN], down, mirror),
        timeout=1800,
    )
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((down / "var/cache/apt/archives").glob("*.deb")):
        _unpack(package, root)
    for name in ("dev", "proc", "sys", "tmp", "root", "src"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    # What the packages' scripts would have made.
    for name, target in (("sh", "dash"), ("cc", "gcc")):
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to(target)
    python_packages(root / "packages")
    stamp.write_text(PACKAGES)
    return root


def locked(folder: Path, target: Path) -> list[str | Path]:
    """pip's words for the lock's wheels for arm64. pip takes markers for this machine's, so what
    the lock has for x86-64 alone goes first."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    lock = folder / "requirements.lock"
    lock.write_text("\n".join(b for b in blocks if "== 'x86_64'" not in b) + "\n")
    return [*_FOR_ARM64, "--target", target, "--require-hashes", "--no-deps", "-r", lock]


def python_packages(target: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "install", "--upgrade")
    run(*pip, *locked(FOLDER, target), timeout=900)
    run(*pip, *_FOR_ARM64, "--target", target, *TEST_PACKAGES, timeout=900)


def copy_source(target: Path) -> None:
    """What git knows, with the changes of the work tree."""
    git = ("git", "-c", "safe.directory=*", "-C", ROOT)
    for name in run(*git, "ls-files", "-z").stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def emulated(root: Path, command: str, log: Path, seen: list[Path]) -> int:
    """The shell command in /src of the system, all of it arm64. Returns its exit status."""
    register = f"{MAGIC}{emulator()}:F"
    environment = ("HOME=/root", f"PATH={PATH}", "PYTHONPATH=/packages:/src", "LANG=C.UTF-8")
    words = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--user", "--mount", "--pid", "--net", "--fork", "--kill-child"),
        *("sh", "-c", ENTER, "sh", register, str(root), " ".join(map(str, seen)), *environment),
        *("sh", "-c", f"cd /src && {command}"),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
        )
        assert process.stdin is not None
        own = os.readlink("/proc/self/ns/user")
        while process.poll() is None and os.readlink(f"/proc/{process.pid}/ns/user") == own:
            time.sleep(0.02)
        # Everybody as themselves: files of packages have many owners.
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}", kind).write_text("0 0 4294967295")
        process.communicate(b"go\n")
        return process.returncode


def _install(root: Path) -> None:
    """Make the package, into dist/, and unpack it there."""
    run(sys.executable, ROOT / "tools/deb.py", "--arm64", root, timeout=1200)
    (package,) = (ROOT / "dist").glob("whalescale_*_arm64.deb")
    _unpack(package, root)


def part(text: str) -> tuple[int, int]:
    """Of "2/4" the numbers. ValueError, which argparse tells."""
    number, of = (int(word) for word in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


def files(folder: str, number: int, of: int) -> list[str]:
    """Of its files of tests, by name, that part: the parts together are all of them."""
    names = sorted(str(p.relative_to(ROOT)) for p in (ROOT / folder).glob("test_*.py"))
    return names[(number - 1) * len(names) // of : number * len(names) // of]


def main() -> int:
    parser = argparse.ArgumentParser(description="Build and tests on arm64, emulated.")
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], metavar="STEP")
    parser.add_argument("--command", help="this one in place of the steps")
    parser.add_argument(
        "--part", type=part, default=(1, 1), metavar="I/N", help="of the files of `sim`, the I-th"
    )
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        print("arm64: needs root (namespaces)", file=sys.stderr)
        return 4
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        root = make_root()
        copy_source(root / "src")
        seen = cross_compiler(root)
        steps = {"command": chosen.command} if chosen.command else STEPS
        wrong = 0
        for name in (None if chosen.command else chosen.steps) or steps:
            command, log = steps[name], FOLDER / f"{name}.log"
            if name == "sim" and chosen.part != (1, 1):
                command = " ".join([PYTEST, *files("tests/sim", *chosen.part)])
                log = FOLDER / "sim-{}of{}.log".format(*chosen.part)
            began = time.monotonic()
            if name == "deb":
                _install(root)
            status = emulated(root, command, log, seen)
            wrong += status != 0
            verdict = "ok" if status == 0 else f"FAILED ({status})"
            print(f"{name:8} {verdict}, {time.monotonic() - began:.0f} s", flush=True)
            lines = log.read_text(errors="replace").splitlines()
            print(*lines[-40 if status else -2 :], sep="\n", flush=True)
        return 1 if wrong else 0
    except (LabError, subprocess.SubprocessError) as error:
        print(f"arm64: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
