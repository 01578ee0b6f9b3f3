"""Send datagrams: bpf_send.py PLAN.json; prints how many went out.

PLAN: {"to": [address, port], "datagrams": [[hex, count], ...], "gso": bytes or 0,
"spoof": how many IPv4 sources, 0: none}. With "gso" each entry is one send cut by the kernel.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

UDP_SEGMENT = 103


def spoofed(source: int, to: tuple[str, int], data: bytes) -> bytes:
    """An IPv4 packet without checksums (the kernel fills in IP's, 0 is none for UDP)."""
    udp = struct.pack("!HHHH", 1024 + source % 60000, to[1], 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
    # 11.0.0.0/8: nobody's here
    ip = struct.pack("!I", 0x0B000000 | source * 40503 % (1 << 24))
    return head + ip + socket.inet_aton(to[0]) + udp


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    to = (plan["to"][0], plan["to"][1])
    sent = 0
    if plan["spoof"]:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        for text, count in plan["datagrams"]:
            for i in range(count):
                raw.sendto(spoofed(i % plan["spoof"], to, bytes.fromhex(text)), (to[0], 0))
                sent += 1
    else:
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        if plan["gso"]:
            s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, plan["gso"])
        for text, count in plan["datagrams"]:
            data = bytes.fromhex(text)
            for _ in range(count):
                s.sendto(data, to)
                sent += 1
    print(sent)


if __name__ == "__main__":
    main()
