"""`make uninstall` takes away what `make install` and the agents left behind, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="the script wants root")
def test_uninstall_leaves_nothing(tmp_path: Path) -> None:
    opt, prefix, units = tmp_path / "opt", tmp_path / "usr", tmp_path / "units"
    run, systemd = tmp_path / "run", tmp_path / "systemd"
    python = opt / "venv" / "bin" / "python"
    wants = systemd / "multi-user.target.wants"
    files = [
        opt / ".whalescale",
        prefix / "bin" / "ws",
        prefix / "share/bash-completion/completions/ws",
        prefix / "share/zsh/site-functions/_ws",
        prefix / "share/fish/vendor_completions.d/ws.fish",
        prefix / "share/man/man1/ws.1",
        units / "ws@.service",
        run / "ws0.log",
        run / "ws0.log.old",
    ]
    for file in [*files, python, wants / "x"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (wants / "x").unlink()
    (wants / "ws@ws7.service").symlink_to(units / "ws@.service")
    other = wants / "ssh.service"
    other.symlink_to("/lib/systemd/system/ssh.service")
    python.write_bytes(Path("/bin/sleep").read_bytes())
    python.chmod(0o755)
    # The machine's own units are not this test's business.
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{systemctl.parent}:{os.environ['PATH']}",
        "WHALESCALE_RUNTIME_DIR": str(run),
        "ETC_SYSTEMD": str(systemd),
    }
    agents = [
        subprocess.Popen([python, "60"]),
        subprocess.Popen(["sleep", "60"]),  # another install's
    ]
    try:
        for number, agent in enumerate(agents):
            (run / f"ws{number}.lock").write_text(f"{agent.pid}\n")
        done = subprocess.run(
            ["sh", ROOT / "tools/install.sh", "uninstall", "python3", opt, prefix, units],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert agents[0].wait(10) == -15
        assert agents[1].poll() is None
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    systemctl.unlink()
    systemctl.parent.rmdir()
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    allowed = ["systemd", "systemd/multi-user.target.wants", "units", "usr", "usr/bin"]
    assert left == sorted([*allowed, str(other.relative_to(tmp_path))])
