"""Small parts: sockets, routes, log, notification, TUN errors, import rules."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.runtime.fakes import FakeEngine, here
from tools import check_imports
from whalescale.dataplane import probe, tun_offloads
from whalescale.dataplane.engine import Addr
from whalescale.runtime import logbuffer, notify, tun
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import LocalAddress
from whalescale.runtime.sockets import MAX_ADDRESSES, Sockets

#: the IPv4 wildcard
ANY = str(ipaddress.IPv4Address(0))


def net(text: str) -> Any:
    return ipaddress.ip_network(text)


# UDP sockets


def test_a_socket_per_address_comes_and_goes() -> None:
    engine = FakeEngine()
    sockets = Sockets(engine.as_engine())
    sockets.open(0)
    assert sockets.port == 40000
    assert [a for a, _ in engine.sockets.values()] == [Addr(ANY, 40000), Addr("::", 40000)]
    first = LocalAddress("192.0.2.1", 2, False)
    link = LocalAddress("fe80::1", 3, True)
    sockets.follow(here([first, link]))
    assert list(engine.sockets.values())[2:] == [
        (Addr("192.0.2.1", 40000), 0),
        (Addr("fe80::1", 40000, 3), 3),
    ]
    sockets.follow(here([link]))
    assert sockets.addresses == ["fe80::1"]
    sockets.follow(here([LocalAddress(f"10.0.{i}.1", 2, False) for i in range(MAX_ADDRESSES + 5)]))
    assert len(engine.sockets) == 2 + MAX_ADDRESSES
    engine.close()


def test_one_address_on_two_interfaces_has_a_socket_bound_to_each() -> None:
    engine = FakeEngine()
    sockets = Sockets(engine)
    sockets.open(51820)
    modems = [LocalAddress("192.168.8.100", n, False, 24) for n in (4, 7)]
    sockets.follow(here(modems[:1]))
    assert (Addr("192.168.8.100", 51820), 0) in engine.sockets.values()
    sockets.follow(here(modems))
    single = [s for s in engine.sockets.values() if s[0].ip == "192.168.8.100"]
    assert single == [(Addr("192.168.8.100", 51820, n), n) for n in (4, 7)]
    sockets.follow(here(modems[1:]))
    single = [s for s in engine.sockets.values() if s[0].ip == "192.168.8.100"]
    assert single == [(Addr("192.168.8.100", 51820), 0)]


def test_ipv6_on_several_interfaces_has_sockets_bound_to_them() -> None:
    engine = FakeEngine()
    sockets = Sockets(engine.as_engine())
    sockets.open(0)
    one, other = LocalAddress("2001:db8::1", 2, False), LocalAddress("2001:db8:1::1", 3, False)
    rest = [LocalAddress("192.0.2.1", 4, False), LocalAddress("fe80::1", 2, True)]
    sockets.follow(here([one, *rest]))
    assert sorted(at for _, at in engine.sockets.values()) == [0, 0, 0, 0, 2]
    sockets.follow(here([one, other, *rest]))
    assert set(sockets.addresses) == {one.ip, other.ip, *(a.ip for a in rest)}
    by_address = [(a.ip, at) for a, at in list(engine.sockets.values())[2:]]
    assert sorted(by_address) == [
        ("192.0.2.1", 0),
        ("2001:db8:1::1", 0),
        ("2001:db8:1::1", 3),
        ("2001:db8::1", 0),
        ("2001:db8::1", 2),
        ("fe80::1", 2),
    ]
    sockets.follow(here([other, *rest]))
    assert sorted(at for _, at in engine.sockets.values()) == [0, 0, 0, 0, 2]
    many = [LocalAddress(f"2001:db8::{n}", 2 + n % 2, False) for n in range(MAX_ADDRESSES + 5)]
    sockets.follow(here(many))
    assert len(engine.sockets) == 62
    sockets.reopen(51821)  # both wildcards twice for a moment
    assert len(engine.sockets) == 62
    # One interface with many addresses does not keep the other from having one.
    crowd = [LocalAddress(f"2001:db8::{n:x}", 2, False) for n in range(40)]
    sockets.follow(here([*crowd, LocalAddress("2001:db8:1::1", 3, False)]))
    assert [a.ip for a, at in engine.sockets.values() if at == 3] == ["2001:db8:1::1"]
    engine.close()


def test_without_ipv6_there_is_one_wildcard() -> None:
    engine = FakeEngine()
    engine.no_ipv6 = True
    sockets = Sockets(engine.as_engine())
    sockets.open(51820)
    assert [a.ip for a, _ in engine.sockets.values()] == [ANY]
    sockets.follow(here([LocalAddress("2001:db8::1", 2, False)]))  # refused, not fatal
    assert sockets.addresses == []
    engine.close()


def test_a_busy_port_names_the_port_and_changes_nothing() -> None:
    engine = FakeEngine()
    sockets = Sockets(engine.as_engine())
    sockets.open(51820)
    sockets.follow(here([LocalAddress("192.0.2.1", 2, False)]))
    before = dict(engine.sockets)
    engine.taken_ports = {51821}
    with pytest.raises(AgentError, match="UDP port 51821 is taken") as e:
        sockets.reopen(51821)
    assert "listen_port" in e.value.fix
    assert (engine.sockets, sockets.port) == (before, 51820)
    sockets.reopen(51822)
    assert sorted(a.ip for a, _ in engine.sockets.values()) == [ANY, "192.0.2.1", "::"]
    assert {a.port for a, _ in engine.sockets.values()} == {51822}
    engine.close()


# the log


def test_a_repeated_message_is_held_back_and_counted() -> None:
    at = [0.0]
    limit = logbuffer.RateLimit(lambda: at[0])

    def passes(*args: object) -> str | None:
        record = logging.LogRecord("w", logging.INFO, "", 0, "peer %s", args, None)
        return record.getMessage() if limit.filter(record) else None

    shown = [passes(i) for i in range(100)]
    assert shown == [*(f"peer {i}" for i in range(10)), *[None] * 90]
    at[0] = 11.0
    assert passes("x") == "peer x (90 more like it were held back)"
    assert passes("y") == "peer y"


def test_no_peer_takes_the_log_from_the_others() -> None:
    at = [0.0]
    limit = logbuffer.RateLimit(lambda: at[0])

    def passes(peer: str, what: str) -> str | None:
        args = (peer, what)
        record = logging.LogRecord("w", logging.INFO, "", 0, "peer %s: %s", args, None)
        record.subject = peer
        return record.getMessage() if limit.filter(record) else None

    moves = [passes("mover", f"endpoint {i}") for i in range(30)]
    assert [m is not None for m in moves] == [True] * 5 + [False] * 25
    assert passes("b", "unreachable") == "peer b: unreachable"
    # Thousands of peers do not flood it either.
    others = [passes(f"p{i}", "added") for i in range(1000)]
    assert sum(o is not None for o in others) == 50 - 5 - 1
    at[0] = 11.0
    held = 25 + 1000 - 44
    assert (
        passes("b", "session")
        == f"peer b: session ({held} more like it, of any peer, were held back)"
    )
    assert passes("mover", "endpoint") == "peer mover: endpoint"


def test_the_ring_is_bounded_and_feeds_followers() -> None:
    ring = logbuffer.LogBuffer(3)
    seen: list[Any] = []
    stop = ring.follow(seen.append)
    for i in range(5):
        ring.handle(logging.LogRecord("w", logging.WARNING, "", 0, "line %d", (i,), None))
    stop()
    ring.handle(logging.LogRecord("w", logging.INFO, "", 0, "last", (), None))
    assert [line["message"] for line in ring.lines()] == ["line 3", "line 4", "last"]
    assert [line["message"] for line in seen] == [f"line {i}" for i in range(5)]
    assert seen[0]["level"] == "warning"


# readiness


@pytest.mark.parametrize("abstract", [False, True])
def test_sd_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@whalescale-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(name.replace("@", "\0") if abstract else name)
        notifier = notify.Notifier()
        assert notifier.send("READY=1")
        assert s.recv(100) == b"READY=1"
    assert not notifier.send("STOPPING=1")
    notifier.close()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify.Notifier().send("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.Notifier().send("READY=1")


def test_the_ready_byte_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    monkeypatch.setenv("WHALESCALE_READY_FD", str(write))
    notify.ready_fd()
    notify.ready_fd()
    assert os.read(read, 10) == b"\n"
    assert os.read(read, 10) == b""
    os.close(read)


# the TUN device


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (errno.EPERM, "CAP_NET_ADMIN", 4),
        (errno.ENOENT, "/dev/net/tun is missing", 1),
        (errno.EBUSY, "taken", 1),
        (errno.ENOMEM, "ws9", 1),
    ],
)
def test_why_there_is_no_tun_device(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str, code: int
) -> None:
    class Error(Exception):
        pass

    def refuse(**_: Any) -> None:
        raise Error(number, os.strerror(number))

    fake = SimpleNamespace(
        IFF_TUN=1, IFF_NO_PI=2, IFF_VNET_HDR=4, IFF_MULTI_QUEUE=8, Error=Error, TunTapDevice=refuse
    )
    monkeypatch.setitem(sys.modules, "pytun", fake)
    with pytest.raises(AgentError, match=words) as e:
        tun.open_tun("ws9")
    assert e.value.exit_code == code
    assert e.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: TUN devices, in a namespace of its own")
def test_without_python_pytun_a_device_is_opened_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no package of it for arm64."""
    before = tun_offloads.probe()
    monkeypatch.setitem(sys.modules, "pytun", None)
    assert tun_offloads.probe() == before


# who imports whom


def test_the_house_keeps_its_rules() -> None:
    assert check_imports.check(Path(check_imports.__file__).parent.parent) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("protocol/a.py", "import asyncio"),
        ("protocol/a.py", "from os import urandom"),
        ("protocol/paths/a.py", "from time import monotonic"),
        ("protocol/a.py", "def f():\n    import random"),
        ("protocol/a.py", "import msgspec"),
        ("protocol/peer.py", "from whalescale.protocol.paths.pins import Pins"),
        ("protocol/handshake.py", "from whalescale.protocol.multipath import Multipath"),
        ("protocol/multipath.py", "from whalescale.protocol.core import Core"),
        ("protocol/asking.py", "from whalescale.protocol.peer import Peer"),
        ("protocol/places.py", "from .types import Event"),
        ("protocol/guest.py", "from whalescale.protocol import node"),
        ("protocol/a.py", "from whalescale.runtime import driver"),
        ("protocol/a.py", "from ..runtime.driver import Driver"),
        ("protocol/a.py", "from whalescale import config"),
        ("identity.py", "import os"),
        ("dataplane/a.py", "import whalescale.protocol.types"),
        ("runtime/a.py", "from whalescale.dataplane import _lib"),
        ("runtime/a.py", "from whalescale import agent"),
        ("runtime/a.py", "from whalescale.cli import main"),
        ("cli/show.py", "from whalescale.agent import run"),
        ("cli/show.py", "from whalescale.runtime.driver import Driver"),
        ("tui/a.py", "from whalescale.dataplane.engine import Engine"),
        ("config.py", "from whalescale.runtime import errors"),
    ],
)
def test_each_breach_is_found(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "whalescale" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{text}\n")
    (line,) = check_imports.check(tmp_path)
    assert line.startswith(f"whalescale/{file}:")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("protocol/a.py", "from whalescale.identity import Identity\nimport struct, hmac"),
        (
            "protocol/a.py",
            "from .types import Endpoint\nfrom noise.connection import NoiseConnection",
        ),
        ("dataplane/engine.py", "from whalescale.dataplane import _lib"),
        ("runtime/a.py", "from whalescale.config import Config\nimport asyncio"),
        ("agent.py", "from whalescale.runtime import driver\nfrom whalescale.protocol import node"),
        ("cli/foreground.py", "from whalescale.agent import run"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "whalescale" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{text}\n")
    assert check_imports.check(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        # upwards
        (
            {"csrc/udp/udp.c": ["session/peer.h"]},
            "csrc/udp/udp.c:1: includes session/peer.h: udp may",
        ),
        ({"csrc/io/mmsg.c": ["multipath/multipath.h"]}, "csrc/io/mmsg.c:1: "),
        ({"csrc/packet/replay.h": ["worker/worker.h"]}, "csrc/packet/replay.h:1: "),
        ({"shared/wire.h": ["packet/frame.h"]}, "shared/wire.h:1: "),
        ({"bpf/steer.bpf.c": ["packet/frame.h"]}, "bpf/steer.bpf.c:1: "),
        # without its folder
        ({"csrc/packet/frame.h": ["wire.h"]}, "csrc/packet/frame.h:1: includes wire.h: an include"),
        ({"csrc/kernel/bpf.h": ["../shared/maps.h"]}, "csrc/kernel/bpf.h:1: "),
        # a leaf and sockets
        ({"csrc/packet/replay.c": ["<stdint.h>", "<sys/socket.h>"]}, "csrc/packet/replay.c:2: "),
        # in a ring, by way of a header
        (
            {
                "csrc/session/send.c": ["session/send.h", "session/paths.h"],
                "csrc/session/paths.h": ["session/seal.h"],
                "csrc/session/seal.c": ["session/send.h"],
            },
            "csrc: files that include each other: session/paths -> session/seal -> session/send",
        ),
    ],
)
def test_an_include_that_goes_the_wrong_way_is_found(
    tmp_path: Path, files: dict[str, list[str]], found: str
) -> None:
    (tmp_path / "whalescale").mkdir()
    (tmp_path / "whalescale" / "a.py").write_text("")
    for name, includes in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"#include {i}" if i[0] == "<" else f'#include "{i}"' for i in includes]
        path.write_text("\n".join(lines) + "\n")
    (line,) = check_imports.check(tmp_path)
    assert line.startswith(found)


def _plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in {"whalescale/a.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return check_imports.check(root)


@pytest.mark.parametrize("folder", sorted(check_imports.C_LAYERS))
def test_each_folder_of_c_includes_downwards_alone(tmp_path: Path, folder: str) -> None:
    where = folder if folder in ("shared", "bpf") else f"csrc/{folder}"
    downwards = check_imports.C_LAYERS[folder]
    for other in check_imports.C_LAYERS:
        if other != folder:
            found = _plant(tmp_path, {f"{where}/planted.h": f'#include "{other}/some.h"\n'})
            assert bool(found) is (other not in downwards), (folder, other)
            assert all(line.startswith(f"{where}/planted.h:1: ") for line in found)


def test_the_layers_of_c_have_no_ring() -> None:
    assert check_imports.circle(check_imports.C_LAYERS) == []


PARTS = {"protocol", "runtime", "dataplane", "cli", "tui", "trace", "bench", "agent", "config"}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_each_part_imports_what_it_may_alone(tmp_path: Path, part: str) -> None:
    may = {
        "protocol": {"identity"},
        "dataplane": set(),
        "runtime": {"protocol", "dataplane", "config"},
        "agent": {"protocol", "dataplane", "runtime", "config"},
        "cli": {"tui", "bench", "trace", "config"},
        "trace": {"tui", "config"},
        "tui": {"config"},
        "bench": {"config"},
        "config": set(),
    }[part]
    name = f"whalescale/{part}.py" if part in ("agent", "config") else f"whalescale/{part}/a.py"
    for other in PARTS - {part}:
        found = _plant(tmp_path, {name: f"from whalescale.{other} import thing\n"})
        assert bool(found) is (other not in may), (part, other)


@pytest.mark.parametrize("module", sorted(check_imports.ONLY))
def test_each_module_of_the_core_is_imported_from_above_alone(tmp_path: Path, module: str) -> None:
    for other in (check_imports.ONLY.keys() | {"keypairs"}) - {module}:
        text = f"from whalescale.protocol import {module}\n"
        found = _plant(tmp_path, {f"whalescale/protocol/{other}.py": text})
        assert bool(found) is (other not in check_imports.ONLY[module]), (module, other)
        (tmp_path / f"whalescale/protocol/{other}.py").unlink()


def test_what_no_rule_speaks_of_is_found(tmp_path: Path) -> None:
    assert [line.partition(":")[0] for line in _plant(
        tmp_path,
        {"csrc/new/a.c": "", "whalescale/protocol/new/a.py": "",
         check_imports.MAP: "`whalescale/a.py`, `a.c`"},
    )] == ["csrc/new", "whalescale/protocol/new"]  # fmt: skip
    (line,) = _plant(tmp_path / "b", {check_imports.MAP: "nothing"})
    assert line == f"whalescale/a.py: {check_imports.MAP} does not name it"


def test_without_liburing_the_data_planes_own_trial_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "liburing", None)
    assert "missing" in probe.io_uring().problem
    monkeypatch.setattr(probe, "PACKAGED", "another machine")
    assert probe.io_uring() == probe.IoUring(0)
