"""A confined agent goes on doing its work: reloads, names, `wg`, an orderly end."""

from __future__ import annotations

import json
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import Two, make_two
from tools.netlab import Lab, wait_until
from tools.peers import WS, Whalescale
from whalescale.dataplane import confine

pytestmark = [pytest.mark.netns, pytest.mark.whole_start]

#: /etc as a copy of its own, in which files can be replaced
OWN_ETC = 'mount -t tmpfs none /mnt && cp -a /etc/. /mnt && mount --move /mnt /etc && exec "$@"'


def pid_of(end: Whalescale) -> int:
    assert end.process is not None
    return end.process.pid


def peer_status(end: Whalescale) -> Any:
    peers: Any = end.status()["peers"]
    return peers[0]


def replace(path: Path, text: str) -> None:
    """As an editor does it: a new file in place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(path.stat().st_mode)
    new.rename(path)


def test_every_thread_is_confined(two: Two) -> None:
    two.a.ping(two.b, count=1)
    told: Any = two.a.status()["sandbox"]
    assert told == {"landlock": confine.landlock_version(), "seccomp": True, "reason": ""}
    threads = []
    for thread in Path(f"/proc/{pid_of(two.a)}/task").iterdir():
        # The kernel's own of io_uring come and go.
        with suppress(FileNotFoundError, ProcessLookupError):
            threads.append((thread / "status").read_text())
    assert len(threads) > 1
    for status in threads:
        fields = dict(re.findall(r"^(\w+):\s+(\S+)$", status, re.M))
        # the first filter and the one that closes the doors
        assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
        assert int(fields.get("Seccomp_filters", 2)) >= 2
    assert "to its own files and calls" in two.a.ws("status", "-i", two.a.interface).stdout


def test_systemd_s_watchdog_is_fed(lab: Lab, tmp_path: Path) -> None:
    two = make_two(lab)
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(20)
        two.a.env |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        two.a.start(two.peer_of(two.a))
        heard = [systemd.recv(100).split(b"\n")[0] for _ in range(4)]
    assert heard.count(b"READY=1") == 1
    assert heard.count(b"WATCHDOG=1") == 3


def test_a_replaced_configuration_is_read_again(two: Two) -> None:
    text = two.a.config.read_text()
    replace(two.a.config, text.replace("[[peers]]", "[[peers]]\npersistent_keepalive = 5"))
    replace(two.a.key_file, two.a.key_file.read_text())
    two.a.ws("reload", "-i", two.a.interface)
    assert peer_status(two.a)["persistent_keepalive"] == 5
    two.a.ping(two.b, count=1)


def test_metrics_are_told_inside_the_tunnel(lab: Lab) -> None:
    two = make_two(lab)
    two.b.start(two.peer_of(two.b, endpoint=False))
    two.a.write_config(two.peer_of(two.a))
    text, inside = two.a.config.read_text(), two.a.inside(4)
    with_metrics = f'{text}\n[metrics]\nlisten = "{inside}:9586"\n'
    two.a.config.write_text(with_metrics)
    two.a.launch()
    two.a.wait_for_uapi()
    two.a.ping(two.b, count=1)
    url = f"http://{inside}:9586/metrics"
    told = two.b.run("curl", "-sf", "--max-time", "10", url).stdout
    assert re.search(r'^whalescale_peer_up\{peer="peer0"\} 1\.0$', told, re.M)
    assert re.search(r"^process_resident_memory_bytes [\d.e+]+$", told, re.M)
    replace(two.a.config, with_metrics.replace("9586", "9587"))
    refused = two.a.ws("reload", "-i", two.a.interface, check=False)
    assert "[metrics] listen changed; restart the agent" in refused.stderr
    replace(two.a.config, text)
    two.a.ws("reload", "-i", two.a.interface)
    assert two.b.host.run("curl", "-sf", "--max-time", "10", url, check=False).returncode


@pytest.mark.skipif(not confine.landlock_version(), reason="this kernel has no Landlock")
def test_a_key_from_elsewhere_takes_a_restart(two: Two, tmp_path: Path) -> None:
    psk = tmp_path / "new.psk"
    psk.write_text(two.a.run("wg", "genpsk").stdout)
    psk.chmod(0o600)
    text = two.a.config.read_text()
    line = f'[[peers]]\npreshared_key_file = "{psk}"'
    replace(two.a.config, text.replace("[[peers]]", line))
    refused = two.a.ws("reload", "-i", two.a.interface, check=False)
    assert refused.returncode == 4
    assert "since its start" in refused.stderr
    assert "restart" in refused.stderr
    shutil.copy(psk, two.a.config.parent / "new.psk")
    replace(two.a.config, text.replace("[[peers]]", line.replace(str(psk), "new.psk")))
    two.a.ws("reload", "-i", two.a.interface)
    assert peer_status(two.a)["preshared_key"]


def test_names_resolve_after_their_files_were_replaced(lab: Lab) -> None:
    two = make_two(lab)
    two.b.start(two.peer_of(two.b, endpoint=False))
    two.a.write_config(two.peer_of(two.a, endpoint=False))
    words = (WS, "up", "--foreground", "--config", two.a.config)
    process = two.a.process = two.a.host.spawn(
        "unshare", "-m", "sh", "-c", OWN_ETC, "sh", *words, env=two.a.env
    )
    two.a.wait_for_uapi()
    at = two.link.address(two.b.host)
    # As the agent sees it, by the mount that is its own: never this machine's.
    own = Path(f"/proc/{process.pid}/root/etc")
    assert own.stat().st_dev != Path("/etc").stat().st_dev
    replace(own / "hosts", f"{at} there.test\n")
    replace(own / "nsswitch.conf", "hosts: files\n")
    text = two.a.config.read_text()
    line = f'[[peers]]\nendpoints = ["there.test:{two.b.port}"]'
    replace(two.a.config, text.replace("[[peers]]", line))
    two.a.ws("reload", "-i", two.a.interface)
    two.a.ping(two.b, count=1)
    assert f"{at}:{two.b.port}" in json.dumps(peer_status(two.a)["candidates"])


def test_wg_and_the_end_work_from_within(two: Two) -> None:
    two.a.ping(two.b, count=1)
    assert two.a.interface in two.a.run("wg", "show").stdout
    two.a.run("wg", "set", two.a.interface, "listen-port", "51999", "fwmark", "7")
    agent: Any = two.a.status()["agent"]
    assert agent["listen_port"] == 51999
    names = [p for p in Path("/proc").glob("[0-9]*/status") if _parent(p) == pid_of(two.a)]
    assert len(names) == 1
    two.a.ws("down", "-i", two.a.interface)
    wait_until("the process for names to end", lambda: not names[0].exists())
    assert two.a.interface not in two.a.host.link_names()


def _parent(status: Path) -> int:
    try:
        found = re.search(r"^PPid:\s+(\d+)$", status.read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0
