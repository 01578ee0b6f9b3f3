"""The distance to the limit, and steering: what is made of output and counters."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tools.bench import contestants, limit
from tools.bench.model import Options
from tools.bench.steer import Came
from tools.bench.targets import BARE, WS
from tools.benchkit.model import SkipError
from whalescale.bench.measure import MeasureError

AEAD = """\
ipsec-mb  new 0.6 ms  self-test 1.1 ms
ipsec-mb    64 bytes: seal   174  seal2   179  open   177 ns
ipsec-mb  1420 bytes: seal   400  seal2   419  open   409 ns
openssl   new 0.0 ms  self-test 1.4 ms
openssl   1420 bytes: seal   868  seal2   889  open   901 ns
mac1       148 bytes: check 305 ns
"""
WITHOUT_IPSEC_MB = "ipsec-mb: not here\n" + AEAD[AEAD.index("openssl ") :]
SEGMENT = "segment TCP/IPv4: 21.8 ns a segment\nsegment TCP/IPv6: 20.7 ns a segment\n"
COALESCE = """\
coalesce TCP/IPv4, 1 flow(s): 33.7 ns a packet, 46.0 packets a write
coalesce TCP/IPv4, 1 flow(s), trusted: 14.0 ns a packet, 46.0 packets a write
coalesce TCP/IPv4, 4 flow(s), trusted: 16.6 ns a packet, 46.0 packets a write
"""
COPIES = """\
tun-read: 48.5 ns a packet
udp-send: 98.0 ns a packet
udp-receive: 52.2 ns a packet
tun-write: 68.3 ns a packet
"""
OUTPUTS = {
    "bench_aead": AEAD,
    "bench_copies": COPIES,
    "bench_segment": SEGMENT,
    "bench_coalesce": COALESCE,
}


def test_the_cipher_that_an_agent_takes() -> None:
    assert limit.aead(AEAD) == {"aead-seal": 419, "aead-open": 409}
    assert limit.aead(WITHOUT_IPSEC_MB) == {"aead-seal": 889, "aead-open": 901}


def test_the_other_benches() -> None:
    assert limit.slicing(SEGMENT) == {"slice": 21.8}
    assert limit.merging(COALESCE) == {"merge": 14.0}
    assert limit.copies(COPIES) == {
        "tun-read": 48.5,
        "udp-send": 98.0,
        "udp-receive": 52.2,
        "tun-write": 68.3,
    }


@pytest.mark.parametrize("parse", limit.BENCHES.values())
def test_output_that_says_nothing(parse: Any) -> None:
    with pytest.raises(MeasureError):
        parse("something else\n")


def test_every_bench_has_its_rows_and_every_row_a_name() -> None:
    found = [row for bench, parse in limit.BENCHES.items() for row in parse(OUTPUTS[bench])]
    assert sorted(found) == sorted(limit.PARTS), "the sum has each part once"
    for name in limit.CONTESTANTS:
        contestants.check(name)
        assert contestants.label(name) != name or name == WS
    for bench in limit.BENCHES:
        assert (limit.SOURCES / f"{bench}.c").exists()


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """They say OUTPUTS, and end with the status that a test puts here."""
    status = dict.fromkeys(OUTPUTS, 0)

    def run(program: Path, **_: object) -> subprocess.CompletedProcess[str]:
        code = status[program.name]
        return subprocess.CompletedProcess([], code, OUTPUTS[program.name], "no TUN device\n")

    @contextmanager
    def pair(name: str) -> Iterator[str]:
        yield name

    seconds = {BARE: 0.5, WS: 2.0}
    monkeypatch.setattr(limit.time, "sleep", lambda _: None)
    monkeypatch.setattr(limit, "run", run)
    monkeypatch.setattr(limit, "_built", Path)
    monkeypatch.setattr(limit, "Pair", pair)
    monkeypatch.setattr(limit.load, "tcp", lambda name, _: {"cpu_s_per_gb": seconds[name]})
    return status


def test_rows_in_both_units(benches: dict[str, int]) -> None:
    o = Options()
    assert limit.measure("aead-seal", o) == {
        "ns_per_packet": 419,
        "s_per_gb": pytest.approx(419 / 1368),
    }
    assert limit.measure(WS, o) == {"ns_per_packet": pytest.approx(2736), "s_per_gb": 2.0}
    parts = 419 + 409 + 48.5 + 98.0 + 52.2 + 68.3 + 21.8 + 14.0
    assert limit.measure(limit.SUM, o)["ns_per_packet"] == pytest.approx(0.5 * 1368 + parts)


def test_what_the_machine_cannot_do_is_skipped(benches: dict[str, int]) -> None:
    benches["bench_copies"] = limit.CANNOT
    with pytest.raises(SkipError, match="bench_copies: no TUN device"):
        limit.measure("tun-read", Options())
    benches["bench_copies"] = 1
    with pytest.raises(MeasureError, match="ended with 1"):
        limit.measure("tun-read", Options())


def status(rx_batches: int, foreign_rx: int, tun_reads: int, foreign_tx: int) -> dict[str, Any]:
    return {
        "counters": {
            "rx_batches": rx_batches,
            "foreign_rx": foreign_rx,
            "tun_reads": tun_reads,
            "foreign_tx": foreign_tx,
        }
    }


def test_shares_are_of_what_came_meanwhile() -> None:
    before = Came.of(status(1000, 0, 50, 0))
    after = Came.of(status(1000 + 200, 50, 150, 25))
    assert after.shares_since(before) == {"foreign_rx_percent": 25.0, "foreign_tx_percent": 25.0}
    assert before.shares_since(before) == {"foreign_rx_percent": 0.0, "foreign_tx_percent": 0.0}
