"""`ws doctor`: each check with what it reads replaced, and the whole of it as JSON."""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
import sys
from pathlib import Path

import pytest
from fake_agent import FakeAgent
from run_ws import Ws

from whalescale.cli import checks, hostchecks, interrupts, parts
from whalescale.dataplane import probe


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("6.1.0-18-amd64", "ok"),
        ("6.18.44-fc-v657", "ok"),
        ("5.10.0", "warn"),
        ("5.4.0-generic", "fail"),
        ("4.19", "fail"),
        ("7.0.0", "warn"),
        ("7.1.4-arch1", "warn"),
        ("7.1.5", "ok"),
        ("strange", "warn"),
    ],
)
def test_kernel(release: str, verdict: str) -> None:
    assert checks.kernel(release).verdict == verdict


def test_landlock() -> None:
    assert checks.landlock(7).verdict == "ok"
    lacking = checks.landlock(0)
    assert (lacking.verdict, "lsm=" in lacking.fix) == ("warn", True)
    assert checks.landlock_version() >= 0


def test_tun(tmp_path: Path) -> None:
    missing = checks.tun(tmp_path / "tun")
    assert missing.verdict == "fail"
    assert "modprobe tun" in missing.fix
    (tmp_path / "tun").touch()
    assert checks.tun(tmp_path / "tun").verdict == "fail"
    assert checks.tun(Path("/dev/null")).verdict == "ok"


@pytest.mark.parametrize(
    ("mask", "held"), [("0000000000001000", True), ("0000000000000fff", False)]
)
def test_capability(tmp_path: Path, mask: str, held: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Name:\tx\nCapEff:\t{mask}\n")
    found = checks.capability(tmp_path)
    if held:
        assert found.verdict == "ok"
    else:
        assert found.verdict == ("fail" if os.geteuid() == 0 else "warn")
        assert found.fix


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engine", "selftest"):
        monkeypatch.setitem(sys.modules, f"whalescale.dataplane.{module}", None)
        # What another test imported stays an attribute of its package.
        monkeypatch.delattr(f"whalescale.dataplane.{module}", raising=False)
    found = checks.extension()
    assert (found.verdict, found.fix) == ("fail", "`make setup`")
    for which in ("ipsec-mb", "openssl"):
        cipher = checks.cipher(which)  # type: ignore[arg-type]
        assert (cipher.verdict, cipher.fix) == ("warn", "`make setup`")


@pytest.mark.parametrize(
    ("which", "verdict"), [("ipsec-mb", {"warn", "ok"}), ("openssl", {"fail"})]
)
def test_ciphers_that_fail(monkeypatch: pytest.MonkeyPatch, which: str, verdict: set[str]) -> None:
    selftest = pytest.importorskip("whalescale.dataplane.selftest")
    monkeypatch.setattr(selftest, "cipher_selftest", lambda _: errno.ENOTSUP)
    assert checks.cipher(which).verdict in verdict  # type: ignore[arg-type]
    monkeypatch.setattr(selftest, "cipher_selftest", lambda _: 0)
    assert checks.cipher(which).verdict == "ok"  # type: ignore[arg-type]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ipsec-mb is for x86-64")
@pytest.mark.parametrize(
    ("fault", "said", "mended"),
    [
        (errno.ENOSYS, "built without it", True),
        (errno.ELIBACC, "no library of its version", True),
        (errno.ENOTSUP, "this processor", False),
    ],
)
def test_ipsec_mb_missing_is_told_from_refusing(
    monkeypatch: pytest.MonkeyPatch, fault: int, said: str, mended: bool
) -> None:
    """A package that is there already is not advised again."""
    selftest = pytest.importorskip("whalescale.dataplane.selftest")
    monkeypatch.setattr(selftest, "cipher_selftest", lambda _: fault)
    found = checks.cipher("ipsec-mb")
    assert said in found.detail
    assert ("libipsec-mb-dev" in found.fix) is mended


def test_io_uring(monkeypatch: pytest.MonkeyPatch) -> None:
    liburing = pytest.importorskip("liburing")
    monkeypatch.setattr(liburing, "probe", lambda: dict.fromkeys(probe.OPCODES, True))
    assert checks.io_uring().verdict == "ok"
    monkeypatch.setattr(liburing, "probe", lambda: {"IORING_OP_SENDMSG": True})
    assert "IORING_OP_RECVMSG" in checks.io_uring().detail

    def forbidden() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(liburing, "probe", forbidden)
    assert "io_uring_disabled=0" in checks.io_uring().fix
    monkeypatch.setitem(sys.modules, "liburing", None)
    assert checks.io_uring().fix == "`make setup`"


def test_ipv6_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert "disable_ipv6" in checks.ipv6().fix


def test_buffers(tmp_path: Path) -> None:
    folder = tmp_path / "sys/net/core"
    folder.mkdir(parents=True)
    (folder / "rmem_max").write_text("212992\n")
    (folder / "wmem_max").write_text("4194304\n")
    found = checks.buffers(tmp_path)
    assert (found.verdict, found.detail) == ("warn", "net.core.rmem_max is 212992")
    (folder / "rmem_max").write_text("4194304\n")
    assert checks.buffers(tmp_path).verdict == "ok"


def test_what_the_rest_of_the_host_does_to_packets(tmp_path: Path) -> None:
    core, ipv4 = tmp_path / "sys/net/core", tmp_path / "sys/net/ipv4"
    core.mkdir(parents=True)
    ipv4.mkdir()
    assert checks.queue_discipline(tmp_path).verdict == "ok"
    (core / "default_qdisc").write_text("pfifo_fast\n")
    assert "default_qdisc=fq_codel" in checks.queue_discipline(tmp_path).fix
    (core / "default_qdisc").write_text("fq\n")
    assert checks.queue_discipline(tmp_path).detail == "fq"
    for algorithm, verdict in (("bbr", "ok"), ("cubic", "ok"), ("vegas", "warn")):
        (ipv4 / "tcp_congestion_control").write_text(f"{algorithm}\n")
        assert checks.congestion_control(tmp_path).verdict == verdict
    for number, verdict in ((0, "ok"), (1, "warn")):
        (tmp_path / f"devices/system/node/node{number}").mkdir(parents=True)
        assert checks.numa(tmp_path).verdict == verdict


def test_btf(tmp_path: Path) -> None:
    assert checks.btf(tmp_path).verdict == "warn"
    (tmp_path / "kernel/btf").mkdir(parents=True)
    (tmp_path / "kernel/btf/vmlinux").touch()
    assert checks.btf(tmp_path).verdict == "ok"


def test_a_check_that_stumbles_is_a_line(tmp_path: Path) -> None:
    report = checks.system(tmp_path, tmp_path)
    of_parts = len(parts.uring()) + len(parts.tun()) + len(parts.udp())
    assert len(report) == len({c.name for c in report}) == 17 + of_parts
    stumbled = {c.name for c in report if "could not be checked" in c.detail}
    assert stumbled == {"CAP_NET_ADMIN", "socket buffers"}
    assert all(c.fix for c in report if c.verdict == "fail")


def test_configuration_and_agent(ws: Ws, tmp_path: Path, agent: FakeAgent) -> None:
    path = tmp_path / "ws0.toml"
    (absent,) = checks.configuration(path)
    assert (absent.verdict, absent.fix) == ("warn", "`sudo ws init` makes one")
    ws("init", "-c", path)
    (right,) = checks.configuration(path)
    assert right.verdict == "ok"
    path.chmod(0o666)
    assert list(checks.configuration(path))[1].verdict == "warn"
    path.with_suffix(".key").chmod(0o640)
    (loose,) = checks.configuration(path)
    assert loose.verdict == "fail"
    assert "chmod 600" in loose.fix
    assert "1 of 2 peers" in checks.agent("ws0")[0].detail
    assert checks.agent("ws9")[0].verdict == "warn"
    assert "an interface lo is there" in checks.agent("lo")[0].detail


def test_exit_codes_and_json(ws: Ws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = checks.Check("a", "warn", "d", "f"), checks.Check("b", "fail", "d\x1b", "mend")
    monkeypatch.setattr(checks, "system", lambda: [good])
    monkeypatch.setattr(hostchecks, "host", lambda *_: [good])
    where = checks.Check("interrupts", "ok", "where they go")
    monkeypatch.setattr(interrupts, "check", lambda _: where)
    words = ("doctor", "-c", tmp_path / "none.toml")
    assert ws(*words).code == 0
    monkeypatch.setattr(checks, "system", lambda: [good, bad])
    done = ws(*words)
    assert done.code == 1
    assert "-> mend" in done.out
    assert "\x1b" not in done.out
    assert "4 to look at, 1 failed" in done.out
    report = json.loads(ws(*words, "--json").out)
    assert (report["version"], report["ok"]) == (1, False)
    names = ["a", "b", "configuration", "agent", "interrupts", "a"]
    assert [c["name"] for c in report["checks"]] == names
