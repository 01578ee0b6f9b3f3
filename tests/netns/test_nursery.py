"""Forked agents are what executed ones are (`tools/nursery.py`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.netlab import Lab, wait_until
from tools.nursery import Nursery
from tools.peers import WS

pytestmark = pytest.mark.netns


def test_a_child_is_as_an_executed_one(lab: Lab) -> None:
    host = lab.host("a")
    lab.link(host, lab.host("b"))
    with Nursery() as nursery:
        done = host.spawn(WS, "version", nursery=nursery)
        assert done.finish(20).startswith("whalescale ")
        refused = host.spawn(WS, "status", "-i", "nobody", nursery=nursery)
        assert refused.wait(20) == 3
        assert refused.log().startswith("ws: ")

        up = host.spawn(WS, "up", "-f", "--config", "missing.toml", nursery=nursery)
        executed = host.spawn(WS, "up", "-f", "--config", "missing.toml")
        assert up.wait(20) == executed.wait(20) != 0
        assert up.log() == executed.log() != ""

        waiting = host.spawn(WS, "pubkey", nursery=nursery)  # for a key from stdin
        proc = Path(f"/proc/{waiting.pid}")

        def shown() -> bool:
            try:
                return set(os.listdir(proc / "root/sys/class/net")) == {"lo", "eth0"}
            except FileNotFoundError:
                return False  # the child is just mounting it

        wait_until("its namespace's devices in its /sys", shown)
        assert waiting.poll() is None
        assert (proc / "comm").read_text() == "ws\n"
        assert (proc / "ns/net").stat().st_ino == Path(f"/run/netns/{host.netns}").stat().st_ino
        assert os.getsid(waiting.pid) == waiting.pid
        waiting.kill()
        assert waiting.poll() == -9

        left = host.spawn(WS, "pubkey", nursery=nursery)
    wait_until("what is left to end with it", lambda: not Path(f"/proc/{left.pid}").exists())
