"""The generator against its own sink, over loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.bench import load
from whalescale.bench.measure import MeasureError

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

LOCAL = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture(scope="module")
def program() -> Path:
    return load.udpblast()


def free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


class Sink:
    def __init__(self, program: Path, address: str, *options: str) -> None:
        self.address, self.port = address, free_port(address)
        self.process = subprocess.Popen(
            [program, "sink", "--listen", address, "--port", str(self.port), "--seconds", "20",
             *options], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def result(self) -> dict[str, float]:
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return load.last_json(out)


@pytest.fixture
def sinks() -> Iterator[list[Sink]]:
    made: list[Sink] = []
    yield made
    for sink in made:
        if sink.process.poll() is None:
            sink.process.kill()
            sink.process.wait()


def send(program: Path, sink: Sink, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [program, "send", "--to", sink.address, "--port", str(sink.port), *options],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return load.last_json(done.stdout)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gro", [False, True])
@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("size", [16, 64, 1200])
def test_everything_that_is_sent_is_counted_once(
    program: Path, sinks: list[Sink], family: int, gro: bool, gso: bool, size: int
) -> None:
    """At a rate that no socket buffer loses anything at."""
    sinks.append(sink := Sink(program, LOCAL[family], *["--gro"] * gro))
    words = ["--size", str(size), "--seconds", "0.3", "--rate", "20000", *["--gso"] * gso]
    sent = send(program, sink, *words)
    got = sink.result()
    assert sent["errors"] == 0
    assert got["received"] == sent["sent"] > 1000
    assert got["bytes"] == sent["sent"] * size
    assert got["foreign"] == 0
    assert sent["sent"] / sent["seconds"] < 1.3 * 20000


def test_threads_share_the_rate(program: Path, sinks: list[Sink]) -> None:
    sinks.append(sink := Sink(program, LOCAL[4]))
    words = ["--seconds", "0.5", "--rate", "20000", "--threads", "2", "--size", "64"]
    sent = send(program, sink, *words)
    assert sink.result()["received"] == sent["sent"]
    assert 0.5 * 20000 < sent["sent"] / sent["seconds"] < 1.3 * 20000


def test_what_is_not_ours_is_not_counted(program: Path, sinks: list[Sink]) -> None:
    sinks.append(sink := Sink(program, LOCAL[4]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data in (b"", b"1234567", bytes(64)):
            sock.sendto(data, (sink.address, sink.port))
    got = sink.result()
    assert got["received"] == 0
    assert got["foreign"] == 3


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["send"],
        ["send", "--to", "127.0.0.1"],
        ["send", "--to", "localhost", "--port", "9"],
        ["send", "--to", "127.0.0.1", "--port", "0"],
        ["send", "--to", "127.0.0.1", "--port", "70000"],
        ["send", "--to", "127.0.0.1", "--port", "9", "--size", "15"],
        ["send", "--to", "127.0.0.1", "--port", "9", "--size", "64k"],
        ["send", "--to", "127.0.0.1", "--port", "9", "--seconds", "301"],
        ["send", "--to", "127.0.0.1", "--port", "9", "--seconds", "nan"],
        ["send", "--to", "127.0.0.1", "--port", "9", "--threads", "17"],
        ["flood", "--to", "127.0.0.1", "--port", "9"],
        ["flood", "--to", "127.0.0.1", "--port", "9", "--records", "x", "--rate", "9"],
    ],
)
def test_wrong_words_are_refused(program: Path, words: list[str]) -> None:
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=5, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("udpblast: ")


def test_records_must_be_whole(program: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.write_bytes(bytes(149))
    words = ["--to", "127.0.0.1", "--port", "9", "--size", "148", "--rate", "1000"]
    words += ["--device", "lo", "--mac", "02:00:00:00:00:01", "--seconds", "1"]
    command = [program, "flood", *words, "--records", records]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    assert done.returncode == 2
    assert "whole number" in done.stderr


def test_a_generator_that_said_nothing_is_no_figure() -> None:
    with pytest.raises(MeasureError, match="nothing"):
        load.last_json("")
    with pytest.raises(MeasureError, match="ready"):
        load.last_json("ready\n")
