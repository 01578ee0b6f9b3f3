#!/usr/bin/env python3
"""What an anchor's relay costs: python -m tools.relaybench [ROW...] [--seconds N] [--rounds N]

    laptop ── veth ── home, the anchor ── veth ── phone

Rows (needs root; `--json` prints figures alone):
    tcp     one TCP flow relayed by the kernel and by the workers, against a direct veth between two
            agents; and the anchor's CPU for each GB, against what one endpoint spends directly.
    small   datagrams of 64 bytes, alone and in runs: how many the kernel's relay sends on in a
            second, and what each costs, against those that go through a tunnel.

The kernel's relay runs in the interrupts of whoever sends, and all ends share the machine's cores:
a relayed flow alone says what three hosts on two cores do. So it is measured without the others:
    its rate    by a core of its own: the sender is held on one, what comes to the anchor is handed
                to the other (RPS), and the far end drops it as it comes. An endpoint's rate is that
                of two agents on the same two cores.
    its CPU     a sender held on one core does all of the way in its own system calls, so what a
                datagram takes longer over the anchor than over a link is what the anchor costs: one
                more virtual link, the programs, and sending it on. An endpoint's is half of what
                the machine spends for a datagram between two agents.
The workers' CPU is that of their process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.bench import load
from tools.bench.contestants import Pair
from tools.bench.targets import WS
from tools.netlab import Host, Lab, LabError, Link, wait_until
from tools.peers import ROOT, Whalescale
from whalescale.bench import measure
from whalescale.bench.measure import Load

KERNEL, WORKERS, DIRECT = "kernel", "workers", "direct"
PHONE = "10.99.0.3"
PORT = 51820
INDEX, FROM_PORT = 0x5753, 51999
#: (figure, against): the least that issue's table asks for
MUST = {"tcp": {KERNEL: 0.80, WORKERS: 0.60}, "cpu": {KERNEL: 0.25, WORKERS: 0.60}, "small": 1.0}

#: what a full packet of the tunnel is on the wire
LARGE = 1452
DROPS = """
table netdev far {{
  chain end {{
    type filter hook ingress device {device} priority 0;
    udp dport {port} drop
  }}
}}
"""
#: whose window the hosts know from then on (tcp_metrics): else the row that comes first has less
FIRST = Load(2.0)

Figures = dict[str, dict[str, float]]
Place = tuple[str, int]


@dataclass
class Ends:
    """As much of a pair as tools/bench/load.py needs: from a to b."""

    a: Host
    b: Host
    target: str


def _end(host: Host, number: int) -> Whalescale:
    end = Whalescale(host, f"wsr{os.getpid() % 100000}-{number}", (), PORT + number)
    end.env["WHALESCALE_STATE_DIR"] = str(end.runtime.with_name("state"))
    end.write_config()
    return end


def _up(end: Whalescale) -> None:
    end.launch()
    end.wait_for_uapi()


def _reaches(end: Whalescale) -> bool:
    return end.host.run("ping", "-c1", "-W1", PHONE, check=False).returncode == 0


@contextlib.contextmanager
def relayed() -> Iterator[tuple[Ends, Whalescale]]:
    """Two members without a direct way, and the anchor between them. LabError."""
    with Lab() as lab:
        hub, *others = (lab.host(name) for name in ("home", "laptop", "phone"))
        links = [lab.link(hub, other) for other in others]
        hub.sysctl("net.ipv4.ip_forward", 0)
        for link, other in zip(links, others, strict=True):
            other.ip(f"route add default via {link.address(hub)}")
        home, laptop, phone = (_end(h, n) for n, h in enumerate((hub, *others), start=1))
        text = home.config.read_text(encoding="utf-8")
        home.config.write_text(f"{text}\n[network]\nanchor = true\n[relay]\nkernel = true\n")
        words = ("create", "bench", "--name", "home", "--prefix", "10.99.0.0/24")
        home.ws("network", *words, "-i", home.interface, "--config", str(home.config))
        _up(home)
        for end, name in ((laptop, "laptop"), (phone, "phone")):
            ticket = home.ws("invite", name, "-i", home.interface).stdout.strip()
            end.ws("join", ticket, "-i", end.interface, "--config", str(end.config))
            _up(end)
        wait_until("the relay", lambda: _reaches(laptop), 90)
        _let(home, kernel=True)
        time.sleep(2)  # probes of the MTU
        yield Ends(laptop.host, phone.host, PHONE), home


def _let(home: Whalescale, *, kernel: bool) -> None:
    """Who relays from here on. LabError: the kernel does not."""
    text = home.config.read_text(encoding="utf-8")
    kept = text[: text.rindex("kernel = ")]
    home.config.write_text(f"{kept}kernel = {str(kernel).lower()}\n", encoding="utf-8")
    home.ws("reload", "-i", home.interface)

    def done() -> bool:
        told: Any = home.status()
        return bool(told["relay"]["kernel"]["bindings"]) == kernel

    wait_until("the kernel's relay", done, 20)


def tcp(seconds: float) -> Figures:
    """Each with "gbps", and "cpu": seconds of the machine for a GB; relayed ones with "anchor" (its
    own) and the ratios."""
    flow = Load(seconds)
    found: Figures = {}
    with Pair(WS) as pair:
        time.sleep(1)
        load.tcp(pair, FIRST)
        direct = load.tcp(pair, flow)
    found[DIRECT] = {"gbps": direct["gbps"], "cpu": direct["cpu_s_per_gb"]}
    endpoint = direct["cpu_s_per_gb"] / 2
    with relayed() as (ends, home):
        load.tcp(ends, FIRST)  # type: ignore[arg-type]
        for name in (KERNEL, WORKERS):
            _let(home, kernel=name == KERNEL)
            assert home.process is not None
            before = measure.process_seconds(home.process.pid)
            told = load.tcp(ends, flow)  # type: ignore[arg-type]
            agent = measure.process_seconds(home.process.pid) - before
            anchor = agent / (told["gbps"] * seconds / 8)
            if name == KERNEL:
                anchor += _costs(seconds, LARGE, gso=True) / LARGE * measure.GB
            found[name] = {
                "gbps": told["gbps"],
                "cpu": told["cpu_s_per_gb"],
                "anchor": anchor,
                "of_direct": told["gbps"] / direct["gbps"],
                "of_endpoint": anchor / endpoint,
            }
    return found


def _hub(setup: dict[str, Any]) -> int:
    """In the anchor's namespace: an engine with bindings. A line of JSON for each line read.

    {"devices", "hook", "locals", "bindings": [[index, sender's [ip, port], receiver's], ...]}
    """
    from whalescale.dataplane.engine import Addr, Engine, now
    from whalescale.dataplane.programs import Hook, Program, Programs
    from whalescale.dataplane.relay import Relay
    from whalescale.runtime.tun import open_tun

    programs = Programs.load(Program.SHIELD | Program.PATHS | Program.RELAY, tag=78)
    engine = Engine(public_key=bytes(32), mtu=1420)
    tun = open_tun("wsr0", queues=1, tso=True, uso=True)
    engine.set_tun(0, tun.fds[0])
    engine.use_programs(programs.handle)
    for every in ("0.0.0.0", "::"):  # noqa: S104
        engine.open_socket(Addr(every, PORT))
    engine.start()
    programs.set_ports([PORT])
    programs.set_locals(setup["locals"])
    for device in setup["devices"]:
        programs.attach(socket.if_nametoindex(device), Hook[setup["hook"]])
    relay = Relay(engine)
    until = now() + 600 * 10**9
    for index, source, target in setup["bindings"]:
        relay.set(index, 1, [Addr(*source)], Addr(*target), None, until=until)
    print(json.dumps(relay.beat()._asdict()), flush=True)
    for _ in sys.stdin:
        print(json.dumps(relay.beat()._asdict()), flush=True)
    engine.use_programs(None)
    programs.close()
    engine.close()
    return 0


class Anchor:
    """An engine in the host that relays in the kernel between links, without agents. LabError."""

    def __init__(
        self,
        host: Host,
        links: list[Link],
        bindings: list[tuple[int, Place, Place]],
        hook: str = "TC",
    ) -> None:
        setup = {
            "devices": [link.device(host) for link in links],
            "hook": hook,
            "locals": [link.address(host, family) for link in links for family in (4, 6)],
            "bindings": bindings,
        }
        self.process = host.spawn(
            *(sys.executable, "-m", "tools.relaybench", "--hub", json.dumps(setup)),
            env={"PYTHONPATH": str(ROOT)},
        )
        self._answers = 0
        if self._answer()["bindings"] != len(bindings):
            raise LabError(f"the kernel does not relay: {self.process.log()}")

    def _answer(self) -> dict[str, int]:
        self._answers += 1
        wait_until(
            "the anchor",
            lambda: self.process.log().count("\n") >= self._answers or self.process.poll(),
            20,
        )
        found: dict[str, int] = json.loads(self.process.log().split("\n")[self._answers - 1])
        return found

    def ask(self) -> dict[str, int]:
        """What the kernel has counted (whalescale.dataplane.relay.InKernel)."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self._answer()


def _seconds(seconds: float, size: int, *, gso: bool, relay: bool, own: bool = False) -> float:
    """Of a sender held on the first core, for a datagram that came: from a to b, over the anchor or
    a link. `own`: the anchor has the second core to itself; else b reads there."""
    program = load.udpblast()
    with Lab() as lab:
        hub, a, b = (lab.host(name) for name in ("hub", "a", "b"))
        one, two, direct = lab.link(hub, a), lab.link(hub, b), lab.link(a, b)
        at, to, port = direct.address(b), direct.address(b), load.BLAST_PORT
        if relay:
            at, to, port = two.address(b), one.address(hub), PORT
            place = (one.address(a), FROM_PORT)
            anchor = Anchor(hub, [one, two], [(INDEX, place, (at, load.BLAST_PORT))])
        if own:
            queue = f"/sys/class/net/{one.device(hub)}/queues/rx-0/rps_cpus"
            hub.run("sh", "-c", f"echo 2 > {queue}")
            b.run("nft", "-f", "-", stdin=DROPS.format(device=two.device(b), port=load.BLAST_PORT))
        else:
            sink = b.spawn(
                *("taskset", "-c", "1", program, "sink", "--listen", at),
                *("--port", str(load.BLAST_PORT), "--seconds", f"{seconds + 5:g}"),
                *(["--gro"] if gso else []),
            )
            wait_until("the sink", lambda: "ready" in sink.log() or sink.poll() is not None)
        sent = load.last_json(
            a.run(
                *("taskset", "-c", "0", program, "send", "--to", to, "--port", str(port)),
                *("--size", str(size), "--seconds", f"{seconds:g}", *(["--gso"] if gso else [])),
                *("--index", str(INDEX), "--from-port", str(FROM_PORT)),
                timeout=seconds + 20,
            ).stdout
        )
        came = sent["sent"]
        if relay:
            came = anchor.ask()["datagrams"]
            anchor.process.stop(timeout=5)
    return sent["seconds"] / came


def _costs(seconds: float, size: int, *, gso: bool) -> float:
    """CPU seconds of an anchor for a datagram."""
    one, other = (_seconds(seconds, size, gso=gso, relay=relay) for relay in (True, False))
    return max(one - other, 0.0)


def small(seconds: float) -> Figures:
    """Datagrams a second; "us": CPU microseconds for each."""
    if len(os.sched_getaffinity(0)) < 2:
        raise LabError("the anchor takes a core of its own: this machine has one")
    endpoint: dict[str, float] = {}
    anchor: dict[str, float] = {}
    with Pair(WS) as pair:
        time.sleep(1)
        for name, gso in (("alone", False), ("runs", True)):
            told = load.udp(pair, seconds, load.SMALL_PAYLOAD, gso=gso, gro=True)
            endpoint[name] = told["pps"]
            each = told["cpu_s_per_gb"] * load.SMALL_PAYLOAD / measure.GB / 2
            endpoint[f"{name}_us"] = each * 1e6
    for name, gso in (("alone", False), ("runs", True)):
        anchor[name] = 1 / _seconds(seconds, load.SMALL_PAYLOAD, gso=gso, relay=True, own=True)
        anchor[f"{name}_us"] = 1e6 * _costs(seconds, load.SMALL_PAYLOAD, gso=gso)
        anchor[f"{name}_of_endpoint"] = anchor[name] / endpoint[name]
        anchor[f"{name}_us_of_endpoint"] = anchor[f"{name}_us"] / endpoint[f"{name}_us"]
    return {"endpoint": endpoint, KERNEL: anchor}


ROWS: dict[str, Callable[[float], Figures]] = {"tcp": tcp, "small": small}


def _middle(rounds: list[Figures]) -> Figures:
    return {
        name: {key: statistics.median(r[name][key] for r in rounds) for key in figures}
        for name, figures in rounds[0].items()
    }


def main() -> int:
    if sys.argv[1:2] == ["--hub"]:
        return _hub(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description="What an anchor's relay costs.")
    parser.add_argument("row", nargs="*", choices=[*ROWS, []], help="without: all")
    parser.add_argument("--seconds", type=float, default=5, help="of each sample [5]")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts [3]")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        print("relaybench: needs root (network namespaces)", file=sys.stderr)
        return 4
    found: dict[str, Figures] = {}
    for row in chosen.row or ROWS:
        rounds: list[Figures] = []
        for number in range(1, chosen.rounds + 1):
            began = time.monotonic()
            rounds.append(ROWS[row](chosen.seconds))
            took = time.monotonic() - began
            print(f"{row}: round {number} of {chosen.rounds}, {took:.0f} s", file=sys.stderr)
        found[row] = _middle(rounds)
        if not chosen.json:
            _show(row, found[row])
    if chosen.json:
        print(json.dumps(found))
    return 0


def _show(row: str, figures: Figures) -> None:
    for name, values in figures.items():
        words = "  ".join(f"{key} {value:,.3f}" for key, value in values.items())
        print(f"{row:6} {name:9} {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
