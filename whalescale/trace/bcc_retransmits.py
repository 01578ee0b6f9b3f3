"""TCP retransmissions of this machine as JSON lines, by bcc: a program of its own.

    python3 -I bcc_retransmits.py < PIPE

Runs under the system's Python, where Debian's python3-bpfcc is (PyPI's `bcc` is another thing), so
it imports nothing of whalescale. Says {"ready": true} or {"error": "..."} first, then a line an
event; ends when its standard input does.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import struct
import sys
from ipaddress import IPv6Address
from typing import Any

#: events told in a second; what is beyond is only counted
EVENTS_PER_S_MAX = 20000
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
EVENT = struct.Struct("=Q16s16sHH")

# saddr_v6 and daddr_v6 hold IPv4 addresses as well, mapped (TP_STORE_ADDRS, trace/events/tcp.h).
SOURCE = """
struct event_t {
    u64 t_ns;
    u8 source[16];
    u8 destination[16];
    u16 source_port;
    u16 destination_port;
} __attribute__((packed));
BPF_PERF_OUTPUT(events);
TRACEPOINT_PROBE(tcp, tcp_retransmit_skb)
{
    struct event_t event = {};

    event.t_ns = bpf_ktime_get_ns();
    __builtin_memcpy(event.source, args->saddr_v6, sizeof(event.source));
    __builtin_memcpy(event.destination, args->daddr_v6, sizeof(event.destination));
    event.source_port = args->sport;
    event.destination_port = args->dport;
    events.perf_submit(args, &event, sizeof(event));
    return 0;
}
"""


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")


def address(raw: bytes) -> str:
    whole = IPv6Address(raw)
    return str(whole.ipv4_mapped or whole)


class Teller:
    """Tells events, but not more of them a second than its reader can bear."""

    def __init__(self) -> None:
        self.lost = 0
        self._second, self._told = 0, 0

    def event(self, _cpu: int, data: int, _size: int) -> None:
        raw = ctypes.string_at(data, EVENT.size)
        t_ns, source, destination, source_port, destination_port = EVENT.unpack(raw)
        if t_ns // 1_000_000_000 != self._second:
            self._second, self._told = t_ns // 1_000_000_000, 0
        self._told += 1
        if self._told > EVENTS_PER_S_MAX:
            self.lost += 1
            return
        say(
            {
                "t_ns": t_ns,
                "source": address(source),
                "source_port": source_port,
                "destination": address(destination),
                "destination_port": destination_port,
            }
        )

    def overflow(self, count: int) -> None:
        self.lost += count


def main() -> int:
    try:
        from bcc import BPF
    except ImportError as e:
        say({"error": f"no bcc here ({e}): `sudo apt install python3-bpfcc`"})
        return 1
    if not any(os.path.isdir(f"{t}/events/tcp/tcp_retransmit_skb") for t in TRACEFS):
        say({"error": "no tracepoints: `sudo mount -t tracefs tracefs /sys/kernel/tracing`"})
        return 1
    try:
        bpf = BPF(text=SOURCE)
        teller = Teller()
        bpf["events"].open_perf_buffer(teller.event, page_cnt=64, lost_cb=teller.overflow)
    except Exception as e:
        # Most often it is the headers; bcc says so on standard error only.
        headers = f"`sudo apt install linux-headers-{os.uname().release}`"
        say({"error": f"bcc: {e}; it needs the headers of this kernel: {headers}"})
        return 1
    say({"ready": True})
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        bpf.perf_buffer_poll(timeout=20)
        if teller.lost:
            say({"lost": teller.lost})
            teller.lost = 0
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)
