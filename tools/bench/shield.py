#!/usr/bin/env python3
"""What a datagram costs the shield: ns of one processor, by the kernel's own trial of programs.

    python -m tools.bench.shield [--folder FOLDER_OF_OBJECTS] [--repeat 100000]

BPF_PROG_TEST_RUN of bpf/shield.bpf.c at the limits of an agent, in the middle of a flood from
RFC 2544's range; the least of five runs, which other load on the machine hardly changes. What it
does not show are the caches that a flow empties meanwhile. Needs root. Exit status: 0; 4 no root.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from whalescale.dataplane.programs import FOLDER, Program, Programs
from whalescale.runtime.bpf import RATES

PROG_TEST_RUN, OBJ_GET_INFO_BY_FD = 10, 15  # enum bpf_cmd
SYS_BPF = {"x86_64": 321, "aarch64": 280}
ATTR_BYTES = 128
#: of struct bpf_prog_info
NAME_AT, NAME_BYTES, INFO_BYTES = 64, 16, 128
US, OTHER, PORT = "192.0.2.1", "192.0.2.99", 51820
PEER, FORGED = "203.0.113.7", "198.18.0.1"


def bpf(command: int, attributes: bytes) -> bytes:
    """bpf(2). OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(attributes.ljust(ATTR_BYTES, b"\0"), ATTR_BYTES)
    if libc.syscall(SYS_BPF[os.uname().machine], command, attr, ATTR_BYTES) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return attr.raw


def program(name: str) -> int:
    """The descriptor of a program that this process has loaded. LookupError."""
    for entry in Path("/proc/self/fdinfo").iterdir():
        try:
            if "prog_id:" not in entry.read_text():
                continue
        except OSError:  # the folder's own
            continue
        info = ctypes.create_string_buffer(INFO_BYTES)
        fd = int(entry.name)
        bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, INFO_BYTES, ctypes.addressof(info)))
        if info.raw[NAME_AT : NAME_AT + NAME_BYTES].rstrip(b"\0") == name.encode():
            return fd
    raise LookupError(name)


def trial(fd: int, frame: bytes, repeat: int) -> tuple[int, int]:
    """(the program's verdict, ns each)."""
    data = ctypes.create_string_buffer(frame, len(frame))
    attr = struct.pack("=IIIIQQI", fd, 0, len(frame), 0, ctypes.addressof(data), 0, repeat)
    answer = bpf(PROG_TEST_RUN, attr)
    verdict, duration = struct.unpack_from("=I28xI", answer, 4)
    return int(verdict), int(duration)


def frame(source: str, payload: bytes, to: str = US, port: int = PORT) -> bytes:
    """Ethernet, IPv4, UDP."""
    udp = struct.pack("!HHHH", 4444, port, 8 + len(payload), 0)
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + ends
    return bytes(12) + b"\x08\x00" + ip + udp + payload


def message(kind: int, size: int, mac2: int = 0) -> bytes:
    return bytes([kind, 0, 0, 0]) + os.urandom(size - 20) + bytes([mac2]) * 16


def measure(folder: Path, repeat: int) -> dict[str, int]:
    """{what: ns a datagram}."""
    programs = Programs.load(Program.SHIELD, 7, folder)
    try:
        programs.set_rates(RATES)
        programs.set_ports([PORT])
        programs.set_locals([US])
        programs.add_known(PEER)
        fd = program("shield_tc")
        initiation = message(1, 148)
        kinds = {
            "to another port": frame(FORGED, initiation, port=99),
            "to another address": frame(FORGED, initiation, to=OTHER),
            "transport": frame(FORGED, message(4, 1200)),
            "no message of ours": frame(FORGED, message(9, 148)),
            "forged initiation": frame(FORGED, initiation),
            "… with a mac2": frame(FORGED, message(1, 148, 1)),
            "… from a peer's address": frame(PEER, initiation),
            "response that nobody awaits": frame(FORGED, message(2, 92)),
        }
        for _ in range(2 * RATES.strangers_burst):  # the flood that goes before
            bits = random.getrandbits(16)
            trial(fd, frame(f"198.18.{bits >> 8}.{bits & 255}", initiation), 1)
        return {
            what: min(trial(fd, data, repeat)[1] for _ in range(5)) for what, data in kinds.items()
        }
    finally:
        programs.close()


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="with shield.bpf.o")
    parser.add_argument("--repeat", type=int, default=100_000)
    asked = parser.parse_args(words)
    if os.geteuid() != 0:
        print("needs root: eBPF programs", file=sys.stderr)
        return 4
    for what, ns in measure(asked.folder, asked.repeat).items():
        print(f"{what:30} {ns:5d} ns")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
