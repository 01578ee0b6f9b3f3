#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check who imports and includes whom: the rules of docs/architecture.md, which names each file.

    tools/check_imports.py [ROOT]

Prints one line a violation and exits 1 if there is any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "whalescale"

#: modules that any part may use: no state, no sockets, nothing of the parts themselves
SHARED = {"identity", "endpoints", "locations", "keyfiles", "status", "doubts", "config",
          "config_keys", "config_shapes", "config_values", "nft", "lean", "structs"}  # fmt: skip
#: what makes code impure: clocks, sockets, randomness, processes, files
IMPURE = {
    "asyncio", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "select",
    "selectors", "signal", "socket", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
#: outside packages that the pure core may use, beside the standard library
CRYPTO = {"cryptography", "nacl", "noise"}


#: which folders a folder of csrc/ may include from, beside its own (docs/architecture.md)
C_LAYERS: dict[str, set[str]] = {
    "shared": set(),
    "bpf": {"shared"},
    "api": set(),
    "packet": {"shared", "api"},
    "multipath": {"shared", "api", "packet"},
    "udp": {"shared", "api"},
    "kernel": {"shared", "api", "packet"},
    "worker": {"shared", "api", "packet", "udp"},
    "session": {"shared", "api", "packet", "multipath", "udp", "worker"},
    "io": {"shared", "api", "packet", "udp", "worker", "session"},
    "engine": {
        "shared", "api", "packet", "multipath", "udp", "kernel", "worker", "session", "io"
    },
}  # fmt: skip
#: layers that know nothing of sockets or of the system
C_LEAVES = {"packet", "multipath"}
C_SOCKETS = re.compile(r"sys/socket|netinet/|arpa/|linux/(?!virtio)|net/|liburing")
#: where each file stands in a table
MAP = "docs/architecture.md"
C_INCLUDE = re.compile(r'#\s*include\s*([<"])([^>"]+)[>"]')


#: inside protocol/: what only these may import
ONLY = {
    "paths": {"paths", "multipath", "types"},
    "multipath": {"parts"},
    "mesh": {"mesh", "parts"},
    "nat": {"nat", "parts"},
    "node": set(),
    "hosting": {"node"},
    "roster": {"node"},
    "session_timers": {"node", "roster"},
    "handshake": {"node", "roster", "hosting", "session_timers"},
    "core": {"node", "roster", "hosting", "session_timers", "handshake"},
    "peer": {"node", "roster", "core", "handshake", "session_timers", "registry", "indices",
             "dialing"},
}  # fmt: skip
#: know nothing of ours but each other
GROUND = {"places", "limits", "tai64n", "timers"}


@dataclass(frozen=True)
class Import:
    module: str  # dotted, absolute
    line: int


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """All imports of a file, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - (1 if is_package else 0)
                parts = parts[: len(parts) - up]
                base = ".".join([*parts, *([base] if base else [])])
            for alias in node.names:
                # `from whalescale import config` imports a module, `from x.y import name` may
                yield Import(f"{base}.{alias.name}", node.lineno)


def part_of(module: str) -> str:
    """The part of the house: "protocol", "runtime", "agent", ...; "" for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def refusal(module: str, what: Import) -> str | None:
    """Why this module may not import that; None if it may."""
    part = part_of(module)
    top = what.module.split(".")[0]
    if top == "__future__":
        return None
    if top != PACKAGE:
        if part == "protocol" or module == f"{PACKAGE}.identity":
            if top in IMPURE:
                return f"{part} is pure: {top} is an argument's business"
            if top not in sys.stdlib_module_names and top not in CRYPTO:
                return f"{part} imports the standard library and the crypto libraries only"
        if part == "dataplane" and module != f"{PACKAGE}.dataplane._build" and top == "cffi":
            return "only the build script imports cffi"
        return None
    target = part_of(what.module)
    if what.module.startswith(f"{PACKAGE}.dataplane._lib") and module != (
        f"{PACKAGE}.dataplane.engine"
    ):
        return "engine.py is the sole importer of _lib"
    if part == target == "protocol":
        return upward(module, what)
    if target in ("", part) or target.startswith("__"):
        return None
    allowed = {
        "protocol": {"identity"},
        "identity": set(),
        "dataplane": set(),
        "runtime": {"protocol", "dataplane"} | SHARED,
        "agent": {"protocol", "dataplane", "runtime"} | SHARED,
        "cli": {"tui", "bench", "trace"} | SHARED,
        "trace": {"tui"} | SHARED,
        "tui": SHARED,
    }.get(part, SHARED)
    if target in allowed:
        return None
    if module == f"{PACKAGE}.cli.foreground" and target == "agent":
        return None  # the program that `ws up` becomes
    if module in (f"{PACKAGE}.cli.checks", f"{PACKAGE}.cli.parts") and target == "dataplane":
        return None  # `ws doctor` runs the data plane's own probes, there may be no agent
    makers = (f"{PACKAGE}.cli.network", f"{PACKAGE}.cli.joining")
    if module in makers and target in ("runtime", "protocol"):
        return None  # a network is made and joined before an agent runs
    return f"{part} may import {', '.join(sorted(allowed)) or 'nothing of ours'}"


def upward(module: str, what: Import) -> str | None:
    """Why a module of the core may not import that one, which stands above it; None if it may."""
    ours, theirs = ([*m.split("."), "", ""][2] for m in (module, what.module))
    if ours in GROUND and theirs not in GROUND:
        return f"{ours} stands on the ground: it may import {', '.join(sorted(GROUND))}"
    allowed = ONLY.get(theirs)
    if allowed is None or ours in allowed:
        return None
    return f"in protocol only {', '.join(sorted(allowed)) or 'the outside'} may import {theirs}"


def check_file(path: Path, root: Path) -> list[str]:
    relative = path.relative_to(root)
    is_package = path.name == "__init__.py"
    parts = list(relative.with_suffix("").parts)
    module = ".".join(parts[:-1] if is_package else parts)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found = []
    for what in imports(tree, module, is_package):
        why = refusal(module, what)
        if why is not None:
            found.append(f"{relative}:{what.line}: imports {what.module}: {why}")
    return found


def c_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(folder, file) of each layer; csrc/whalescale.h, which only names headers, is in none."""
    for folder in C_LAYERS:
        top = root if folder in ("shared", "bpf") else root / "csrc"
        for path in sorted((top / folder).glob("*.[ch]")):
            yield folder, path


def c_refusal(folder: str, path: Path, quoted: bool, name: str) -> str | None:
    """Why a file of this folder may not include that; None if it may."""
    target = name.split("/", maxsplit=1)[0]
    if not quoted:
        if folder in C_LEAVES and C_SOCKETS.match(name):
            return "a leaf knows no sockets"
        return None
    if folder == "bpf" and (path.parent / name).exists():
        return None
    if "/" not in name or target not in C_LAYERS:
        return "an include names the file's folder"
    if target != folder and target not in C_LAYERS[folder]:
        return f"{folder} may include {', '.join(sorted(C_LAYERS[folder])) or 'no other folder'}"
    return None


def c_unit(stem: str) -> str:
    """A .c file, its header and what it shares with its likes (name_internal.h) are one."""
    return stem.removesuffix("_internal")


def circle(units: dict[str, set[str]]) -> list[str]:
    """Units (a .c file and its header are one) that include each other in a ring; [] if none."""
    done: set[str] = set()

    def walk(unit: str, way: list[str]) -> list[str]:
        if unit in way:
            return [*way[way.index(unit) :], unit]
        if unit in done:
            return []
        for other in sorted(units.get(unit, ())):
            if found := walk(other, [*way, unit]):
                return found
        done.add(unit)
        return []

    return next((found for unit in sorted(units) if (found := walk(unit, []))), [])


def unknown_folders(root: Path) -> Iterator[str]:
    """Folders that no rule speaks of."""
    for path in sorted((root / "csrc").glob("*/")):
        if path.name not in C_LAYERS and any(path.glob("*.[ch]")):
            yield f"csrc/{path.name}: which folders may it include from? C_LAYERS has to say"
    for path in sorted((root / PACKAGE / "protocol").glob("*/")):
        if path.name not in ONLY and any(path.glob("*.py")):
            yield f"{PACKAGE}/protocol/{path.name}: who may import it? ONLY has to say"


def unnamed_files(root: Path) -> Iterator[str]:
    """Files that the map does not name: whoever is new here would not find them."""
    page = root / MAP
    if not page.exists():
        return
    text = page.read_text(encoding="utf-8")
    for path in sorted([*(root / PACKAGE).rglob("*.py"), *(root / "csrc").rglob("*.c")]):
        named = f"`{path.name}`" in text or f"/{path.name}`" in text
        if not named and not path.name.startswith("__"):
            yield f"{path.relative_to(root)}: {MAP} does not name it"


def check_c(root: Path) -> list[str]:
    found = []
    units: dict[str, set[str]] = {}
    for folder, path in c_files(root):
        unit = c_unit(f"{folder}/{path.stem}")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            include = C_INCLUDE.match(line)
            if include is None:
                continue
            quoted, name = include[1] == '"', include[2]
            if why := c_refusal(folder, path, quoted, name):
                found.append(f"{path.relative_to(root)}:{number}: includes {name}: {why}")
            if quoted and (other := c_unit(name.rsplit(".", 1)[0])) != unit:
                units.setdefault(unit, set()).add(other)
    if ring := circle(units):
        found.append(f"csrc: files that include each other: {' -> '.join(ring)}")
    return found


def check(root: Path) -> list[str]:
    """One line for each violation under root/whalescale, root/csrc, root/bpf and root/shared."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    if not files:
        return [f"{root / PACKAGE}: no Python files, wrong folder?"]
    found = [line for path in files for line in check_file(path, root)] + check_c(root)
    return [*found, *unknown_folders(root), *unnamed_files(root)]


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    violations = check(root)
    for line in violations:
        print(line)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
