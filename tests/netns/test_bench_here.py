"""`ws bench` by itself, whole: two namespaces, both families, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.params import first

pytestmark = [pytest.mark.netns, pytest.mark.alone]


@pytest.mark.parametrize("names", first(1, [("ping",), ("ping", "tcp16", "udp64")]))
def test_a_short_run(names: tuple[str, ...]) -> None:
    if os.geteuid() != 0 or shutil.which("iperf3") is None:
        pytest.skip("needs root and iperf3")
    words = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-m", "whalescale.cli", "bench", "--rounds", "1", "--json", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it deletes its namespaces
        process.communicate(timeout=30)
        raise
    assert process.returncode == 0, err
    found = {figure["name"]: figure for figure in json.loads(out)["figures"]}
    of_both = [f"{name}-ipv6" for name in names if name != "tcp16"]
    assert list(found) == [*names, *of_both]
    for figure in found.values():
        if not figure["skipped"]:
            assert figure["tunnel"]["median"] > 0
            assert figure["bare"]["median"] > 0
    assert "tcp16" not in found or found["tcp16"]["ratio"] < 1.5
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"wsbench{process.pid}" not in left
