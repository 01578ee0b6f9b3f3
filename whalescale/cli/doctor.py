"""`ws doctor`: checks, each with a verdict and what would mend it."""

from __future__ import annotations

from whalescale.cli.common import (
    ConfigPath,
    Interface,
    Json,
    config_path,
    console,
    interface_name,
    print_json,
)
from whalescale.cli.ending import FAILED, OK, plain


def doctor(interface: Interface = None, config: ConfigPath = None, json: Json = False) -> int:
    """Check what this machine lacks. Exit code 1 if something that is needed is missing."""
    from whalescale.cli import checks, hostchecks, interrupts

    name, path = interface_name(interface), config_path(interface, config)
    report = [*checks.system(), *checks.configuration(path), *checks.agent(name)]
    report.append(interrupts.check(checks.pid(name)))
    report += hostchecks.host(name, checks.own_datagrams(name))
    failed = sum(c.verdict == "fail" for c in report)
    if json:
        print_json({"version": 1, "ok": not failed, "checks": [c._asdict() for c in report]})
        return FAILED if failed else OK
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in report:
        table.add_row(
            Text(check.verdict, style=styles[check.verdict]),
            check.name,
            Text(plain(check.detail)),
        )
        if check.lost and check.verdict != "ok":
            table.add_row("", "", Text(f"lost: {plain(check.lost)}"))
        if check.fix and check.verdict != "ok":
            table.add_row("", "", Text(f"-> {plain(check.fix)}"))
    console().print(table)
    warned = sum(c.verdict == "warn" for c in report)
    print(f"\n{len(report) - failed - warned} ok, {warned} to look at, {failed} failed")
    return FAILED if failed else OK
