"""Hostile datagrams, from a router between both ends: python -m tools.soak.hostile PLAN.json

It captures what the ends send each other, and sends it on a second time, cut, lengthened, with
bits and fields changed, and beside it noise with a right mac1, forged sources and the fuzzer's
inputs. Orders on stdin, a line each: {"count": N, "rate": datagrams a second}; for each a line
{"sent": N} on stdout. PLAN: {"seed": N, "devices": [...], "targets": [[address, port, public
key in hex], ...], "forged": [address, ...], "corpus": folder}.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

CAPTURED = 2048
MAX_BYTES = 1472
#: what takes a new datagram's place once made
BATCH = 64


def mac1(message: bytes, public_key: bytes) -> bytes:
    """The message with a right mac1 in place of its last 32 bytes, mac2 zero."""
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    head = message[:-32]
    return head + hashlib.blake2s(head, digest_size=16, key=key).digest() + bytes(16)


class Maker:
    """Makes bad datagrams of good ones."""

    def __init__(self, rng: random.Random, corpus: list[bytes]) -> None:
        self.rng = rng
        self.corpus = corpus
        self.captured: deque[bytes] = deque(maxlen=CAPTURED)

    def mutated(self, data: bytes) -> bytes:
        rng, out = self.rng, bytearray(data)
        kind = rng.randrange(9)
        if kind == 0:
            return bytes(out)  # as it was: a replay
        if kind == 1:
            return bytes(out[: rng.randrange(len(out))])
        if kind == 2:
            return (bytes(out) + rng.randbytes(rng.randrange(1, 64)))[:MAX_BYTES]
        if kind == 3 and len(out) > 16:  # another counter, another path
            out[8:16] = rng.randbytes(7 if rng.random() < 0.5 else 2).ljust(8, b"\0")
        elif kind == 4 and len(out) > 8:
            out[4:8] = rng.randbytes(4)
        elif kind == 5:
            out[0] = rng.randrange(256)
        elif kind == 6 and len(self.captured) > 1:  # the head of one, the rest of another
            other = self.captured[rng.randrange(len(self.captured))]
            return bytes(out[:16]) + other[16:]
        else:
            for _ in range(rng.randrange(1, 9)):
                at = rng.randrange(len(out))
                out[at] ^= 1 << rng.randrange(8)
        return bytes(out)

    def one(self, public_key: bytes) -> bytes:
        rng = self.rng
        draw = rng.random()
        if draw < 0.6 and self.captured:
            return self.mutated(self.captured[rng.randrange(len(self.captured))])
        if draw < 0.7 and self.corpus:
            return self.corpus[rng.randrange(len(self.corpus))]
        if draw < 0.76:
            return mac1(b"\x01\0\0\0" + rng.randbytes(144), public_key)
        if draw < 0.8:
            return mac1(b"\x02\0\0\0" + rng.randbytes(88), public_key)
        if draw < 0.83:
            return b"\x03\0\0\0" + rng.randbytes(60)
        if draw < 0.86:
            return bytes([0x57 + rng.randrange(2)]) + b"\0\0\0" + rng.randbytes(124)
        if draw < 0.95:
            return b"\x04\0\0\0" + rng.randbytes(rng.randrange(12, MAX_BYTES - 4))
        return rng.randbytes(rng.randrange(0, MAX_BYTES))


def with_headers(source: str, to: str, source_port: int, port: int, data: bytes) -> bytes:
    """An IPv4 packet; the kernel writes length, id and checksum, UDP goes without."""
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0),
        *(socket.inet_aton(source), socket.inet_aton(to)),
    )
    return ip + struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data


class Sender:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.rng = random.Random(plan["seed"])  # noqa: S311
        files = sorted(Path(plan["corpus"]).glob("*")) if plan["corpus"] else []
        # A fuzzer's input is records; bytes from any place of it are as good as any noise.
        corpus = [path.read_bytes()[3 : MAX_BYTES + 3] for path in files]
        self.maker = Maker(self.rng, [c for c in corpus if c])
        self.targets = [(a, int(p), bytes.fromhex(k)) for a, p, k in plan["targets"]]
        self.forged: list[str] = plan["forged"]
        self.sockets = {f: socket.socket(f, socket.SOCK_DGRAM) for f in self.families()}
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        for sock in (*self.sockets.values(), self.raw):
            sock.setblocking(False)
        for device in plan["devices"]:
            threading.Thread(target=self.capture, args=(device,), daemon=True).start()

    def families(self) -> set[socket.AddressFamily]:
        return {family(address) for address, _, _ in self.targets}

    def capture(self, device: str) -> None:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        sock.bind((device, 3))
        ports = {port for _, port, _ in self.targets}
        while True:
            # A sample is enough, and leaves the machine to the ends.
            time.sleep(0.005)
            with contextlib.suppress(OSError):
                data, (_, protocol, *_) = sock.recvfrom(65536)
                head = (data[0] & 15) * 4 if protocol == 0x0800 else 40
                if protocol not in (0x0800, 0x86DD) or data[9 if head != 40 else 6] != 17:
                    continue
                if ports & set(struct.unpack_from("!HH", data, head)):
                    payload = data[head + 8 :]
                    if 0 < len(payload) <= MAX_BYTES:
                        self.maker.captured.append(payload)

    def burst(self, count: int, rate: int) -> int:
        """Sends so many at most so quickly; how many went out."""
        sent, began = 0, time.monotonic()
        ready: list[tuple[str, int, bytes]] = []
        for number in range(count):
            if number % BATCH == 0:
                ahead = number / rate - (time.monotonic() - began)
                if ahead > 0:
                    time.sleep(ahead)
                ready = [self.aimed() for _ in range(BATCH)]
            address, port, data = ready[number % BATCH]
            with contextlib.suppress(OSError):
                if self.forged and ":" not in address and self.rng.random() < 0.3:
                    source = self.rng.choice(self.forged)
                    source_port = self.rng.choice((port, 51820, 51821, 9))
                    packet = with_headers(source, address, source_port, port, data)
                    self.raw.sendto(packet, (address, 0))
                else:
                    self.sockets[family(address)].sendto(data, (address, port))
                sent += 1
        return sent

    def aimed(self) -> tuple[str, int, bytes]:
        address, port, key = self.rng.choice(self.targets)
        return address, port, self.maker.one(key)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def main() -> None:
    sender = Sender(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "targets" in order:
            sender.targets = [(a, int(p), bytes.fromhex(k)) for a, p, k in order["targets"]]
            continue
        print(json.dumps({"sent": sender.burst(order["count"], order["rate"])}), flush=True)


if __name__ == "__main__":
    main()
