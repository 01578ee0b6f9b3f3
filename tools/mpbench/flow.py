#!/usr/bin/env python3
"""One TCP (or MPTCP) flow with its time line; runs by itself in a namespace, standard library only.

    flow.py recv --bind ADDRESS --port P --seconds S [--mptcp] [--devices eth0,eth1]
    flow.py send --to ADDRESS --port P --seconds S [--mptcp] [--congestion bbr]

recv prints "ready" when it listens. Each prints one line of JSON at its end. Times are seconds of
CLOCK_MONOTONIC, the same for all namespaces of a machine: both ends and the bench share one clock.
iperf3 is not used: it knows no MPTCP here, and its bins are far too wide to see a stall.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

IPPROTO_MPTCP = 262
SOL_MPTCP = 284
MPTCP_TCPINFO = 2
BIN_S = 0.01
SAMPLE_S = 0.02
INFO_S = 0.1
BUFFER_BYTES = 1 << 20
SUBFLOWS_MAX = 8
#: the sender outlives the receiver, so that it is the receiver that ends the flow
SPARE_S = 3.0

#: name -> (offset, format) in struct tcp_info (linux/tcp.h)
TCP_INFO = {
    "rto_us": (8, "I"),
    "mss_bytes": (16, "I"),
    "rtt_us": (68, "I"),
    "rttvar_us": (72, "I"),
    "cwnd": (80, "I"),
    "reordering": (88, "I"),
    "retransmits": (100, "I"),
    "min_rtt_us": (148, "I"),
    "segments_sent": (156, "I"),
    "delivery_rate_bytes_s": (160, "Q"),
    "bytes_retransmitted": (208, "Q"),
    "dsack_dups": (216, "I"),
    "reord_seen": (220, "I"),
    "out_of_order": (224, "I"),
}
#: what is added up over the subflows of an MPTCP connection; of the rest the greatest counts
SUMS = {"cwnd", "retransmits", "segments_sent", "delivery_rate_bytes_s", "bytes_retransmitted",
        "dsack_dups", "reord_seen", "out_of_order"}  # fmt: skip
INFO_BYTES = 232


def decode_info(raw: bytes) -> dict[str, int]:
    """The fields of a struct tcp_info; those that an older kernel lacks are 0."""
    raw = raw.ljust(INFO_BYTES, b"\0")
    return {name: struct.unpack_from(f"={f}", raw, at)[0] for name, (at, f) in TCP_INFO.items()}


def merge(infos: list[dict[str, int]]) -> dict[str, int]:
    """One of several subflows."""
    return {
        name: (sum if name in SUMS else max)([i[name] for i in infos] or [0]) for name in TCP_INFO
    }


def info_of(sock: socket.socket, mptcp: bool) -> dict[str, int]:
    """tcp_info of the flow, over all its subflows."""
    if mptcp:
        raws = _subflows(sock)
        if raws:
            return {**merge([decode_info(r) for r in raws]), "subflows": len(raws)}
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
    return {**decode_info(raw), "subflows": 1}


def _subflows(sock: socket.socket) -> list[bytes]:
    """struct tcp_info of each subflow (linux/mptcp.h, MPTCP_TCPINFO); none when it fell back."""
    # struct mptcp_subflow_data goes in filled, so Python's getsockopt will not do.
    head = struct.pack("=IIII", 16, 0, 0, INFO_BYTES)
    buffer = ctypes.create_string_buffer(head, 16 + SUBFLOWS_MAX * INFO_BYTES)
    length = ctypes.c_uint32(len(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.getsockopt(sock.fileno(), SOL_MPTCP, MPTCP_TCPINFO, buffer, ctypes.byref(length))
    if failed:
        return []
    number = min(struct.unpack_from("=I", buffer.raw, 4)[0], SUBFLOWS_MAX)
    step = struct.unpack_from("=I", buffer.raw, 12)[0] or INFO_BYTES
    return [buffer.raw[16 + i * step : 16 + (i + 1) * step] for i in range(number)]


def open_socket(address: str, mptcp: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if mptcp else 0)


class Devices(threading.Thread):
    """Bytes received on each device, every 20 ms, from /proc/net/dev."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(daemon=True)
        self.names = names
        self.times: list[float] = []
        self.counts: dict[str, list[int]] = {n: [] for n in names}
        self.done = threading.Event()

    def run(self) -> None:
        path = Path("/proc/net/dev")
        due = time.monotonic()
        while not self.done.is_set():
            rows = {}
            for line in path.read_text().splitlines()[2:]:
                name, _, rest = line.partition(":")
                rows[name.strip()] = rest.split()
            self.times.append(round(time.monotonic(), 4))
            for name in self.names:
                self.counts[name].append(int(rows[name][0]) if name in rows else 0)
            due = max(due + SAMPLE_S, time.monotonic())
            self.done.wait(max(0.0, due - time.monotonic()))


def receive(options: argparse.Namespace) -> dict[str, Any]:
    """Take one flow for so many seconds and break it off; count bytes by 10 ms."""
    devices = Devices([d for d in options.devices.split(",") if d])
    # It stays open to the end: MPTCP's later subflows knock at it too.
    with open_socket(options.bind, options.mptcp) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.bind, options.port))
        listener.listen(8)
        listener.settimeout(15)
        print("ready", flush=True)
        sock, _ = listener.accept()
        return count(sock, options, devices)


def count(sock: socket.socket, options: argparse.Namespace, devices: Devices) -> dict[str, Any]:
    bins: list[int] = []
    error = ""
    deadline = time.monotonic() + options.seconds
    buffer = bytearray(BUFFER_BYTES)
    began = 0.0
    info: dict[str, int] = {}
    devices.start()
    with sock:
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                sock.settimeout(left)
                size = sock.recv_into(buffer)
                if size == 0:
                    error = "the sender ended it early"
                    break
                now = time.monotonic()
                began = began or now
                at = int((now - began) / BIN_S)
                if at >= len(bins):
                    bins.extend([0] * (at + 1 - len(bins)))
                bins[at] += size
                if at % 50 == 0:
                    info = info_of(sock, options.mptcp)
        except TimeoutError:
            pass  # the time is over, and nothing came at its end
        except OSError as e:
            error = f"{type(e).__name__}: {e}"
        # What is still on its way is not waited for.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    devices.done.set()
    devices.join(1)
    return {"began": began, "bin_s": BIN_S, "bins": bins, "error": error, "info": info,
            "device_times": devices.times, "device_bytes": devices.counts}  # fmt: skip


class Infos(threading.Thread):
    """tcp_info every 100 ms."""

    def __init__(self, sock: socket.socket, mptcp: bool) -> None:
        super().__init__(daemon=True)
        self.sock, self.mptcp = sock, mptcp
        self.rows: list[tuple[float, int, int, int]] = []
        self.last: dict[str, int] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(INFO_S):
            try:
                i = info_of(self.sock, self.mptcp)
            except OSError:
                return
            # Not those that are left when the receiver breaks it off: the most at a time.
            i["subflows"] = max(i["subflows"], self.last.get("subflows", 0))
            self.last = i
            row = (round(time.monotonic(), 3), i["rtt_us"], i["cwnd"], i["retransmits"])
            self.rows.append(row)


def send(options: argparse.Namespace) -> dict[str, Any]:
    """Send as fast as it goes until the receiver, after so many seconds, breaks it off."""
    data = memoryview(bytes(256 * 1024))
    error = ""
    began = time.monotonic()
    with open_socket(options.to, options.mptcp) as sock:
        sock.settimeout(10)
        congestion = options.congestion.encode()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion)
        sock.connect((options.to, options.port))
        began = time.monotonic()
        infos = Infos(sock, options.mptcp)
        infos.start()
        deadline = began + options.seconds + SPARE_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                sock.send(data)
        except TimeoutError:
            pass  # the time is over, with a full buffer
        except OSError as e:
            if time.monotonic() < began + options.seconds - BIN_S:
                error = f"{type(e).__name__}: {e}"
        infos.done.set()
        infos.join(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return {"began": began, "error": error, "info": infos.last, "infos": infos.rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recv = commands.add_parser("recv")
    recv.add_argument("--bind", required=True)
    recv.add_argument("--devices", default="")
    sender = commands.add_parser("send")
    sender.add_argument("--to", required=True)
    sender.add_argument("--congestion", default="bbr")
    for part in (recv, sender):
        part.add_argument("--port", type=int, required=True)
        part.add_argument("--seconds", type=float, required=True)
        part.add_argument("--mptcp", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = receive(options) if options.command == "recv" else send(options)
    except OSError as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result, separators=(",", ":")), flush=True)
    return 1 if result["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
