"""What the figures were measured on. No names, no paths: this goes into the documentation."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

from tools.netlab import LabError, run
from tools.peers import NEWEST_GO_PEER, ROOT
from whalescale import __version__

#: the tree's folders that make a figure
MEASURED = ("bpf", "csrc", "shared", "whalescale", "tools")


def describe() -> dict[str, Any]:
    """Kernel, CPU, versions and the revision of this tree."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": memory_mb(Path("/proc/meminfo").read_text()),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "revision": revision(),
        "code": code(),
        "versions": {
            "whalescale": __version__,
            "wireguard-go": _module_version(),
            "wireguard-go-debian": _said("dpkg-query", "-W", "-f=${Version}", "wireguard-go"),
            "iperf3": _said("iperf3", "--version").partition("(")[0].removeprefix("iperf ").strip(),
            "python": platform.python_version(),
            "openssl": _said("openssl", "version"),
        },
    }


def cpu_model(cpuinfo: str) -> str:
    """Of /proc/cpuinfo; "" where it says nothing."""
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def memory_mb(meminfo: str) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) // 1000 if found else 0


def revision() -> str:
    """The commit; "+" when tracked files differ from it. "" outside a git tree."""
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if commit and changed else commit


def code() -> str:
    """What is measured, by its own hash: a change of documents or tests alone leaves it.

    "" if tracked files of it differ from the commit, or outside a git tree.
    """
    git = ("git", "-C", str(ROOT))
    trees = _said(*git, "rev-parse", *(f"HEAD:{folder}" for folder in MEASURED))
    changed = _said(*git, "status", "--porcelain", "--untracked-files=no", "--", *MEASURED)
    return hashlib.sha256(trees.encode()).hexdigest()[:12] if trees and not changed else ""


def _module_version() -> str:
    """The version that is written into the newest wireguard-go's binary."""
    said = _said("go", "version", "-m", str(NEWEST_GO_PEER))
    found = re.search(r"^\s*mod\s+\S+\s+(\S+)", said, re.MULTILINE)
    return found[1] if found else ""


def _said(*command: str) -> str:
    try:
        return run(*command, check=True).stdout.strip()
    except LabError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
