"""What the running agent may still open and call: Landlock and seccomp (csrc/kernel/confine.c).

User ID 0 with few capabilities still owns nearly every file of a machine. So once all is open, the
agent keeps to the files that it needs, and the kernel refuses it what it never does. Where a
kernel lacks a part of that the tunnel works without, and `ws status` says so.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import whalescale
from whalescale import locations
from whalescale.config import Config
from whalescale.dataplane import confine
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError
from whalescale.runtime.part import Part

log = logging.getLogger(__name__)

#: programs, libraries and what the kernel tells; all of it is everybody's to read
SYSTEM: Final = ("/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/urandom", "/dev/null")
#: single files of /etc, for the C library; their folder holds secrets too
SYSTEM_FILES: Final = tuple(
    f"/etc/{name}"
    for name in ("hosts", "host.conf", "gai.conf", "nsswitch.conf", "resolv.conf", "services",
                 "protocols", "localtime", "ld.so.cache")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sandbox(Part):
    """What is in force. `landlock`: its version, 0: none; `reason`: why a part is missing."""

    name: ClassVar[str] = "sandbox"

    landlock: int = 0
    seccomp: bool = False
    reason: str = ""

    def status(self) -> dict[str, Any]:
        """The "sandbox" of whalescale/status.py."""
        return {"landlock": self.landlock, "seccomp": self.seccomp, "reason": self.reason}

    def explain(self, error: AgentError, config: Path) -> AgentError:
        """A file that may not be read: `sudo` is no help against a sandbox."""
        if not self.landlock or error.exit_code != EXIT_PERMISSION:
            return error
        folder = config.absolute().parent
        fix = f"keep it in {folder}, or restart the agent (ws down, ws up)"
        if is_shared(folder):
            fix = "restart the agent (ws down, ws up), or keep all in a folder of their own"
        message = f"{error.message}: not among what the agent may read since its start"
        return AgentError(message, fix, EXIT_PERMISSION)


def is_shared(folder: Path) -> bool:
    """Whether a folder holds so much besides that all of it is too much: /etc, a user's home."""
    return len(folder.parts) < 3 or (len(folder.parts) == 3 and folder.parts[1] == "home")


def links_of(file: Path) -> Iterator[Path]:
    """The file, and whatever it leads to by symbolic links, step by step."""
    for _ in range(8):
        yield file
        try:
            file = file.parent / os.readlink(file)
        except OSError:
            return


def configuration_paths(config: Config) -> list[Path]:
    """The folder of the configuration, which an editor may replace at any time, and key files.

    A key file elsewhere, and a configuration in a shared folder, is let in alone: once it has been
    replaced, it takes a restart to read it.
    """
    folders: list[Path] = []
    for step in links_of(config.path.absolute()):
        folders.append(step if is_shared(step.parent.resolve()) else step.parent.resolve())
    keys = [config.interface.private_key_file]
    keys += [p.preshared_key_file for p in config.peers if p.preshared_key_file is not None]
    inside = [f for f in folders if f.is_dir()]
    return folders + [k for k in keys if not any(k.resolve().is_relative_to(f) for f in inside)]


def program_paths() -> list[Path]:
    """Where Python and this package lie: modules are imported when they are first needed."""
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    places.append(str(Path(whalescale.__file__).parent))
    return [Path(p).resolve() for p in places if p and os.path.isabs(p)]


def readable(config: Config) -> list[Path]:
    found = [Path(p) for p in (*SYSTEM, *SYSTEM_FILES)]
    found += [p for p in program_paths() if not is_shared(p)]
    # Where resolv.conf is made anew by systemd-resolved, NetworkManager or resolvconf.
    target = Path("/etc/resolv.conf").resolve().parent
    if target.is_relative_to("/run") and not is_shared(target):
        found.append(target)
    return found + configuration_paths(config)


def writable(uapi_directory: Path) -> list[Path]:
    return [locations.runtime_dir(), uapi_directory, locations.state_dir()]


def enter(config: Config, uapi_directory: Path) -> Sandbox:
    """For this thread and those that it starts. Never raises: what the kernel lacks is logged."""
    landlock, seccomp, reasons = 0, False, []
    try:
        landlock = confine.restrict_files(readable(config), writable(uapi_directory))
    except OSError as e:
        missing = e.errno in (errno.ENOSYS, errno.EOPNOTSUPP)
        reasons.append("this kernel has no Landlock" if missing else e.strerror or str(e))
    try:
        confine.restrict_calls()
        seccomp = True
    except OSError as e:
        reasons.append(e.strerror or str(e))
    if reasons:
        log.warning("not as confined as could be: %s", "; ".join(reasons))
    return Sandbox(landlock, seccomp, "; ".join(reasons))


def close_doors() -> None:
    """Once the sockets are there that others connect to: for all threads. Never raises."""
    try:
        confine.close_doors()
    except OSError as e:
        log.info("new UNIX sockets stay possible: %s", e.strerror)
