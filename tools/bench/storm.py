#!/usr/bin/env python3
"""A thousand new peers at once: the protocol core as the load, one UDP socket a peer.

Runs in a namespace of its own, started by crowds.py with a JSON object on stdin: `agent_key` and
`seeds` (hex), `address`, `port`, `seconds`. Prints a JSON object: how long until all were
connected. Every initiation is made before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from whalescale.identity import Identity
from whalescale.protocol.messages import COOKIE_REPLY, TRANSPORT
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import HandshakeCompleted, KeypairReady


@dataclass(slots=True)
class One:
    """One of the new peers."""

    node: Node
    socket: socket.socket
    done: bool = False
    sent: int = 0
    cookies: int = 0
    keys: KeypairReady | None = field(default=None, repr=False)

    def flush(self) -> None:
        while (transmit := self.node.poll_transmit()) is not None:
            self.sent += 1
            _send(self.socket, transmit.data)
        while (event := self.node.poll_event()) is not None:
            if isinstance(event, KeypairReady):
                self.keys = event
            elif isinstance(event, HandshakeCompleted):
                self.done = True

    def confirm(self) -> None:
        """The empty transport message that shows the responder that we hold the key (5.4.6)."""
        assert self.keys is not None
        sealed = ChaCha20Poly1305(bytes(self.keys.send_key)).encrypt(bytes(12), b"", b"")
        _send(self.socket, struct.pack("<IIQ", TRANSPORT, self.keys.remote_index, 0) + sealed)


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except (BlockingIOError, ConnectionRefusedError):
        return  # lost, as on any path: the core's timer sends it again


def make(seeds: list[bytes], agent_key: bytes, address: str, port: int) -> list[One]:
    """Every peer with its socket; its initiation waits to be flushed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    crowd = []
    for seed in seeds:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect((address, port))
        sock.setblocking(False)
        node = Node(Identity.from_seed(seed), random=os.urandom, wall_clock=time.time_ns)
        now = time.monotonic_ns()
        config = PeerConfig(static_public=agent_key, endpoints=(Endpoint(address, port),))
        node.want_handshake(node.add_peer(config, now), now)
        crowd.append(One(node, sock))
    return crowd


def storm(crowd: list[One], seconds: float) -> dict[str, float]:
    """All at once; until all are connected or the time is up."""
    poll = select.epoll()
    by_fd = {one.socket.fileno(): one for one in crowd}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    waiting = len(crowd)
    cpu = time.process_time()
    start = time.monotonic()
    for one in crowd:
        one.flush()
    sent_all = time.monotonic() - start
    last = start
    timers = start
    while waiting and time.monotonic() - start < seconds:
        for fd, _ in poll.poll(0.02, 256):
            one = by_fd[fd]
            try:
                data = one.socket.recv(2048)
            except (BlockingIOError, ConnectionRefusedError):
                continue
            one.cookies += data[:1] == bytes([COOKIE_REPLY])
            was = one.done
            if data[:1] == bytes([TRANSPORT]):
                continue
            one.node.receive_datagram(
                data, Endpoint(*one.socket.getpeername()[:2]), None, time.monotonic_ns()
            )
            one.flush()
            if one.done and not was:
                one.confirm()
                waiting -= 1
                last = time.monotonic()
        now = time.monotonic()
        if now - timers > 0.05:
            timers = now
            for one in crowd:
                if not one.done:
                    one.node.handle_timeout(time.monotonic_ns())
                    one.flush()
    return {
        "complete": len(crowd) - waiting,
        "seconds": (last if not waiting else time.monotonic()) - start,
        "sent_all_s": sent_all,
        "driver_cpu_s": time.process_time() - cpu,
        "sent": sum(one.sent for one in crowd),
        "cookies": sum(one.cookies for one in crowd),
    }


def main() -> int:
    job = json.load(sys.stdin)
    seeds = [bytes.fromhex(seed) for seed in job["seeds"]]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < len(seeds) + 32:
        print(f"storm: {len(seeds)} sockets, but RLIMIT_NOFILE is {hard}", file=sys.stderr)
        return 1
    wanted = len(seeds) + 32
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    crowd = make(seeds, bytes.fromhex(job["agent_key"]), job["address"], int(job["port"]))
    print(json.dumps(storm(crowd, float(job["seconds"]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
