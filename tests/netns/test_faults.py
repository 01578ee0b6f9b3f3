"""What goes wrong on a real machine: a killed agent, a busy port, missing rights, wrong files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.netns.conftest import Two, make_two
from tools.netlab import UAPI_FOLDER, Lab, Process, wait_until
from tools.peers import WS, Whalescale

pytestmark = [pytest.mark.netns, pytest.mark.whole_start]

RESUME_SECONDS = 6.0


def error_line(process: Process, timeout: float = 15.0) -> tuple[int, str]:
    """Exit status and the one line that `ws` says."""
    status = process.wait(timeout)
    lines = [line for line in process.log().splitlines() if line.strip()]
    assert len(lines) == 1, process.log()
    assert lines[0].startswith("ws: "), lines[0]
    return status, lines[0]


def nothing_left(end: Whalescale, devices: set[str]) -> None:
    assert end.host.link_names() == devices
    assert not [path for path in end.runtime.rglob("*") if path.is_socket()]
    assert not (UAPI_FOLDER / f"{end.interface}.sock").exists()


def one(lab: Lab) -> Whalescale:
    """An agent's configuration in a host, not started."""
    two = make_two(lab)
    two.a.write_config(two.peer_of(two.a))
    return two.a


@pytest.mark.alone
@pytest.mark.parametrize("speaker", ["restarted", "other"])
def test_kill_9_and_restart_resume_traffic(two: Two, speaker: str) -> None:
    """Traffic comes back without touching the other side, whichever side sends."""
    two.a.ping(two.b, count=1)
    other = two.b.process
    devices = two.a.host.link_names() - {two.a.interface}
    two.a.kill()
    # io_uring lets its files go a moment after the process.
    wait_until("the killed agent's interface to go", lambda: two.a.host.link_names() == devices, 3)
    routes = two.a.host.ip_json("route show table all")
    assert not [row for row in routes if str(row.get("dst")).startswith("10.77.")]

    first, second = (two.a, two.b) if speaker == "restarted" else (two.b, two.a)
    began = time.monotonic()
    two.a.start(two.peer_of(two.a))
    # One ping after the other, as -w ends at the first answer.
    first.run("ping", "-c1", "-i0.1", f"-w{int(RESUME_SECONDS)}", second.inside(4))
    took = time.monotonic() - began
    assert took < RESUME_SECONDS
    assert other is not None
    assert other.poll() is None
    two.a.ws("down", "-i", two.a.interface)
    nothing_left(two.a, devices)


def test_kill_9_in_mid_transfer(two: Two) -> None:
    """A TCP connection lives through the restart: the same addresses come back."""
    two.a.ping(two.b, count=1)
    name, digest = two.b.serve(12 << 20)
    url = f"http://{two.b.inside(4)}:8080/{name}"
    transfer = two.a.curl(url, rate_bytes=4 << 20, timeout=60)
    time.sleep(1)
    two.a.kill()
    two.a.start(two.peer_of(two.a))
    assert two.a.curl_digest(transfer, 60) == digest


def test_a_busy_port(lab: Lab) -> None:
    end = one(lab)
    script = (
        "import socket,sys,time; s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        f"s.bind(('::', {end.port})); print('bound', flush=True); sys.stdin.read()"
    )
    end.host.spawn("python3", "-c", script)
    while end.port not in end.host.udp_ports():
        time.sleep(0.02)
    devices = end.host.link_names()
    status, line = error_line(end.launch())
    assert status == 1
    assert str(end.port) in line
    nothing_left(end, devices)


def test_a_taken_interface_name(lab: Lab) -> None:
    end = one(lab)
    # A persistent TUN device of someone else: it could be attached to, and must not be.
    end.host.ip(f"tuntap add dev {end.interface} mode tun")
    devices = end.host.link_names()
    status, line = error_line(end.launch())
    assert status == 1
    assert end.interface in line
    # The other one's interface stays.
    nothing_left(end, devices)


def test_a_second_agent_on_the_same_interface(two: Two) -> None:
    first = two.a.process
    second = two.a.launch()
    status, line = error_line(second)
    assert status == 1
    assert two.a.interface in line
    assert first is not None
    assert first.poll() is None
    two.a.process = first
    two.a.ping(two.b, count=1)


def test_no_tun_device(lab: Lab) -> None:
    end = one(lab)
    devices = end.host.link_names()
    script = 'mount -t tmpfs none /dev/net && exec "$@"'
    words = (WS, "up", "--foreground", "--config", end.config)
    status, line = error_line(
        end.host.spawn("unshare", "-m", "sh", "-c", script, "sh", *words, env=end.env)
    )
    assert status == 1
    assert "/dev/net/tun" in line
    nothing_left(end, devices)


def test_no_capability(lab: Lab) -> None:
    end = one(lab)
    devices = end.host.link_names()
    words = (WS, "up", "--foreground", "--config", end.config)
    process = end.host.spawn("setpriv", "--bounding-set", "-net_admin", *words, env=end.env)
    status, line = error_line(process)
    assert status == 4
    assert "sudo" in line or "NET_ADMIN" in line
    nothing_left(end, devices)


def test_cap_net_admin_alone_after_start(two: Two) -> None:
    assert two.a.process is not None
    text = Path(f"/proc/{two.a.process.pid}/status").read_text()
    sets = dict(re.findall(r"^(Cap\w+):\s+([0-9a-f]+)$", text, re.MULTILINE))
    only = 1 << 12
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(sets[name], 16) | only == only, f"{name} is {sets[name]}"


def edit(end: Whalescale, old: str, new: str) -> None:
    text = end.config.read_text()
    assert old in text
    end.config.write_text(text.replace(old, new, 1))


def typo(path: Path) -> None:
    text = path.read_text()
    path.write_text(("a" if text[0] != "a" else "b") + text[1:])


def typo_in_id(end: Whalescale) -> None:
    found = re.search(r'id = "(\w)', end.config.read_text())
    assert found is not None
    edit(end, f'id = "{found[1]}', f'id = "{"a" if found[1] != "a" else "b"}')


WRONG: dict[str, tuple[Callable[[Whalescale], object], str]] = {
    "no such file": (lambda end: end.config.unlink(), "toml"),
    "not TOML": (lambda end: end.config.write_text("[interface\n"), "line 1"),
    "unknown key": (lambda end: edit(end, "listen_port", "listen_prot"), "listen_prot"),
    "wrong type": (lambda end: edit(end, 'allowed_ips = ["', 'allowed_ips = ["999.'), "999."),
    "key file missing": (lambda end: end.key_file.unlink(), ".key"),
    "key file for all to read": (lambda end: end.key_file.chmod(0o644), "chmod 600"),
    "key file with a typo": (lambda end: typo(end.key_file), ".key"),
    "node ID with a typo": (typo_in_id, "id"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_configuration(lab: Lab, what: str) -> None:
    end = one(lab)
    devices = end.host.link_names()
    spoil, named = WRONG[what]
    spoil(end)
    status, line = error_line(end.launch())
    assert status in ({1, 4} if "to read" in what else {1})
    assert named in line
    nothing_left(end, devices)


def test_exit_codes_of_the_command(lab: Lab) -> None:
    end = one(lab)
    assert end.ws("status", "-i", end.interface, check=False).returncode == 3
    assert end.ws("down", "-i", end.interface, check=False).returncode == 3
    assert end.ws("no-such-command", check=False).returncode == 2
    assert end.ws("status", "--no-such-option", check=False).returncode == 2
    assert end.ws("version").returncode == 0
    checked = end.ws("reload", "--check", "--config", str(end.config), check=False)
    assert checked.returncode == 0, checked.stderr


def test_reload_takes_over_a_changed_file_and_refuses_a_wrong_one(two: Two) -> None:
    two.a.ping(two.b, count=1)
    edit(two.a, "listen_port", "listen_prot")
    refused = two.a.ws("reload", "-i", two.a.interface, check=False)
    assert refused.returncode == 1
    assert "listen_prot" in refused.stderr
    edit(two.a, "listen_prot", "listen_port")
    edit(two.a, "[[peers]]", "[[peers]]\npersistent_keepalive = 5")
    two.a.ws("reload", "-i", two.a.interface)
    status = two.a.status()
    assert status["peers"][0]["persistent_keepalive"] == 5
    before = two.a.latest_handshake()
    two.a.ping(two.b, count=2)
    assert two.a.latest_handshake() == before, "a reload keeps the session"
