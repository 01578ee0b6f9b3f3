"""From the file to the tunnel, once and again; and what the agent tells of it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.runtime.fakes import FakeMarks, FakeNetlink, FakePaths, Host, path_status
from whalescale import config_keys, status
from whalescale import identity as ident
from whalescale.agent import Agent
from whalescale.config import Config
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.paths.types import MultipathSettings, PacketLimit, Scheduler
from whalescale.protocol.types import PeerIdentified
from whalescale.runtime import reload, snapshot
from whalescale.runtime.bpf import Bpf
from whalescale.runtime.errors import AgentError
from whalescale.runtime.hoststate import Keeper
from whalescale.runtime.interface import TunnelInterface
from whalescale.runtime.logbuffer import LogBuffer
from whalescale.runtime.netlink import MAIN_TABLE, Route
from whalescale.runtime.notices import NetworksChanged
from whalescale.runtime.routes import Routes
from whalescale.runtime.routing import Routing
from whalescale.runtime.sandbox import Sandbox
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tunnel import Change, Origin, PeerSpec
from whalescale.runtime.tunnel_mtu import TunnelMtu
from whalescale.runtime.wg_device import WgDevice
from whalescale.runtime.wg_uapi import PeerChange, SetRequest

INTERFACE = """
[interface]
name = "ws0"
private_key_file = "ws0.key"
addresses = ["10.77.0.1/24"]
"""


@pytest.fixture
def hosts() -> Any:
    made = [Host(n, f"192.0.2.{n}") for n in (1, 2, 3, 4)]
    yield made
    for host in made:
        host.close()


class File:
    """A configuration file of host 1."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.path = folder / "ws0.toml"
        self.key(host.identity.seed)

    def key(self, seed: bytes | bytearray) -> None:
        fd = os.open(self.path.with_suffix(".key"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.write(fd, ident.encode_seed(seed).encode())
        os.close(fd)

    def write(self, *peers: str, interface: str = INTERFACE) -> Config:
        self.path.write_text(interface + "".join(f"[[peers]]\n{p}\n" for p in peers))
        return config_keys.check(self.path)


def peer(name: str, host: Host, *lines: str, by: str = "id") -> str:
    key = {
        "id": f'id = "{ident.encode_node_id(host.identity.node_id)}"',
        "fingerprint": f'id = "{ident.encode_fingerprint(host.identity.fingerprint)}"',
    }[by]
    return "\n".join([f'name = "{name}"', key, *lines])


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(limited())


def test_only_what_changed_is_touched(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        a, b, c, d = hosts
        file = File(tmp_path, a)
        first = file.write(
            peer("b", b, 'allowed_ips = ["10.77.0.2/32"]'),
            peer("c", c, 'allowed_ips = ["10.77.0.3/32"]'),
        )
        a.tunnel.commit(reload.plan(a.tunnel, reload.specs(first)).change)
        by_hand = PeerSpec("wg-x", static_public=bytes([9]) + bytes(31), origin=Origin.UAPI)
        a.tunnel.commit(Change(add=[by_hand]))
        handles = {p.spec.name: p.handle for p in a.tunnel.peers.values()}
        cleared = list(a.engine.cleared)
        second = file.write(
            peer(
                "b", b, 'allowed_ips = ["10.77.0.2/32", "10.88.0.0/16"]', "persistent_keepalive = 9"
            ),
            peer("d", d, 'allowed_ips = ["10.77.0.3/32"]'),
        )
        plan = reload.plan(a.tunnel, reload.specs(second))
        assert reload.changes(first, second, plan.change) == [
            "peer d added",
            "peer b changed",
            "peer c removed",
        ]
        assert {str(n) for n in plan.networks} == {
            "10.77.0.2/32",
            "10.88.0.0/16",
            "10.77.0.3/32",
            f"{b.identity.overlay_address}/128",
            f"{d.identity.overlay_address}/128",
        }
        a.tunnel.commit(plan.change)
        after = {p.spec.name: p for p in a.tunnel.peers.values()}
        assert after.keys() == {"b", "d", "wg-x"}
        assert after["b"].handle == handles["b"]
        assert a.node.peer_status(handles["b"]).persistent_keepalive == 9
        # No keys were cleared but those of the peer that went.
        assert len(a.engine.cleared) == len(cleared) + 1
        assert plan.networks == a.tunnel.networks()
        again = reload.plan(a.tunnel, reload.specs(second)).change
        assert (again.add, again.update, again.remove) == ([], [], [])

    run(test)


def test_a_peer_that_cannot_be_takes_nothing_along(hosts: list[Host]) -> None:
    async def test() -> None:
        a, b, c, _ = hosts
        a.tunnel.commit(Change(add=[b.spec("b", persistent_keepalive=5)]))
        (held,) = a.tunnel.peers.values()
        low_order = PeerSpec("bad", static_public=bytes(32))
        with pytest.raises(ValueError, match="low order"):
            a.tunnel.commit(Change(add=[c.spec("c"), low_order], remove=[held]))
        another_key = (held, c.spec("b"))
        with pytest.raises(ValueError, match="key cannot change"):
            a.tunnel.commit(Change(add=[c.spec("c")], update=[another_key]))
        assert [p.spec for p in a.tunnel.peers.values()] == [b.spec("b", persistent_keepalive=5)]
        assert len(a.engine.seen) == 1

    run(test)


def test_a_fingerprint_becomes_a_node_id(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        a, b, _, _ = hosts
        file = File(tmp_path, a)
        first = file.write(peer("b", b, 'allowed_ips = ["10.77.0.2/32"]', by="fingerprint"))
        a.tunnel.commit(reload.plan(a.tunnel, reload.specs(first)).change)
        (held,) = a.tunnel.peers.values()
        assert held.overlay_network is None
        told: list[bool] = []
        a.notices.on(NetworksChanged, lambda _: told.append(True))
        a.tunnel.on_event(PeerIdentified(held.handle, b.identity.node_id))
        assert told == [True]
        assert held.static_public == b.identity.static_public
        overlay = f"{b.identity.overlay_address}/128"
        assert [str(n) for n in a.engine.networks[0]] == ["10.77.0.2/32", overlay]
        # The file may now name the whole ID: it is the same peer, its session stays.
        second = file.write(peer("b", b, 'allowed_ips = ["10.77.0.2/32"]'))
        plan = reload.plan(a.tunnel, reload.specs(second))
        assert (plan.change.add, plan.change.remove) == ([], [])
        a.tunnel.commit(plan.change)
        assert list(a.tunnel.peers.values()) == [held]
        assert overlay in {str(n) for n in plan.networks}

    run(test)


def test_what_needs_a_restart_is_refused(tmp_path: Path, hosts: list[Host]) -> None:
    a, b, _, _ = hosts
    file = File(tmp_path, a)
    old = file.write()
    reload.refuse(old, file.write(peer("b", b)), a.identity, 2048)
    other = file.write(interface=INTERFACE.replace("ws0", "ws1", 1))
    with pytest.raises(AgentError, match="name changed from ws0 to ws1"):
        reload.refuse(old, other, a.identity, 2048)
    other = file.write(interface=INTERFACE + "[dataplane]\nworkers = 2\n")
    with pytest.raises(AgentError, match="dataplane"):
        reload.refuse(old, other, a.identity, 2048)
    reload.refuse(old, file.write(interface=INTERFACE + "mtu = 2048\n"), a.identity, 2048)
    with pytest.raises(AgentError, match=r"mtu changed to 2049; .* 2048 bytes") as e:
        reload.refuse(old, file.write(interface=INTERFACE + "mtu = 2049\n"), a.identity, 2048)
    assert "restart" in e.value.fix
    file.key(b"\x07" * 32)
    with pytest.raises(AgentError, match="private key changed") as e:
        reload.refuse(old, file.write(), a.identity, 2048)
    assert "restart" in e.value.fix


def test_status_has_the_shape_that_the_cli_reads(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        a, b, c, _ = hosts
        config = File(tmp_path, a).write(
            peer("b", b, 'allowed_ips = ["10.77.0.2/32"]', 'endpoints = ["192.0.2.2:51820"]'),
            peer("c", c, by="fingerprint"),
        )
        a.tunnel.commit(reload.plan(a.tunnel, reload.specs(config)).change)
        sockets = Sockets(a.engine.as_engine())
        sockets.open(51820)
        a.time += 2_500_000_000
        b_handle = next(iter(a.tunnel.peers))
        paths = FakePaths(a.driver, {b_handle: [path_status(0), path_status(1, rtt_us=None)]})
        raw = snapshot.take(
            snapshot.Subject(
                config,
                a.identity,
                a.limits,
                a.node,
                a.engine.as_engine(),
                a.driver,
                a.tunnel,
                sockets,
                a.time - 2_500_000_000,
                [Bpf("not in this test"), Sandbox(7, True)],
                cast(Any, SimpleNamespace(fwmark=7, mark_held=lambda: 7)),
                cast(Any, SimpleNamespace(problems=["ws0 was set down"])),
            )
        )
        told = status.parse(json.loads(json.dumps(raw)))
        assert told.sandbox == status.Sandbox(landlock=7, seccomp=True)
        assert told.agent.node_id == ident.encode_node_id(a.identity.node_id)
        assert (told.agent.backend, told.agent.cipher) == ("mmsg", "openssl")
        assert (told.agent.uptime_s, told.agent.listen_port) == (2.5, 51820)
        assert (told.agent.offloads.tun_uso, told.agent.offloads.tun_tso) == (False, True)
        assert told.agent.rss_bytes > 1 << 20
        assert told.counters.drops["tun_malformed"] == 17
        assert [p.name for p in told.peers] == ["b", "c"]
        assert told.peers[0].endpoint == "192.0.2.2:51820"
        assert told.peers[0].candidates == ("192.0.2.2:51820",)
        assert told.peers[0].overlay_address == str(b.identity.overlay_address)
        assert told.peers[0].state == "idle"
        assert told.peers[0].last_handshake_s is None
        assert told.peers[1].id is None
        m = told.peers[0].multipath
        assert m is not None
        assert (m.scheduling, m.scheduler) == (True, "edf")
        assert (m.paths[0].local, m.paths[0].remote) == ("10.0.0.1:51820", "[2001:db8::7]:51820")
        assert (m.paths[0].rtt_ms, m.paths[0].queue_ms, m.paths[0].weight) == (21.312, 4.1, 0.6667)
        assert m.paths[1].rtt_ms is None
        for given, name in ((m, "acks_rx"), (m.reordering, "skipped_full"), (m.queue, "drops")):
            key = "queue_drops" if name == "drops" else name
            assert getattr(given, name) == paths.counters[key]
        # Every field of the shape is told, none left to its default.
        (of_b, *_) = raw["peers"]
        for shape, value in (
            (status.Multipath, of_b["multipath"]),
            (status.Path, of_b["multipath"]["paths"][0]),
            (status.Pin, of_b["multipath"]["paths"][0]["pin"]),
            (status.Reordering, of_b["multipath"]["reordering"]),
            (status.Queue, of_b["multipath"]["queue"]),
        ):
            assert set(value) == set(shape.__struct_fields__)
        assert told.peers[1].multipath is None
        assert told.peers[1].fingerprint == ident.encode_fingerprint(c.identity.fingerprint)
        assert [e.event for e in told.events][:1] == ["added"]
        # No key that is secret is in it.
        text = json.dumps(raw)
        assert ident.encode_seed(a.identity.seed) not in text
        assert a.identity.static_private.hex() not in text

    run(test)


class Running:
    """An agent in operation, its engine and netlink doubles; `ws reload` and `wg set` of it."""

    def __init__(self, file: File, host: Host, config: Config) -> None:
        self.host, self.netlink = host, FakeNetlink()
        self.agent = agent = Agent(config, host.identity, host.limits, LogBuffer())
        agent._netlink = self.netlink.as_netlink()
        agent._interface = TunnelInterface(agent._netlink, "ws0", host.identity)
        agent._interface.ifindex, agent._interface.queue = 7, 500
        self.netlink.addresses = set(agent._interface.addresses(config))
        agent._engine, agent._tunnel = host.engine.as_engine(), host.tunnel
        agent._driver = host.driver
        agent._sockets = self.sockets = Sockets(agent._engine)
        self.sockets.open(51820)
        agent._routes = Routes(agent._netlink, 7, "ws0")
        agent._device = self.device = WgDevice(
            host.identity, host.node, agent._engine, host.tunnel, self.sockets, 0,
            lambda: agent._routes.table, agent._changing,
        )  # fmt: skip
        self.marks = FakeMarks()
        agent._keeper = Keeper(
            agent._netlink, 7, "ws0", self.marks.as_marks(), agent._wanted, agent._changing,
            host.tunnel.tell,
        )  # fmt: skip
        agent._routing = Routing(
            config, agent._netlink, agent._routes, agent._device, host.tunnel, agent._keeper,
            agent._interface.addresses, agent._changing, agent._background, agent._notices,
        )  # fmt: skip
        self.mtu = TunnelMtu(
            config, agent._netlink, 7, agent._engine, host.tunnel, agent._routes,
            agent._changing, agent._background, agent._notices,
        )  # fmt: skip
        agent._parts += [agent._routing, self.mtu]
        agent._subject = cast(Any, SimpleNamespace(config=config))
        host.tunnel.set_multipath(reload.multipath(config), config.interface.mtu)

    async def reload(self) -> list[str]:
        return list((await self.agent._reload({}))["changes"])

    def state(self) -> Any:
        return (
            set(self.netlink.addresses), set(self.netlink.routes), set(self.netlink.rules),
            (self.netlink.mtu, self.host.engine.mtu),
            (self.sockets.port, self.device.fwmark, self.host.engine.fwmark),
            [p.spec for p in self.host.tunnel.peers.values()],
            self.host.driver.multipath,
        )  # fmt: skip


OTHER_INTERFACE = """
[interface]
name = "ws0"
private_key_file = "ws0.key"
addresses = ["10.99.0.1/24"]
listen_port = 51999
fwmark = 99
mtu = 1300
[multipath]
scheduler = "wrr"
"""


@pytest.mark.parametrize("fault", ["route", "mtu", "key"])
def test_a_failed_reload_leaves_all_as_it_was(
    tmp_path: Path, hosts: list[Host], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "key":  # else the file is refused before anything is tried
        monkeypatch.setattr("whalescale.identity.is_low_order", lambda _: False)

    async def test() -> None:
        a, b, c, _ = hosts
        file = File(tmp_path, a)
        told = 'allowed_ips = ["10.78.0.0/16"]'
        running = Running(file, a, file.write(interface=INTERFACE + "fwmark = 5\n"))
        file.write(peer("b", b, told), interface=INTERFACE + "fwmark = 5\n")
        assert await running.reload() == ["peer b added"]
        before = running.state()
        assert before[4] == (51820, 5, 5)
        second = peer("c", c, 'allowed_ips = ["10.80.0.0/16"]')
        if fault == "key":  # of low order: the core refuses it, last of all
            second = f'name = "c"\nwireguard_public_key = "{"A" * 43}="'
        more = peer("b", b, 'allowed_ips = ["10.78.0.0/16", "10.79.0.0/16"]')
        file.write(more, second, interface=OTHER_INTERFACE)
        route = Route(ipaddress.ip_network("10.80.0.0/16"), MAIN_TABLE)
        running.netlink.refused = {route if fault == "route" else fault: errno.EINVAL}
        said = {"route": "10.80.0.0/16", "mtu": "MTU", "key": "low order"}[fault]
        with pytest.raises(AgentError, match=said):
            await running.reload()
        assert running.state() == before
        if fault != "key":
            running.netlink.refused = {}
            assert "interface.fwmark changed" in await running.reload()
            after = running.state()
            assert (after[3], after[4]) == ((1300, 1300), (51999, 99, 99))
            assert running.host.driver.multipath.scheduler is Scheduler.WRR
            assert "10.77.0.1/24" not in {str(x) for x in after[0]}

    run(test)


def test_a_reload_keeps_what_the_paths_allow(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        a = hosts[0]
        file = File(tmp_path, a)
        running = Running(file, a, file.write())
        told: list[int] = []
        managers = a.node.guest(Multipath)
        keep = managers.set_settings
        managers.set_settings = lambda s, mtu, now: (told.append(mtu), keep(s, mtu, now))[1]
        a.driver.paths.apply(0, 0, PacketLimit(1350))
        await running.mtu.follow_limits()
        for configured, in_force in ((1500, 1350), (1320, 1320), (1420, 1350)):
            file.write(interface=INTERFACE + f"mtu = {configured}\n")
            assert await running.reload() == ["interface.mtu changed"]
            assert running.state()[3] == (in_force, in_force)
        assert told == [1500, 1320, 1420]
        # IPv6 would be taken down on the interface.
        a.driver.paths.apply(0, 0, PacketLimit(1279))
        await running.mtu.follow_limits()
        assert running.state()[3] == (1280, 1280)
        a.driver.paths.forget(0)
        await running.mtu.follow_limits()
        assert running.state()[3] == (1420, 1420)

    run(test)


def test_a_reload_takes_multipath_over(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        file = File(tmp_path, hosts[0])
        running = Running(file, hosts[0], file.write())
        assert hosts[0].driver.multipath == MultipathSettings()
        file.write(
            interface=INTERFACE + "[multipath]\nenabled = false\nscheduler = 'backup'\n"
            "reorder_depth = 128\nlate = 'drop'\nrepair = false\nalign = false\nbbr = true\n"
        )
        names = ("enabled", "scheduler", "reorder_depth", "late", "repair", "align", "bbr")
        assert await running.reload() == [f"multipath.{n} changed" for n in names]
        assert hosts[0].driver.multipath == MultipathSettings(
            False,
            Scheduler.BACKUP,
            128,
            deliver_late=False,
            repair=False,
            align=False,
            bbr=True,
        )
        file.write()
        assert len(await running.reload()) == 7
        assert hosts[0].driver.multipath == MultipathSettings()

    run(test)


def test_wg_set_waits_for_a_reload_to_end(tmp_path: Path, hosts: list[Host]) -> None:
    async def test() -> None:
        a, b, c, _ = hosts
        file = File(tmp_path, a)
        running = Running(file, a, file.write())
        file.write(peer("b", b, 'allowed_ips = ["10.78.0.0/16"]'))
        await running.reload()
        file.write(
            peer("b", b, 'allowed_ips = ["10.78.0.0/16", "10.79.0.0/16"]'),
            peer("c", c, 'allowed_ips = ["10.80.0.0/16"]'),
        )
        reached, go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            reached.set()
            await go.wait()

        running.netlink.hold = hold
        reloading = asyncio.create_task(running.reload())
        await reached.wait()
        # The reload has decided to change peer b, and is not there yet.
        gone = PeerChange(b.identity.static_public, remove=True)
        setting = asyncio.create_task(running.device.change(SetRequest(peers=[gone])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(a.tunnel.peers) == 1
        go.set()
        assert await reloading == ["peer c added", "peer b changed"]
        await setting
        assert [p.spec.name for p in a.tunnel.peers.values()] == ["c"]

    run(test)
