"""`ws trace` on real flows: what the kernel's TCP made of losses and of reordering.

a 10.201.1.1 ── loses 1 % ── 10.201.1.2 b        two agents, 10.77.0.1 ══ tunnel ══ 10.77.0.2
a eth0, eth1 ── 5 ms, 20 ms ── eth0, eth1 b      the same agents, two paths
a eth0, eth1 ── 4 ms, 10 ms ── eth0, eth1 b      no tunnel: packets by turns on either link
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import Two, make_two
from tools import tracing
from tools.netlab import Host, Lab, Process, Shape, wait_until
from tools.peers import ROOT, WS
from tools.twohosts import two_hosts
from whalescale.trace import events, join

pytestmark = pytest.mark.netns
FLOW = ROOT / "tools/mpbench/flow.py"
PORT = 5300
#: longer than any trace of it, bcc's start included (15 s); the lab ends what is left of it
FLOW_S = 60


def start_flow(a: Host, b: Host, address: str) -> tuple[Process, Process]:
    """From a to b, cubic, as fast as it goes; returns when it runs."""
    words = ("--port", str(PORT), "--seconds", str(FLOW_S))
    receiver = b.spawn(sys.executable, FLOW, "recv", "--bind", address, *words)
    b.wait_listening(PORT)
    sender = a.spawn(sys.executable, FLOW, "send", "--to", address, *words, "--congestion", "cubic")

    def established() -> str:
        if sender.poll() is not None:
            pytest.fail(f"the sender ended: {sender.log()}")
        return a.run("ss", "-Hnt", "state", "established", f"dport = :{PORT}").stdout.strip()

    wait_until("the flow to run", established)
    return sender, receiver


def records(out: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert all(r["version"] == 1 for r in found)
    return found


def the_flow(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the one flow that there is; it is in nearly all intervals."""
    rows = [row for record in found for row in record["flows"]]
    assert len({row["flow"] for row in rows}) == 1
    without = [i for i, record in enumerate(found) if not record["flows"]]
    assert len(without) <= 0.2 * len(found), f"not in {without} of {len(found)}"
    assert len(found) >= 10
    return rows


def total(rows: Sequence[dict[str, Any]], name: str) -> int:
    return sum(row["change"][name] for row in rows if row["change"] is not None)


@pytest.fixture
def lossy(lab: Lab) -> Two:
    two = make_two(lab, Shape(rate_mbit=50, delay_ms=10, loss_percent=1))
    two.start()
    return two


@pytest.mark.alone
def test_losses_on_the_way_are_retransmissions_here_and_disorder_there(lossy: Two) -> None:
    start_flow(lossy.a.host, lossy.b.host, lossy.b.inside(4))
    # Dense: each recovery lasts a round trip of 20 ms, and one in eight or so is one.
    words = ("--json", "--seconds", "3", "--interval", "0.02", "--no-events")
    ends = {"a": (lossy.a, f"*:*-*:{PORT}"), "b": (lossy.b, f"*:{PORT}-*:*")}
    running = {
        name: end.host.spawn(
            *(WS, "trace", "-i", end.interface, "--flow", flow, *words), env=end.env
        )
        for name, (end, flow) in ends.items()
    }
    sent, received = (the_flow(records(running[name].finish(30))) for name in "ab")
    assert {row["peer"] for row in (*sent, *received)} == {"peer0"}
    assert {row["congestion"] for row in sent} == {"cubic"}

    assert total(sent, "total_retrans") >= 3
    first, last = sent[0]["tcp"], sent[-1]["tcp"]
    assert total(sent, "total_retrans") == last["total_retrans"] - first["total_retrans"]
    assert total(sent, "bytes_acked") > 100_000
    assert all(row["tcp"]["rtt_us"] >= 20_000 for row in sent)
    assert {"recovery", "disorder", "loss"} & {row["ca_state"] for row in sent}

    # Behind each lost segment others came out of order, and as much came as was acknowledged.
    assert total(received, "rcv_ooopack") > total(sent, "total_retrans") / 2
    assert total(received, "bytes_received") > 100_000
    assert total(received, "total_retrans") == 0


def test_what_does_not_go_through_the_tunnel_is_not_shown(lossy: Two) -> None:
    """A flow beside the tunnel, between the same hosts."""
    start_flow(lossy.a.host, lossy.b.host, lossy.link.address(lossy.b.host))
    done = lossy.a.ws("trace", "-i", lossy.a.interface, "--json", "--seconds", "1", "--no-events")
    found = records(done.stdout)
    assert found
    assert all(record["flows"] == [] for record in found)


@pytest.mark.alone
def test_the_buffer_of_two_paths_stands_beside_the_flow_over_them(lab: Lab) -> None:
    """The sender's TCP, and the gaps that the receiver's buffer closed for it."""
    two = make_two(lab, Shape(rate_mbit=50, delay_ms=5))
    lab.link(two.a.host, two.b.host, Shape(rate_mbit=50, delay_ms=20))
    two.start()
    start_flow(two.a.host, two.b.host, two.b.inside(4))

    def both_carry() -> bool:
        told = two.a.status()
        paths = (told["peers"][0]["multipath"] or {"paths": ()})["paths"]
        return sum(path["tx_bytes"] > 100_000 for path in paths) == 2

    wait_until("both paths to carry data", both_carry, 10)
    running = [
        end.host.spawn(
            *(WS, "trace", "-i", end.interface, "--json", "--seconds", "2", "--no-events"),
            env=end.env,
        )
        for end in (two.a, two.b)
    ]
    near, far = (records(process.finish(30)) for process in running)
    assert total(the_flow(near), "bytes_acked") > 1_000_000
    buffers = [buffer for record in far for buffer in record["buffers"]]
    assert len(buffers) == len(far)
    assert all(record["missing"] == {} for record in (*near, *far))
    assert all(len(buffer["paths"]) >= 2 for buffer in buffers)
    assert total(buffers, "gaps") > 10
    assert total(buffers, "gaps_filled") > 0.5 * total(buffers, "gaps")
    assert total(buffers, "held") > 10
    # Nothing waits for much longer than one path is behind the other.
    waits = [b["wait_mean_us"] for b in buffers if b["wait_mean_us"] is not None]
    assert waits
    assert 0 < max(waits) < 200_000
    figures = tracing.summary(
        *([join.decode(json.dumps(r).encode()) for r in end] for end in (near, far))
    )
    assert figures["buffer_of"] == "other"
    (blame,) = (flow["blame"] for flow in figures["flows"].values())
    assert blame["retransmitted"] == total(the_flow(near), "total_retrans")


#: a trace without an agent: of what goes through eth0, once a tenth of a second, for 3 s
BARE = """
import sys
from whalescale.trace import join, session, sockets
from whalescale.trace.flows import parse_pattern
with sockets.Sockets("eth0") as tcp:
    one = session.Session("eth0", tcp, None, pattern=parse_pattern(sys.argv[1]))
    for record in one.records(0.1, 3):
        print(join.encode(record).decode(), flush=True)
"""


@pytest.mark.alone
def test_reordering_is_seen_as_such(lab: Lab) -> None:
    """Nothing is lost: packets take the links by turns, and those of the slower one are overtaken.

    TCP takes some of that for loss, is told by DSACKs that it was none, and says that it has seen
    reordering.
    """
    two = two_hosts(lab, [Shape(delay_ms=4), Shape(delay_ms=10)], backend="linkemu")
    one, other = two.links
    address = one.address(two.b)
    # Single packets, not the 64 KiB of a super-packet, take the links by turns.
    two.a.run("ip", "link", "set", one.device(two.a), "gso_max_segs", "1")
    for host in (two.a, two.b):
        for device in ("all", "eth1"):
            host.sysctl(f"net.ipv4.conf.{device}.rp_filter", 0)
    via = f"via {other.address(two.b)} dev {other.device(two.a)}"
    two.a.ip(f"route add {address}/32 {via} table 7")
    two.a.ip("rule add fwmark 1 lookup 7")
    rules = f"""
        table ip turns {{
            chain out {{
                type route hook output priority mangle
                ip daddr {address} tcp dport {PORT} meta mark set numgen inc mod 2
            }}
        }}
    """
    two.a.run("nft", "-f", "-", stdin=rules)
    start_flow(two.a, two.b, address)
    runs = [
        host.spawn(ROOT / ".venv/bin/python", "-c", BARE, flow)
        for host, flow in ((two.a, f"*:*-*:{PORT}"), (two.b, f"*:{PORT}-*:*"))
    ]
    sent, received = (the_flow(records(run.finish(30))) for run in runs)
    last = sent[-1]["tcp"]
    assert last["reord_seen"] > 0
    assert last["reordering"] > 3
    assert last["dsack_dups"] > 0
    assert last["total_retrans"] >= last["dsack_dups"] / 2
    assert total(received, "rcv_ooopack") > 100


#: /sys has no tracefs after `ip netns exec`; and where Debian's kernel headers are is told to bcc
PREPARE = """
mount -t tracefs tracefs /sys/kernel/tracing
if [ ! -e /lib/modules/$(uname -r)/build ]; then
    arch=$(ls -d /usr/src/linux-headers-* 2>/dev/null | grep -v -- -common | tail -1)
    common=$(ls -d /usr/src/linux-headers-*-common 2>/dev/null | tail -1)
    [ -d "$arch" ] && [ -d "$common" ] || { echo "no kernel headers in /usr/src"; exit 1; }
    mount -t tmpfs tmpfs /lib/modules
    mkdir /lib/modules/$(uname -r)
    ln -s "$arch" /lib/modules/$(uname -r)/build
    ln -s "$common" /lib/modules/$(uname -r)/source
fi
exec "$@"
"""


def prepared(*command: str | Path) -> list[str | Path]:
    """The command with a mount namespace of its own in which bcc finds what it needs."""
    return ["unshare", "--mount", "sh", "-c", PREPARE, "sh", *command]


def has_bcc() -> str:
    """Why bcc cannot work here, "" if it does."""
    if os.geteuid() != 0:
        return "needs root"
    done = subprocess.run(
        prepared(events.PYTHON, "-I", events.PROGRAM),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if '"ready"' in done.stdout else done.stdout.strip() or "no kernel headers"


@pytest.mark.alone
def test_the_time_of_each_retransmission_by_bcc(lossy: Two) -> None:
    if why := has_bcc():
        pytest.skip(why)
    a = lossy.a
    start_flow(a.host, lossy.b.host, lossy.b.inside(4))
    command = prepared(WS, "trace", "-i", a.interface, "--json", "--seconds", "3")
    found = records(a.host.run(*command, env=a.env).stdout)
    assert "events" not in found[-1]["missing"]
    rows = the_flow(found)
    times = [at for row in rows for at in row["retransmits"]]
    counted = total(rows, "total_retrans")
    assert counted >= 3
    # An event is a call; one may carry more than one segment. The ends of a trace cut some off.
    assert 0.3 * counted <= len(times) <= counted + len(rows[0]["retransmits"]) + 20
    assert times == sorted(times)
    for before, record in itertools.pairwise(found):
        for row in record["flows"]:
            assert all(before["t"] - 0.1 <= at <= record["t"] for at in row["retransmits"])
