"""All at once: several workers under traffic and hostile datagrams, and every call that Python has.

Run by `dataplane_scenarios.py`, under ThreadSanitizer above all: which thread touches what is not
to be seen in any other way.
"""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable

from tests.netns.dataplane_changes import _endless
from tests.netns.dataplane_node import Addr, End, Hosts, Node, Options, Tunnel, two_nodes
from tests.netns.dataplane_traffic import in_threads, transfer, udp_pair
from whalescale.dataplane.multipath import Path, Paths, Scheduler

SPARE = [ipaddress.ip_network(text) for text in ("10.99.0.0/16", "fd99::/32")]
CONTROL = bytes((0x1A, 1, 0, 0)) + bytes(60)


def several_paths(end: End, other: Node, paths: Paths, schedule: bool = True) -> None:
    both = [Path(number, None, other.outside(), 0, True) for number in (0, 1, 2)]
    paths.set_paths(end.peer, both if schedule else both[:1], schedule=schedule)


def tuned(end: End, paths: Paths, number: int) -> None:
    for path in (0, 1, 2):
        paths.tune_path(
            end.peer, path, cap_permille=1000 - number % 1000, tier=path & 1, degraded=0,
            srtt_us=1000, max_packet=1420, rescue_us=100_000,
        )  # fmt: skip
    paths.tune(
        end.peer, scheduler=Scheduler(number % 5), repair=1, repair_age_us=200_000,
        reorder_depth=256, loss_wait_us=5000, deliver_late=0, path_idle_us=200_000,
        ack_interval_us=5000, align=number & 1, loose_hold_us=20_000,
    )  # fmt: skip


def looked_at(node: Node, end: End, paths: Paths) -> None:
    """Everything that Python reads of shared memory."""
    for worker in range(node.options.workers):
        node.engine.worker_stats(worker)
    node.engine.peer_stats(end.peer)
    node.engine.activity(end.peer)
    node.engine.endpoint(end.peer)
    paths.path_counters(end.peer, {0, 1, 2})
    paths.peer_counters(end.peer)
    node.upcalls()


def a_peer_comes_and_goes(node: Node) -> None:
    peer = node.engine.add_peer()
    node.engine.set_allowed_ips(peer, SPARE)
    node.engine.set_endpoint(peer, Addr("127.0.0.9", 9))
    node.engine.drop_staged(peer)
    node.engine.clear_keypairs(peer)
    node.engine.remove_peer(peer)


def changes_of(node: Node, tunnels: list[Tunnel], rounds: int) -> Callable[[], None]:
    """What one controlling thread does. A node's own: the API is for one thread at a time."""
    paths = Paths(node.engine)

    def run() -> None:
        for number in range(rounds):
            for tunnel in tunnels:
                end = tunnel.a if tunnel.a.node is node else tunnel.b
                other = tunnel.b.node if end is tunnel.a else tunnel.a.node
                several_paths(end, other, paths, schedule=number % 4 != 3)
                tuned(end, paths, number)
                paths.send_control(end.peer, number % 3, CONTROL, 200)
                paths.rescue(end.peer, number % 3)
                node.engine.send_control(end.peer, CONTROL)
                node.engine.send_keepalive(end.peer)
                node.engine.set_frames(end.peer, True, 0, bundles=bool(number & 1))
                node.engine.set_endpoint(end.peer, other.outside())
                looked_at(node, end, paths)
            a_peer_comes_and_goes(node)
            node.engine.set_mtu(1400 + number % 20)
            node.engine.set_fwmark(number & 1)
            extra = node.open_socket(node.netns.outside[4])
            node.engine.send(os.urandom(148), tunnels[0].second.outside())
            node.engine.close_socket(extra)
            time.sleep(0.002)

    return run


def everything(hosts: Hosts, options: Options, rounds: int) -> None:
    """Then each tunnel still carries a file, and each engine ends."""
    a, b = two_nodes(hosts, options)
    tunnels = [Tunnel(a, b, number) for number in range(options.workers + 1)]
    for tunnel in tunnels:
        for end, other in ((tunnel.a, b), (tunnel.b, a)):
            paths = Paths(end.node.engine)
            paths.prepare(end.peer, 1420, reset=True)
            tuned(end, paths, 0)
            several_paths(end, other, paths)
    stop = threading.Event()
    pairs = [udp_pair(t, 4, end) for t in tunnels for end in (t.a, t.b)]

    def shout() -> None:
        number = 0
        while not stop.wait(0.0005):
            number += 1
            for sender, receiver in pairs:
                try:
                    sender.send(bytes(number % 1300 + 1))
                    receiver.recv(2048)
                except (BlockingIOError, ConnectionError):
                    pass

    def hostile() -> None:
        """Noise, and forgeries of every session and path."""
        with b.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((a.netns.outside[4], a.port))
            while not stop.wait(0.001):
                index = a.engine.current_index(random.choice(tunnels).a.peer)  # noqa: S311
                forged = struct.pack("=IIQ", 4, index, 1 << 40 | random.randrange(9) << 56)  # noqa: S311
                sock.send(forged + os.urandom(64))
                sock.send(os.urandom(random.randrange(200)))  # noqa: S311

    def change() -> None:
        try:
            # Keys are of both ends, so between the rounds of both, and by one thread.
            for _ in range(3):
                in_threads([changes_of(node, tunnels, rounds) for node in (a, b)])
                for tunnel in tunnels:
                    tunnel.rotate()
        finally:
            stop.set()

    in_threads([change, shout, hostile, *(_endless(t, stop) for t in tunnels[:2])], timeout=240)
    for tunnel in tunnels:
        transfer(tunnel, 1 << 16)
    a.close()
    b.close()
