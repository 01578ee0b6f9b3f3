"""The parts of the data plane in `ws doctor`, under kernels that refuse one of them."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whalescale.cli import parts
from whalescale.dataplane import tun_offloads

selftest = pytest.importorskip("whalescale.dataplane.selftest")

REFUSING = Path(__file__).with_name("refusing.py")
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}.get(platform.machine(), -1)
IOCTL = {"x86_64": 16, "aarch64": 29}.get(platform.machine(), -1)
SENDTO = {"x86_64": 44, "aarch64": 206}.get(platform.machine(), -1)
REGISTER_FILES2, REGISTER_BUFFER_RING = 13, 22
UDP_SEGMENT, UDP_GRO, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 103, 104, 32, 33

pytestmark = pytest.mark.skipif(SETSOCKOPT < 0, reason="system call numbers not known here")


def doctor(*rules: tuple[int, int, int, int]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, REFUSING, json.dumps(rules), "doctor", "-c", "/none.toml", "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    return {check["name"]: check for check in report["checks"]}


def bad(report: dict[str, dict[str, Any]], *groups: str) -> set[str]:
    return {n for n, c in report.items() if n.startswith(groups) and c["verdict"] != "ok"}


@pytest.fixture(scope="module")
def here() -> dict[str, dict[str, Any]]:
    """What this machine has, so that a refusal shows as the difference."""
    return doctor()


def test_every_part_is_told(here: dict[str, dict[str, Any]]) -> None:
    for part in (*parts.URING, *parts.UDP, *parts.BUFFERS):
        assert here[part.name]["lost"]
        assert here[part.name]["verdict"] == "ok" or here[part.name]["fix"]
    if os.geteuid() == 0 and Path("/dev/net/tun").exists():
        assert {part.name for part in parts.TUN} <= set(here)


def test_no_io_uring_at_all() -> None:
    report = doctor((IO_URING_SETUP, 0, 256, errno.EPERM))
    assert report["io_uring: rings"]["detail"] == "missing: Operation not permitted, EPERM"
    others = {part.name for part in parts.URING} - {"io_uring: rings"}
    assert {report[name]["detail"] for name in others} == {"not tried: an earlier part is missing"}
    assert all(report[name]["fix"] for name in others)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (REGISTER_BUFFER_RING, "io_uring: buffer rings"),
        (REGISTER_FILES2, "io_uring: registered files"),
    ],
)
def test_a_part_of_io_uring(here: dict[str, dict[str, Any]], operation: int, name: str) -> None:
    if here["io_uring: rings"]["verdict"] != "ok":
        pytest.skip("no io_uring here: none of its parts is tried")
    report = doctor((IO_URING_REGISTER, 1, operation, errno.EINVAL))
    assert report[name]["detail"] == "missing: Invalid argument, EINVAL"
    assert "recvmmsg" in report[name]["lost"]
    before = bad(here, "io_uring: ")
    without = {name, "io_uring: multishot recvmsg"}  # which could not be tried without
    assert bad(report, "io_uring: ") - before == without - before


def test_udp_offloads(here: dict[str, dict[str, Any]]) -> None:
    for option, name in ((UDP_SEGMENT, "UDP: UDP_SEGMENT"), (UDP_GRO, "UDP: UDP_GRO")):
        report = doctor((SETSOCKOPT, 2, option, errno.ENOPROTOOPT))
        assert report[name]["detail"] == "missing: Protocol not available, ENOPROTOOPT"
        assert bad(report, "UDP: ") - bad(here, "UDP: ") == {name, "UDP: both together"}


def test_loopback_that_carries_nothing() -> None:
    report = doctor((SENDTO, 3, 0, errno.EPERM))
    for part in parts.UDP:
        assert report[part.name]["detail"].startswith("not tried: no datagrams come through")
        assert "firewall" in report[part.name]["fix"]


@pytest.mark.parametrize(
    ("option", "name"),
    [(SO_RCVBUFFORCE, "UDP: SO_RCVBUFFORCE"), (SO_SNDBUFFORCE, "UDP: SO_SNDBUFFORCE")],
)
def test_socket_buffers(option: int, name: str) -> None:
    found = doctor((SETSOCKOPT, 2, option, errno.EPERM))[name]
    assert found["verdict"] == "warn"
    assert "EPERM; " in found["detail"], "and what a socket gets instead"
    assert "MiB" in found["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a TUN device")
def test_tun_offloads(here: dict[str, dict[str, Any]]) -> None:
    before = bad(here, "TUN: ")
    for name, flags in tun_offloads.OFFLOADS.items():
        line = next(part.name for part in parts.TUN if part.field == name)
        report = doctor((IOCTL, 2, flags, errno.EINVAL))
        # Told by its argument: no other ioctl here has that number for a pointer.
        assert report[line]["detail"] == "missing: Invalid argument, EINVAL"
        assert bad(report, "TUN: ") - before == {line}
    report = doctor((IOCTL, 1, tun_offloads.TUNSETVNETHDRSZ, errno.EINVAL))
    assert report["TUN: vnet header"]["verdict"] == "fail"


def test_no_permission_for_a_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, words in ((errno.EPERM, "sudo"), (errno.ENOENT, "TUN device")):
        found = tun_offloads.TunParts(-number)
        monkeypatch.setattr(tun_offloads, "probe", lambda found=found: found)
        (only,) = parts.tun()
        assert only.verdict == "warn"
        assert "not tried" in only.detail
        assert words in only.fix


def test_bytes_that_come_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    found = selftest.UdpParts(0, -errno.EBADMSG, -errno.ETIME, 1, 0, 0, 8 << 20, 8 << 20)
    monkeypatch.setattr(selftest, "udp_parts", lambda: found)
    gso, gro, both, *_ = parts.udp()
    assert (gso.verdict, gso.detail) == ("warn", "broken: other bytes come out")
    assert gro.detail == "broken: not all comes out"
    assert both.detail == "not tried: one alone is missing"


def probe_links() -> list[str]:
    """Other tests make and delete interfaces meanwhile."""
    prefix = tun_offloads.PROBE_NAME.removesuffix("%d")
    return sorted(name for name in os.listdir("/sys/class/net") if name.startswith(prefix))


def test_the_probe_leaves_nothing() -> None:
    fds, links = len(os.listdir("/proc/self/fd")), probe_links()
    for _ in range(20):
        selftest.uring_parts()
        selftest.udp_parts()
        tun_offloads.probe()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert probe_links() == links
