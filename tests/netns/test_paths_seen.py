"""`ws paths` and `[multipath]` of two agents with two links between them.

a 10.201.1.1 ── eth0 ── 10.201.1.2 b
a 10.201.2.1 ── eth1 ── 10.201.2.2 b
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.netns.conftest import Two, make_two
from tools.netlab import Lab, wait_until
from tools.peers import http_url

pytestmark = pytest.mark.netns

MIB = 1 << 20


class Seen:
    """What `ws paths --json` on a says of the only peer."""

    def __init__(self, two: Two) -> None:
        self.two = two

    def ws(self, command: str, *words: str, check: bool = True) -> Any:
        return self.two.a.ws(command, "-i", self.two.a.interface, *words, check=check)

    def multipath(self) -> dict[str, Any]:
        (peer,) = self.two.a.status()["peers"]
        return peer["multipath"] or {"paths": [], "scheduling": False}

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            multipath = self.multipath()
            return multipath if condition(multipath) else None

        return dict(wait_until("the paths", found, timeout=20, interval=0.1))

    def set(self, path: str, *words: str) -> None:
        self.ws("paths", "peer0", "--set", path, *words)


def used(multipath: dict[str, Any]) -> set[str]:
    return {p["interface"] for p in multipath["paths"] if p["usable"]}


def sent(multipath: dict[str, Any], interface: str) -> int:
    return sum(p["tx_bytes"] for p in multipath["paths"] if p["interface"] == interface)


@pytest.fixture
def seen(lab: Lab) -> Seen:
    two = make_two(lab)
    lab.link(two.a.host, two.b.host)
    two.start()
    two.a.ping(two.b, count=1)
    seen = Seen(two)
    seen.until(lambda m: m["scheduling"] and used(m) == {"eth0", "eth1"})
    return seen


def test_a_disabled_path_carries_nothing(seen: Seen) -> None:
    seen.set("eth1", "--disable")
    before = seen.until(lambda m: used(m) == {"eth0"})
    name, digest = seen.two.a.serve(8 * MIB)
    assert seen.two.b.fetch(http_url(seen.two.a, name)) == digest
    after = seen.multipath()
    assert sent(after, "eth0") - sent(before, "eth0") > 8 * MIB
    assert sent(after, "eth1") - sent(before, "eth1") < MIB // 10
    refused = seen.ws("paths", "peer0", "--set", "eth0", "--disable", check=False)
    assert refused.returncode == 1
    assert "nothing would be left" in refused.stderr
    text = seen.ws("paths").stdout
    assert "disabled" in text
    seen.set("10.201.2.1", "--enable", "--tier", "1", "--weight-cap", "0.5")
    seen.set("eth1", "--enable")
    found = seen.until(lambda m: used(m) == {"eth0", "eth1"})
    pins = [p["pin"] for p in found["paths"] if p["local"].startswith("10.201.2.1:")]
    assert pins == [{"disabled": False, "tier": 1, "weight_cap": 0.5}]
    seen.set("eth1", "--reset")
    found = seen.until(lambda m: all(p["pin"]["tier"] is None for p in m["paths"]))
    assert all(p["pin"]["weight_cap"] == 1 for p in found["paths"])


def test_a_reload_takes_multipath_over(seen: Seen) -> None:
    config = seen.two.a.config
    before = config.read_text()
    config.write_text(before + '[multipath]\nscheduler = "minrtt"\n')
    assert "multipath.scheduler changed" in seen.ws("reload").stderr
    assert seen.multipath()["scheduler"] == "minrtt"
    config.write_text(before + "[multipath]\nenabled = false\n")
    seen.ws("reload")
    seen.until(lambda m: not m["scheduling"] and len(used(m)) <= 1)
    seen.two.a.ping(seen.two.b, count=2)
    config.write_text(before + '[multipath]\nlate = "keep"\n')
    wrong = seen.ws("reload", check=False)
    assert wrong.returncode == 1
    assert 'multipath.late: unknown value \'keep\'; write "deliver" or "drop"' in wrong.stderr
    config.write_text(before)
    seen.ws("reload")
    seen.until(lambda m: m["scheduling"] and used(m) == {"eth0", "eth1"})
