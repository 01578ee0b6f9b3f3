"""`make demo`, `make demo-network` and `make demo-nat` as a whole, without a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.peers import ROOT

pytestmark = pytest.mark.netns


def demo(
    *words: str | Path, path: str = "", tool: str = "demo.py"
) -> subprocess.CompletedProcess[str]:
    """Runs it. `path`: a folder that comes before the usual ones of PATH."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=env
    ) as process:
        out, err = process.communicate(timeout=150)
    assert "Traceback" not in out + err
    folder = Path("/run/netns")
    left = os.listdir(folder) if folder.is_dir() else []
    assert not [name for name in left if name.startswith(f"ws{process.pid}-")]
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.alone
@pytest.mark.slow
def test_one_download_over_both_links_survives_a_cut(tmp_path: Path) -> None:
    png = tmp_path / "demo.png"
    done = demo("--megabytes", "60", "--png", png)
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for alone in (r"5G alone \(.*?([\d.]+) Mbit/s │", r"WiFi alone \(.*?([\d.]+) Mbit/s │"):
        found = re.search(alone, said)
        assert found is not None, said
        assert float(found[1]) > 5
    assert "60 MB over both, with the cut" in said
    assert "% of the sum" in said
    assert "SHA-256 of what came" in said
    assert "ping beside the download" in said
    paths, _, rest = said.partition("ws paths on the server, after the download")
    during = paths.partition("while the 5G link is cut\n")[2]
    assert re.search(r"0  wwan0 +failed", during), said
    assert re.search(r"1  wlan0 +(healthy|degraded)", during), said
    assert re.search(r"0  wwan0 ", rest), said
    assert f"\n{png}\n" in said
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_step_that_fails_is_said_and_cleaned_up(tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\necho 'curl: no luck today' >&2\nexit 7\n")
    curl.chmod(0o755)
    done = demo("--megabytes", "60", "--png", tmp_path / "demo.png", path=str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "demo: FAILED:" in done.stdout
    assert "no luck today" in " ".join(done.stdout.split())
    assert "everything worked" not in done.stdout


def test_a_picture_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = demo("--png", tmp_path / "file" / "demo.png")
    assert done.returncode == 1
    assert "--png" in done.stdout
    assert "two hosts" not in done.stdout


def test_a_file_too_short_for_the_cut_is_refused() -> None:
    done = demo("--megabytes", "5")
    assert done.returncode == 2
    assert "60 or more" in done.stderr


@pytest.mark.long
@pytest.mark.slow
def test_a_network_of_five_survives_what_happens_to_it(tmp_path: Path) -> None:
    png = tmp_path / "demo-network.png"
    done = demo("--png", png, tool="demo_network.py")
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for figure in (
        "phone joins: known to all 5",
        "names resolved",
        "laptop moves: heard by all",
        "phone revoked: gone everywhere",
        "cloud dies: home says so after",
        "cloud back, knows of the phone",
    ):
        assert figure in said
    members = said.partition("ws members at home")[2]
    assert re.search(r"cloud +100\.\S+ +anchor +10\.201\.2\.2:51820", members), said
    assert re.search(r"laptop +100\.\S+ +- +10\.201\.4\.2:51820", members), said
    assert "phone" not in members
    assert f"\n{png}\n" in said
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.slow
def test_two_laptops_behind_nats(tmp_path: Path) -> None:
    png = tmp_path / "demo-nat.png"
    done = demo("--png", png, tool="demo_nat.py")
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for figure in (
        "first ping answered",
        "direct, both ways",
        "router rebinds: longest pause",
        "mobile carrier: longest pause",
        "dies: longest pause",
        "home again: longest pause",
        "the download direct",
        "the download relay by cloud",
        "the download relay by office",
    ):
        assert figure in said
    paths = said.partition("ws paths desk on the laptop")[2]
    assert re.search(r"wlan0 +(healthy|degraded)", paths), said
    assert f"\n{png}\n" in said
    assert png.read_bytes().startswith(b"\x89PNG")
