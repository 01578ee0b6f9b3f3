"""Where things lie. Standard library only, so that the `ws` command starts fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DEFAULT_INTERFACE: Final = "ws0"
CONFIG_DIR: Final = Path("/etc/whalescale")
STATE_DIR: Final = Path("/var/lib/whalescale")


def runtime_dir() -> Path:
    """/run/whalescale, or what WHALESCALE_RUNTIME_DIR says."""
    return Path(os.environ.get("WHALESCALE_RUNTIME_DIR") or "/run/whalescale")


def state_dir() -> Path:
    """/var/lib/whalescale, or what WHALESCALE_STATE_DIR says."""
    return Path(os.environ.get("WHALESCALE_STATE_DIR") or STATE_DIR)


def control_socket(interface: str) -> Path:
    """The agent's control socket (UNIX stream, JSON lines)."""
    return runtime_dir() / f"{interface}.sock"


def metrics_socket(interface: str) -> Path:
    """Where metrics are told with [metrics] listen = "unix" (HTTP)."""
    return runtime_dir() / f"{interface}.metrics"


def log_file(interface: str) -> Path:
    """What an agent started in the background by `ws up` writes."""
    return runtime_dir() / f"{interface}.log"


def config_file(interface: str) -> Path:
    """/etc/whalescale/<interface>.toml"""
    return CONFIG_DIR / f"{interface}.toml"


def store_file(interface: str) -> Path:
    """What is kept of a network (SQLite); there is none where this machine is in no network."""
    return state_dir() / f"{interface}.db"


def exit_table(interface: str) -> str:
    """The nftables table (family inet) that keeps traffic from going past the exit."""
    return f"whalescale-{interface}-exit"
