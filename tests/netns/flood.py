"""Bad datagrams in numbers: flood.py PLAN.json; prints how many of each kind were sent.

PLAN: {"to": [address, port], "count": N, "sources": ports to send from, "public_key": hex,
"genuine": [hex, ...]}. The genuine ones are datagrams that the target has seen already (transport
messages and handshakes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import sys
from collections import Counter
from pathlib import Path

TRANSPORT = b"\x04\0\0\0"
VARIANTS = 512


def mac1_key(public_key: bytes) -> bytes:
    return hashlib.blake2s(b"mac1----" + public_key).digest()


def with_mac1(message: bytes, key: bytes) -> bytes:
    """The message with a right mac1 in place of its last 32 bytes, mac2 zero."""
    body = message[:-32]
    return body + hashlib.blake2s(body, digest_size=16, key=key).digest() + bytes(16)


def make(plan: dict[str, object], rng: random.Random) -> list[tuple[str, bytes]]:
    """`VARIANTS` of each kind of bad datagram."""
    key = mac1_key(bytes.fromhex(str(plan["public_key"])))
    genuine = [bytes.fromhex(text) for text in plan["genuine"]]  # type: ignore[attr-defined]
    data = [d for d in genuine if d[:4] == TRANSPORT and len(d) > 32]
    handshakes = [d for d in genuine if d[:1] == b"\x01"]
    out: list[tuple[str, bytes]] = []
    for _ in range(VARIANTS):
        real = rng.choice(data)
        counter = int.from_bytes(real[8:16], "little")
        ahead = (counter + rng.randrange(1 << 20, 1 << 30)).to_bytes(8, "little")
        flipped = bytearray(real[:8] + ahead + real[16:])
        flipped[rng.randrange(16, len(flipped))] ^= 1 << rng.randrange(8)
        header_flipped = bytearray(real)
        header_flipped[rng.randrange(4)] ^= 1 << rng.randrange(8)
        stranger = rng.randbytes(4)
        out += [
            ("empty", b""),
            ("truncated", real[: rng.randrange(1, 32)]),
            ("truncated later", real[:8] + ahead + real[16 : rng.randrange(32, len(real))]),
            (
                "unknown type",
                bytes([rng.randrange(5, 0x57)]) + rng.randbytes(rng.randrange(3, 200)),
            ),
            ("reserved bytes", b"\x04\0\x01\0" + real[4:]),
            ("long handshake", b"\x01\0\0\0" + rng.randbytes(rng.randrange(145, 1400))),
            ("oversized", TRANSPORT + rng.randbytes(rng.randrange(2000, 9000))),
            ("mac1 of nobody", b"\x01\0\0\0" + rng.randbytes(144)),
            ("unknown index", TRANSPORT + stranger + rng.randbytes(rng.randrange(24, 1400))),
            ("forged", real[:8] + ahead + rng.randbytes(len(real) - 16)),
            ("bit-flipped", bytes(flipped)),
            ("type bit-flipped", bytes(header_flipped)),
            ("replayed", real),
            ("wrong key", with_mac1(b"\x01\0\0\0" + rng.randbytes(144), key)),
            ("response to nobody", with_mac1(b"\x02\0\0\0" + rng.randbytes(88), key)),
            ("cookie to nobody", b"\x03\0\0\0" + rng.randbytes(60)),
            ("bootstrap noise", b"\x57\0\0\0" + rng.randbytes(124)),
        ]
        if handshakes:
            out.append(("replayed handshake", rng.choice(handshakes)))
    rng.shuffle(out)
    return out


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    address, port = plan["to"]
    datagrams = make(plan, random.Random(7))  # noqa: S311
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sent: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(plan["sources"]):
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.connect((address, port))
            sockets.append(sock)
        for number in range(plan["count"]):
            kind, data = datagrams[number % len(datagrams)]
            try:
                sockets[number // 8 % len(sockets)].send(data)
            except OSError:
                # A full queue, or an ICMP error from before: this one did not go out.
                continue
            sent[kind] += 1
    print(json.dumps(sent))


if __name__ == "__main__":
    main()
