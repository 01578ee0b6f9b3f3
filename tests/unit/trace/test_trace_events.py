"""The helper's lines: read, bounded, and its end noticed. The helpers here are small scripts."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType

import pytest

from whalescale.trace.events import PROGRAM, Retransmissions, parse

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the helper is for root")

EVENT = {
    "t_ns": 5_250_000_000, "source": "10.77.0.1", "source_port": 40052,
    "destination": "10.77.0.2", "destination_port": 5201,
}  # fmt: skip


def helper(*lines: object, then: str = "sys.stdin.read()") -> tuple[str, ...]:
    said = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    return sys.executable, "-c", f"import sys; print({said!r}, flush=True); {then}"


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_events_come() -> None:
    with Retransmissions(helper({"ready": True}, EVENT, EVENT)) as events:
        assert events.wait_ready()
        taken = []
        until(lambda: len(taken.extend(events.take() or []) or taken) == 2)
        assert str(taken[0].flow) == "10.77.0.1:40052-10.77.0.2:5201"
        assert taken[0].at_s == 5.25
        assert events.take() == []


def test_what_makes_no_sense_is_passed_over() -> None:
    lines = ({"ready": True}, "garbage", "[1]", {"t_ns": 1}, {**EVENT, "source": "x"}, EVENT)
    with Retransmissions(helper(*lines, {"lost": 12})) as events:
        assert events.wait_ready()
        until(lambda: events.lost == 12)
        assert len(events.take() or []) == 1


def test_why_there_are_none() -> None:
    with Retransmissions(helper({"error": "no bcc here"}, then="sys.exit(1)")) as events:
        assert not events.wait_ready()
        assert events.missing == "no bcc here"
        assert events.take() is None
    with Retransmissions(("/nonexistent/python3",)) as events:
        assert not events.wait_ready()
        assert events.missing == "/nonexistent/python3: No such file or directory"
    with Retransmissions(helper("")) as events:
        assert not events.wait_ready(0.2)
        assert "not ready in 0.2 s" in events.missing


def test_a_helper_that_ends_is_noticed() -> None:
    with Retransmissions(helper({"ready": True}, then="pass")) as events:
        assert events.wait_ready() or events.missing
        until(lambda: events.take() is None)
        assert events.missing == "the bcc program ended"


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with Retransmissions() as events:
        assert not events.wait_ready()
        assert "sudo" in events.missing


@pytest.fixture
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bcc_retransmits", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_program_tells_is_what_is_read(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes of the struct in its C source, both families; what is too much is counted."""
    import ctypes
    from ipaddress import IPv6Address

    def event(t_ns: int, source: str, destination: str) -> None:
        packed = [IPv6Address(a).packed for a in (source, destination)]
        raw = program.EVENT.pack(t_ns, *packed, 40052, 5201)
        buffer = ctypes.create_string_buffer(raw, len(raw))
        teller.event(0, ctypes.addressof(buffer), len(raw))

    teller = program.Teller()
    event(5_250_000_000, "::ffff:10.77.0.1", "::ffff:10.77.0.2")
    event(5_250_000_001, "fd77::1", "fd77::2")
    first, second = (parse(json.loads(x)) for x in capsys.readouterr().out.splitlines())
    assert first == parse(EVENT)
    assert str(second.flow) == "[fd77::1]:40052-[fd77::2]:5201"
    for _ in range(program.EVENTS_PER_S_MAX):
        event(5_300_000_000, "fd77::1", "fd77::2")
    assert teller.lost == 2
    event(6_000_000_000, "fd77::1", "fd77::2")
    assert teller.lost == 2
    assert len(capsys.readouterr().out.splitlines()) == program.EVENTS_PER_S_MAX - 1
