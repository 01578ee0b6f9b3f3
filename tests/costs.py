"""What each test costs: told at the end of a run, so that whoever makes it longer sees it.

WS_COSTS=FILE: a table of all (wall seconds, CPU seconds, test).
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tools.nursery import Nursery

SHOWN = 20
_PROPERTY = "cpu"


def cpu_seconds() -> float:
    """Of this process, of all that it has waited for, and of agents that a nursery has."""
    return sum(os.times()[:4]) + Nursery.cpu_s


class Costs:
    """CPU by test, with its fixtures and whatever processes it ended; a fixture of a whole file
    counts for that file's first test and its last. With several workers each one measures its
    own tests, and the reports carry the figures to the process that prints them."""

    def __init__(self) -> None:
        self._wall: dict[str, float] = {}
        self._cpu: dict[str, float] = {}
        self._since = cpu_seconds()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._since = cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            report.user_properties.append((_PROPERTY, cpu_seconds() - self._since))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._wall[report.nodeid] = self._wall.get(report.nodeid, 0.0) + report.duration
        if report.when == "teardown":
            spent = dict(report.user_properties).get(_PROPERTY)
            self._cpu[report.nodeid] = spent if isinstance(spent, float) else 0.0

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._wall) < SHOWN:
            return
        write = terminalreporter.write_line
        terminalreporter.section(f"the {SHOWN} longest, wall and CPU seconds")
        for nodeid, wall in sorted(self._wall.items(), key=lambda w: -w[1])[:SHOWN]:
            write(f"{wall:7.1f} {self._cpu.get(nodeid, 0.0):7.1f}  {nodeid}")
        folders: dict[str, list[float]] = {}
        for nodeid, wall in self._wall.items():
            folder = folders.setdefault(nodeid.partition("::")[0].rpartition("/")[0], [0.0, 0.0])
            folder[0] += wall
            folder[1] += self._cpu.get(nodeid, 0.0)
        terminalreporter.section("by folder, wall and CPU seconds")
        for name, (wall, cpu) in sorted(folders.items(), key=lambda f: -f[1][1]):
            write(f"{wall:7.0f} {cpu:7.0f}  {name}")
        total = sum(self._cpu.values())
        write(f"{sum(self._wall.values()):7.0f} {total:7.0f}  all {len(self._wall)} tests")
        if path := os.environ.get("WS_COSTS"):
            with open(path, "w") as out:
                for nodeid, wall in self._wall.items():
                    out.write(f"{wall:.2f}\t{self._cpu.get(nodeid, 0.0):.2f}\t{nodeid}\n")
