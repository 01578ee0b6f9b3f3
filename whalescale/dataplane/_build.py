"""cffi API-mode build of the data plane (run by setup.py)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
#: where `#include "..."` looks: csrc/FOLDER, and shared/, which is the programs' of bpf/ too
INCLUDES = ("csrc", ".")


def cdef_text(name: str = "whalescale.h", seen: set[str] | None = None) -> str:
    """What whalescale.h includes of api/, each header once and behind those that it includes.

    Without directives; of whalescale.h itself nothing.
    """
    seen = set() if seen is None else seen
    seen.add(name)
    parts, lines = [], []
    for line in (CSRC / name).read_text().splitlines():
        include = re.match(r'#include "(api/\w+\.h)"', line)
        if include and include[1] not in seen:
            parts.append(cdef_text(include[1], seen))
        if name != "whalescale.h" and not line.startswith("#"):
            lines.append(line)
    return "\n".join([*parts, *lines])


def sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in CSRC.rglob("*.c"))


def objects() -> list[str]:
    """Those of all sources, where WS_OBJECTS names the folder of somebody who compiled them."""
    folder = os.environ.get("WS_OBJECTS")
    if not folder:
        return []
    return [str(Path(folder, Path(name).stem + ".o")) for name in sources()]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def whole_program() -> list[str]:
    """Arguments that let calls between files be inlined, where the tools can: a packet goes through
    some ten files, and one TCP flow is 7 % slower without.
    """
    if "-fsanitize" in os.environ.get("WS_CFLAGS", ""):
        return []
    with tempfile.TemporaryDirectory() as folder:
        probe = [*compiler(), "-O2", "-flto=auto", "-shared", "-fPIC", "-x", "c", "/dev/null"]
        probe += ["-o", f"{folder}/probe.so"]
        failed = subprocess.run(probe, capture_output=True, check=False).returncode
    return [] if failed else ["-flto=auto"]


def hardening() -> list[str]:
    """Compiler arguments that turn an overflow into an abort.

    Not under a sanitizer: it finds more, and does not know the C library's checked functions.
    """
    if "-fsanitize" in os.environ.get("WS_CFLAGS", ""):
        return []
    probe = [*compiler(), "-O2", "-Werror", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
    probe += ["-include", "features.h", "-x", "c", "-E", "/dev/null"]
    # Level 3 takes gcc 12; glibc warns where it is not to be had.
    level = 2 if subprocess.run(probe, capture_output=True, check=False).returncode else 3
    return ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", f"-D_FORTIFY_SOURCE={level}"]


LTO = whole_program()
OBJECTS = objects()

ffibuilder = cffi.FFI()
ffibuilder.cdef(cdef_text())
ffibuilder.set_source(
    "whalescale.dataplane._lib",
    '#include "whalescale.h"',
    sources=[] if OBJECTS else sources(),
    extra_objects=OBJECTS,
    depends=[
        str(p.relative_to(ROOT))
        for folder in ("csrc", "shared")
        for p in (ROOT / folder).rglob("*.h")
    ],
    libraries=["uring", "crypto", "sodium"],
    define_macros=[("_GNU_SOURCE", "1")],
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-g",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        *(word for folder in INCLUDES for word in ("-iquote", folder)),
        *hardening(),
        *LTO,
        *os.environ.get("WS_CFLAGS", "").split(),
    ],
    extra_link_args=[
        *(["-O3", "-Wno-error", *LTO] if LTO else []),
        "-Wl,-z,relro,-z,now",
        *os.environ.get("WS_LDFLAGS", "").split(),
    ],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
