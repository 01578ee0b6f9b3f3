"""The flows inside the soak's tunnel say what they saw a line at a time."""

from __future__ import annotations

import io
import json
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
