"""The flows inside the soak's tunnel say what they saw a line at a time."""

from __future__ import annotations

import io
import json
import mmap
import socket
import struct
import sys
import threading
import time

import pytest

from tools.soak import load


class Slow(io.StringIO):
    """Lets other threads go on after each piece that is written."""

    def write(self, text: str) -> int:
        count = super().write(text)
        time.sleep(0.001)
        return count


def test_two_flows_that_speak_at_once_say_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Slow()
    monkeypatch.setattr(sys, "stdout", out)
    threads = [
        threading.Thread(target=lambda n: [load.say(gap=n) for _ in range(10)], args=(number,))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert sorted(line["gap"] for line in said) == [n for n in range(4) for _ in range(10)]


def reset(sock: socket.socket) -> None:
    """Close it with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_counts_from_when_the_servers_program_has_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(load, "SHORT_PORT", server.getsockname()[1])
        monkeypatch.setattr(load, "SHORT_INTERVAL_S", 0.0)
        end = load.End("a", "127.0.0.1", mmap.mmap(-1, 8))

        def serve() -> None:
            reset(server.accept()[0])  # as a kernel that has forgotten it
            end.answer_short(server.accept()[0])
            third = server.accept()[0]
            third.sendall(load.WELCOME)
            third.recv(1)
            reset(third)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            end.connect_short()
        thread.join(10)
    assert end.sums.connections_unreachable == 1
    assert end.sums.connections == 1
