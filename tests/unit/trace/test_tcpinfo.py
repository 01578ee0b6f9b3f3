"""struct tcp_info: bytes that a kernel gave, and what `ss -ti` said of the same socket then."""

from __future__ import annotations

from typing import Any

import pytest

from whalescale.trace import tcpinfo
from whalescale.trace.sockets import sample_of

#: Linux 6.18, the sender of a cubic flow over a link that loses 1 %, stopped for 6 s:
#: rto:224 rtt:22.586/1.169 mss:1448 cwnd:9 ssthresh:9 bytes_sent:2050368 bytes_retrans:21720
#: bytes_acked:2028649 data_segs_out:1416 delivery_rate 2005272bps delivered:1402 busy:2984ms
#: retrans:0/15 minrtt:13.715 snd_wnd:145408
SENDER = bytes.fromhex(
    "010000000007aa00006b030000000000a80500001802000000000000000000000000000000000000"
    "00000000801b000000000000182700006c1b0000dc05000058fa00003a5800009104000009000000"
    "09000000a80500000300000000000000903800000f000000a5900a0000000000ffffffffffffffff"
    "69f41e000000000000000000000000008a0500003502000000000000933500000000000088050000"
    "23d303000000000040882d0000000000000000000000000000000000000000007a05000000000000"
    "40491f0000000000d8540000000000000000000000000000000000000038020000fc000000000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
)
SAID = {
    "rto_us": 224_000, "rtt_us": 22_586, "rttvar_us": 1_169, "snd_mss_bytes": 1448, "cwnd": 9,
    "ssthresh": 9, "bytes_sent": 2_050_368, "bytes_retrans": 21_720, "bytes_acked": 2_028_649,
    "data_segs_out": 1416, "delivery_rate_bps": 2_005_272, "delivered": 1402, "busy_us": 2_984_000,
    "retransmits": 0, "total_retrans": 15, "min_rtt_us": 13_715, "snd_wnd_bytes": 145_408,
    "reordering": 3, "unacked": 0, "lost": 0, "dsack_dups": 0, "reord_seen": 0, "rcv_ooopack": 0,
}  # fmt: skip


class Message:
    """An answer of sock_diag as pyroute2 hands it over."""

    def __init__(self, raw: bytes | None, **fields: Any) -> None:
        self.attributes = {"INET_DIAG_INFO": raw, "INET_DIAG_CONG": "cubic"}
        self.fields = {
            "idiag_src": "10.201.1.1", "idiag_sport": 52656, "idiag_dst": "10.201.1.2",
            "idiag_dport": 5300, "idiag_state": 1, "idiag_cookie": 4811,
        } | fields  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get_attr(self, name: str) -> Any:
        return self.attributes.get(name)


def test_it_says_what_ss_says() -> None:
    info = tcpinfo.decode(SENDER)
    assert {name: info[name] for name in SAID} == SAID
    assert tcpinfo.ca_state(SENDER) == "open"


def test_every_counter_is_a_field() -> None:
    assert set(tcpinfo.COUNTERS) <= set(tcpinfo.FIELDS)


@pytest.mark.parametrize("size", [0, 1, 3, 104, 192, 219, 232])
def test_an_older_kernel_gives_fewer_fields(size: int) -> None:
    whole, part = tcpinfo.decode(SENDER), tcpinfo.decode(SENDER[:size])
    assert part == {name: whole[name] for name in part}
    for name, (at, code) in tcpinfo.FIELDS.items():
        width = {"B": 1, "I": 4, "Q": 8}[code]
        assert (name in part) == (at + width <= size)


def test_numbers_that_this_version_does_not_know() -> None:
    assert tcpinfo.ca_state(bytes([1, 4])) == "loss"
    assert tcpinfo.ca_state(bytes([1, 9])) == "9"
    assert tcpinfo.state(8) == "close_wait"
    assert tcpinfo.state(77) == "77"


def test_a_sample_of_an_answer() -> None:
    sample = sample_of(Message(SENDER))
    assert sample is not None
    assert str(sample.flow) == "10.201.1.1:52656-10.201.1.2:5300"
    assert (sample.cookie, sample.state, sample.congestion) == (4811, "established", "cubic")
    assert sample.info["total_retrans"] == 15
    assert sample_of(Message(None)) is None


def test_a_dual_stack_socket_is_an_ipv4_flow() -> None:
    mapped = Message(SENDER, idiag_src="::ffff:10.77.0.1", idiag_dst="::ffff:10.77.0.2")
    sample = sample_of(mapped)
    assert sample is not None
    assert str(sample.flow) == "10.77.0.1:52656-10.77.0.2:5300"
