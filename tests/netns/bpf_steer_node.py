"""Steering by the kernel, in a namespace of its own: bpf_steer_node.py; prints JSON.

{"udp": {"family worker": [wanted, got]}, "udp_counts": [steered, left], "fallback": datagrams that
came though their group was let go, "tun": {...}, "tun_counts": [...]}
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
from collections import Counter

from whalescale.dataplane import confine
from whalescale.dataplane.programs import Program, Programs

WORKERS = 4
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI = 0x0001, 0x0100, 0x1000


def group(family: int, address: str, port: int) -> list[socket.socket]:
    made = []
    for _ in range(WORKERS):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, port))
        s.setblocking(False)
        made.append(s)
    return made


def messages(index: int) -> list[tuple[int, bytes]]:
    """(worker that must get it, datagram) of every type."""
    me, other = struct.pack("<I", index), struct.pack("<I", index + 1)
    return [
        (index % WORKERS, b"\x04\0\0\0" + me + bytes(40)),
        (index % WORKERS, b"\x03\0\0\0" + me + bytes(56)),
        (index % WORKERS, b"\x02\0\0\0" + other + me + bytes(80)),
        (0, b"\x01\0\0\0" + other + bytes(140)),
        (0, b"\x57\0\0\0" + other + bytes(120)),
        (0, b"\x04"),
    ]


def drain(sockets: list[socket.socket]) -> list[bytes]:
    got = []
    select.select(sockets, [], [], 5)  # the kernel may be a moment late with the first
    for number, s in enumerate(sockets):
        while True:
            try:
                data = s.recv(2048)
            except BlockingIOError:
                break
            got.append(bytes([number]) + data)
    return got


def udp(programs: Programs, result: dict[str, object]) -> None:
    wrong, right = [], Counter[str]()
    numbers = []
    for family, address, port in (
        (socket.AF_INET, "127.0.0.1", 6000),
        (socket.AF_INET, "0.0.0.0", 6001),  # noqa: S104
        (socket.AF_INET6, "::1", 6000),
        (socket.AF_INET6, "::", 6002),
    ):
        sockets = group(family, address, port)
        numbers.append(programs.steer([s.fileno() for s in sockets]))
        target = "127.0.0.1" if family == socket.AF_INET else "::1"
        for index in (*range(64), 0xFFFFFFFE, 0x80000001):
            for worker, data in messages(index):
                # A new socket is a new path: another port, another hash.
                with socket.socket(family, socket.SOCK_DGRAM) as s:
                    s.sendto(data, (target, port))
                for got in drain(sockets):
                    if got == bytes([worker]) + data:
                        right[f"{address} {worker}"] += 1
                    else:
                        wrong.append([worker, got[0], data.hex()])
    result["right"], result["wrong"] = right, wrong
    result["udp_counts"] = programs.steer_stats(Program.STEER)
    # The last group is let go: the kernel's hash takes over, nothing is lost.
    programs.unsteer(numbers[-1])
    for _ in range(50):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.sendto(b"\x04\0\0\0" + bytes(40), ("::1", 6002))
    result["fallback"] = len(drain(sockets))
    for s in sockets:
        s.close()
    # An address that is bound anew is a new group.
    sockets = group(socket.AF_INET6, "::", 6002)
    result["group_again"] = programs.steer([s.fileno() for s in sockets]) == numbers[-1]


def tun(programs: Programs, result: dict[str, object]) -> None:
    queues = []
    for _ in range(2):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = IFF_TUN | IFF_MULTI_QUEUE | IFF_NO_PI
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"steer0", flags))
        queues.append(fd)
    for line in ("addr add 10.9.0.1/16 dev steer0", "addr add fd09::1/32 dev steer0 nodad"):
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["ip", "link", "set", "steer0", "up"], check=True)
    owners = {"10.9.0.0/17": 0, "10.9.1.0/24": 1, "10.9.1.7/32": 0, "fd09:0:1::/48": 1}
    for network, worker in owners.items():
        programs.set_owner(ipaddress.ip_network(network), worker)
    programs.set_owner(ipaddress.ip_network("10.9.2.0/24"), 1)
    programs.remove_owner(ipaddress.ip_network("10.9.2.0/24"))
    programs.steer_tun(queues[0])
    wanted = {"10.9.1.1": 1, "10.9.1.7": 0, "10.9.2.1": 0, "10.9.200.1": 0}
    wanted |= {"fd09:0:1::5": 1, "fd09:0:2::5": 0}
    found = {}
    for target in wanted:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        for _ in range(20):
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.sendto(b"to " + target.encode(), (target, 4444))
    got = Counter[tuple[str, int]]()
    for number, fd in enumerate(queues):
        while True:
            try:
                packet = os.read(fd, 2048)
            except BlockingIOError:
                break
            _, mark, named = packet.partition(b"to ")
            if mark:
                got[named.decode(), number] += 1
    for target, queue in wanted.items():
        found[target] = [got[target, queue], got[target, 1 - queue]]
    result["tun"] = found
    result["tun_counts"] = programs.steer_stats(Program.TUNSTEER)


def main() -> None:
    programs = Programs.load(Program.STEER | Program.TUNSTEER, tag=1)
    confine.keep_net_admin_only()
    programs.check()
    result: dict[str, object] = {}
    udp(programs, result)
    tun(programs, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
