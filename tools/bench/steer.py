"""Steering programs against the kernel's hashing: one agent, many peers, a flow from each at once.

    spoke0 10.77.0.2 ── veth ──┐
    spoke1 10.77.0.3 ── veth ──┤ hub 10.77.0.1
    ...                        │

The hub is the contestant; the spokes are the same for all: one worker, no eBPF. `bpf = false`
switches the shield and the path counters off together with the steering. What these cost shows
with one worker, where there is nothing to steer: the rows with `workers=1` differ in them alone.

Each turn brings up a hub of its own, since what the hash makes of a session is drawn anew then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tools.bench.contestants import (
    check,
    confirm,
    dataplane_toml,
    make_end,
    settings,
)
from tools.bench.model import Options
from tools.bench.targets import WS
from tools.benchkit.contestants import PORT, last_words
from tools.benchkit.model import Values
from tools.netlab import Host, Lab, LabError, Process, wait_until
from tools.peers import HostEnd, Peer, Whalescale, outside
from whalescale.bench import measure
from whalescale.bench.measure import Carried, Load

PEERS = 4
CONTESTANTS = tuple(
    f"{WS}:workers={workers},bpf={bpf}" for workers in (2, 1) for bpf in ("true", "false")
)
METRICS = ("gbps", "cpu_s_per_gb", "agent_s_per_gb", "foreign_rx_percent", "foreign_tx_percent")
_FIRST_PORT = 5201


@dataclass(frozen=True, slots=True)
class Came:
    """To all workers: datagrams in runs as the kernel gives them, packets from the device."""

    receives: int
    reads: int
    foreign_rx: int
    foreign_tx: int

    @classmethod
    def of(cls, status: dict[str, Any]) -> Came:
        c = status["counters"]
        return cls(c["rx_batches"], c["tun_reads"], c["foreign_rx"], c["foreign_tx"])

    def shares_since(self, before: Came) -> dict[str, float]:
        """Per cent that came to another worker than the session's own."""

        def share(foreign: int, every: int) -> float:
            return 100 * foreign / every if every > 0 else 0.0

        rx, tx = self.foreign_rx - before.foreign_rx, self.foreign_tx - before.foreign_tx
        return {
            "foreign_rx_percent": share(rx, self.receives - before.receives),
            "foreign_tx_percent": share(tx, self.reads - before.reads),
        }


class Star:
    """A hub and its spokes, all connected. A context manager."""

    def __init__(self, name: str, peers: int = PEERS) -> None:
        """LabError, SkipError."""
        check(name)
        self.lab = Lab()
        try:
            self.hub, self.spokes = self._start(name, peers)
        except BaseException:
            self.lab.close()
            raise

    def __enter__(self) -> Star:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.close()

    @property
    def pid(self) -> int:
        assert self.hub.process is not None
        return self.hub.process.pid

    def _start(self, name: str, count: int) -> tuple[Whalescale, list[Whalescale]]:
        at_hub = self.lab.host("hub")
        hub = _end(at_hub, 1, dataplane_toml(name))
        spokes, peers = [], []
        for number in range(count):
            host = self.lab.host(f"spoke{number}")
            link = self.lab.link(at_hub, host)
            spoke = _end(host, number + 2, "bpf = false")
            spoke.write_config(_peer(hub, link.address(at_hub)))
            peers.append(_peer(spoke, link.address(host)))
            spokes.append(spoke)
        hub.write_config(*peers)
        ends: list[Whalescale] = [hub, *spokes]
        for end in ends:
            end.launch()
        for end in ends:
            end.wait_for_uapi()
        confirm(hub, settings(name))
        for spoke in spokes:
            done = spoke.run("ping", "-n", "-c2", "-i0.2", "-w12", hub.inside(), check=False)
            if done.returncode != 0:
                raise LabError(f"no ping from a spoke to the hub{last_words(ends)}")
        return hub, spokes

    def tcp(self, seconds: float) -> list[Carried]:
        """A flow from every spoke to the hub, all at once."""
        running: list[Process] = []
        flow = Load(seconds)
        try:
            ports = [_FIRST_PORT + number for number in range(len(self.spokes))]
            for port in ports:
                running.append(self.hub.host.spawn(*measure.iperf_server(self.hub.inside(), port)))
            for port in ports:
                self.hub.host.wait_listening(port)
            clients = [
                spoke.host.spawn(*flow.client(self.hub.inside(), port))
                for spoke, port in zip(self.spokes, ports, strict=True)
            ]
            running += clients
            wait_until(
                "the flows' end",
                lambda: all(c.poll() is not None for c in clients),
                flow.timeout,
            )
            return [measure.parse_iperf(c.log()) for c in clients]
        finally:
            for process in running:
                process.stop(timeout=2)


def _end(host: Host, number: int, dataplane: str) -> Whalescale:
    def kind(host: Host, name: str, addresses: tuple[str, ...]) -> HostEnd:
        return Whalescale(host, name, addresses, PORT, dataplane=dataplane)

    end = make_end(host, number, kind)
    assert isinstance(end, Whalescale)
    return end


def _peer(other: Whalescale, address: str) -> Peer:
    at = outside(address, other.port)
    return Peer(other.public_key, (f"{other.inside()}/32",), at, node_id=other.node_id)


def flows(name: str, options: Options) -> Values:
    """The hub's side of a flow from every peer."""
    with Star(name) as star:
        # Offers and first probes are Python's work, on the cores that are measured.
        time.sleep(options.of(2.0, 0.5))
        before = Came.of(star.hub.status())
        busy, agent = measure.busy_seconds(), measure.process_seconds(star.pid)
        carried = star.tcp(options.seconds)
        busy = measure.busy_seconds() - busy
        agent = measure.process_seconds(star.pid) - agent
        foreign = Came.of(star.hub.status()).shares_since(before)
    gigabytes = sum(c.bytes for c in carried) / measure.GB
    return {
        "gbps": sum(c.gbps for c in carried),
        "cpu_s_per_gb": busy / gigabytes,
        "agent_s_per_gb": agent / gigabytes,
        **foreign,
    }
