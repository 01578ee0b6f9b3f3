"""`ws logs`: the last lines from the agent's memory, and those that come."""

from __future__ import annotations

import time
from typing import Annotated, Any

from whalescale import locations
from whalescale.cli.common import Interface, interface_name, note
from whalescale.cli.ending import UNREACHABLE, CliError, plain
from whalescale.cli.options import Option

TAIL_LINES = 200


def logs(
    interface: Interface = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with new lines.")] = False,
) -> None:
    """Show what the agent wrote. Without a running agent: what the last one left behind."""
    from whalescale.cli import client

    name = interface_name(interface)
    try:
        with client.Connection(name) as connection:
            for result in connection.stream("logs", {"follow": follow}):
                print(format_line(result.get("line")), flush=follow)
    except CliError as e:
        if e.exit_code == UNREACHABLE and not follow:
            _print_left_behind(name)
        raise


def _print_left_behind(name: str) -> None:
    file = locations.log_file(name)
    try:
        with file.open(encoding="utf-8", errors="replace") as f:
            lines = f.readlines()[-TAIL_LINES:]
    except OSError:
        return
    note(f"the end of {file}, which the last agent left behind:")
    for line in lines:
        print(plain(line))


def format_line(line: Any) -> str:
    """One log record {"t", "level", "message"} (or a bare text) as a line."""
    if not isinstance(line, dict):
        return plain(str(line))
    at, level, message = line.get("t"), line.get("level", ""), line.get("message", "")
    stamp = ""
    if isinstance(at, int | float) and 0 <= at < 1 << 40:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(at))
    return f"{stamp}{plain(str(level)):7} {plain(str(message))}"
