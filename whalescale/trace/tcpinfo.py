"""struct tcp_info (linux/tcp.h), as the kernel gives it for a socket. Pure."""

from __future__ import annotations

import struct
from typing import Final

#: name -> (offset, format). The kernel only ever appends; an older one gives fewer bytes.
FIELDS: Final = {
    # retransmissions of the oldest segment that are still unanswered
    "retransmits": (2, "B"),
    "rto_us": (8, "I"),
    "snd_mss_bytes": (16, "I"),
    # segments: in flight, reported by SACK, held for lost, of these sent once more
    "unacked": (24, "I"),
    "sacked": (28, "I"),
    "lost": (32, "I"),
    "retrans_out": (36, "I"),
    "rtt_us": (68, "I"),
    "rttvar_us": (72, "I"),
    "ssthresh": (76, "I"),
    "cwnd": (80, "I"),
    # the degree of reordering, in segments, that TCP now bears before it retransmits
    "reordering": (88, "I"),
    "rcv_rtt_us": (92, "I"),
    "total_retrans": (100, "I"),
    "bytes_acked": (120, "Q"),
    "bytes_received": (128, "Q"),
    "notsent_bytes": (144, "I"),
    "min_rtt_us": (148, "I"),
    "data_segs_in": (152, "I"),
    "data_segs_out": (156, "I"),
    "delivery_rate_bps": (160, "Q"),
    "busy_us": (168, "Q"),
    "rwnd_limited_us": (176, "Q"),
    "sndbuf_limited_us": (184, "Q"),
    "delivered": (192, "I"),
    "delivered_ce": (196, "I"),
    "bytes_sent": (200, "Q"),
    "bytes_retrans": (208, "Q"),
    # DSACKs received: what was sent again had arrived all along (RFC 2883)
    "dsack_dups": (216, "I"),
    "reord_seen": (220, "I"),
    # of the receiver: segments that came out of order
    "rcv_ooopack": (224, "I"),
    "snd_wnd_bytes": (228, "I"),
}  # fmt: skip
#: sums since the connection began
COUNTERS: Final = (
    "total_retrans",
    "bytes_acked",
    "bytes_received",
    "data_segs_in",
    "data_segs_out",
    "busy_us",
    "rwnd_limited_us",
    "sndbuf_limited_us",
    "delivered",
    "delivered_ce",
    "bytes_sent",
    "bytes_retrans",
    "dsack_dups",
    "reord_seen",
    "rcv_ooopack",
)
#: enum tcp_ca_state, at offset 1
CA_STATES: Final = ("open", "disorder", "cwr", "recovery", "loss")
#: enum in net/tcp_states.h, by number
STATES: Final = (
    "unknown", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait",
    "close", "close_wait", "last_ack", "listen", "closing",
)  # fmt: skip


def decode(raw: bytes) -> dict[str, int]:
    """The fields that this kernel has, by name. Rates in bits/s (the kernel's are bytes/s)."""
    info = {
        name: int(struct.unpack_from(f"={code}", raw, at)[0])
        for name, (at, code) in FIELDS.items()
        if at + struct.calcsize(f"={code}") <= len(raw)
    }
    if "delivery_rate_bps" in info:
        info["delivery_rate_bps"] *= 8
    return info


def ca_state(raw: bytes) -> str:
    """What congestion control thinks: "open" when all goes well."""
    number = raw[1] if len(raw) > 1 else 0
    return CA_STATES[number] if number < len(CA_STATES) else str(number)


def state(number: int) -> str:
    return STATES[number] if number < len(STATES) else str(number)
