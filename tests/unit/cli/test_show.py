"""status, peers, logs, ping, down, reload, version: what they print and how they exit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_agent import FakeAgent, failure, ok, sample
from run_ws import Ws

from whalescale import status
from whalescale.cli import common, ping
from whalescale.cli.ending import CliError
from whalescale.cli.logs import format_line


def test_status(ws: Ws, agent: FakeAgent) -> None:
    done = ws("status")
    assert done.code == 0
    for piece in (
        "ws0, up for 1 min 40 s, process 4242",
        sample()["agent"]["node_id"],
        "10.77.0.1/24, fd77:6861:6c65:cff5:5013:d017:ec50:674b",
        "io_uring, ipsec-mb, 1 worker, offloads but tun_uso",
        "977 KiB, 900 packets",
        "no_key 12, replay 3, handshake mac1 1",
        "berlin up 192.0.2.7:51820 1 min 15 s ago 1.25 ms 977 KiB 1.91 MiB 10.77.0.2/32",
        "phone unreachable - never - 0 B 0 B 10.78.0.0/16, 10.77.0.3/32",
    ):
        assert piece in re.sub(" +", " ", done.out)


def test_status_json_is_the_agents_own(ws: Ws, agent: FakeAgent) -> None:
    assert json.loads(ws("status", "--json").out) == sample()
    assert json.loads(ws("peers", "--json").out) == {"version": 1, "peers": sample()["peers"]}


def test_peers(ws: Ws, agent: FakeAgent) -> None:
    out = ws("peers").out
    assert "berlin" in out
    assert "node ID" not in out
    agent.answers["status"] = sample() | {"peers": []}
    assert "ws peer add" in ws("peers").out


def test_hostile_names_do_not_reach_the_terminal(ws: Ws, agent: FakeAgent) -> None:
    bad = sample()
    bad["peers"][0]["name"] = "a\x1b]0;x\x07[red]b"
    bad["peers"][0]["endpoint"] = "\x1b[2J"
    bad["agent"]["config"] = "/x\x1b[31m"
    bad["counters"]["drops"] = {"\x1b[1m": 4}
    agent.answers["status"] = bad
    for words in (["status"], ["peers"], ["top", "--once", "-n", "0.1"]):
        out = ws(*words).out
        assert "\x1b" not in out
        assert "\x07" not in out
    assert "[red]b" in ws("peers").out


def test_version_of_the_agent(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["version"] = {"version": "9.9"}
    assert "agent of ws0: 9.9" in ws("version").out
    assert json.loads(ws("version", "--json").out)["agent"] == "9.9"
    agent.answers["version"] = {"version": ["x"]}
    assert "agent of" not in ws("version").out


def test_logs(ws: Ws, agent: FakeAgent) -> None:
    lines = [{"t": 1.5, "level": "info", "message": "a\x1b"}, "bare", {"message": "no time"}, 3]
    agent.answers["logs"] = [ok({"line": line}) for line in lines]
    done = ws("logs")
    assert done.code == 0
    first, *rest = done.out.splitlines()
    assert first.startswith(("1970-01-01 ", "1969-12-31 "))
    assert first.endswith(" info    a?")
    assert rest == ["bare", format_line({"message": "no time"}), "3"]
    assert agent.requests[-1]["params"] == {"follow": False}
    assert ws("logs", "-f").code == 0
    assert agent.requests[-1]["params"] == {"follow": True}


def test_logs_cut_in_mid_line(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["logs"] = [ok({"line": "one"}), b'{"v": 1']
    done = ws("logs")
    assert (done.code, done.out) == (3, "one\n")
    assert "mid-answer" in done.err


def test_logs_left_behind(ws: Ws, runtime: Path) -> None:
    runtime.mkdir()
    (runtime / "ws0.log").write_text("x\nlast \x1b[31mwords\n")
    done = ws("logs")
    assert done.code == 3
    assert done.out == "x\nlast ?[31mwords\n"
    assert "left behind" in done.err


@pytest.mark.parametrize("t", [float("inf"), -1, "x", None, True, [1], 1e300])
def test_log_lines_with_strange_times(t: object) -> None:
    assert format_line({"t": t, "level": "info", "message": "m"}).endswith("info    m")


def test_down_waits_until_the_agent_is_gone(ws: Ws, agent: FakeAgent) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    ended = sample()
    ended["agent"]["pid"] = gone.pid
    agent.answers["status"] = ended
    done = ws("down")
    assert (done.code, done.out) == (0, "ws0 is down\n")
    assert [r["method"] for r in agent.requests] == ["status", "stop"]
    assert not agent.path.exists()


def test_down_says_when_it_does_not_end(
    ws: Ws, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whalescale.cli.lifecycle.STOP_S", 0.2)
    with subprocess.Popen(["sleep", "60"]) as running:
        try:
            stays = sample()
            stays["agent"]["pid"] = running.pid
            agent.answers["status"] = stays
            done = ws("down")
            assert done.code == 1
            assert f"`sudo kill {running.pid}`" in done.err
        finally:
            running.kill()


def test_down_refused(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["stop"] = [failure("permission", "not yours", "use sudo")]
    assert ws("down").code == 4


def test_reload(ws: Ws, agent: FakeAgent) -> None:
    agent.answers["reload"] = {"changes": ["peer berlin added"]}
    done = ws("reload")
    assert (done.code, done.out) == (0, "ws0 has taken over its configuration\n")
    assert "peer berlin added" in done.err
    assert agent.requests[-1] == {"v": 1, "method": "reload", "params": {"check": False}}
    assert "would take over" in ws("reload", "--check").out
    assert agent.requests[-1]["params"] == {"check": True}


# ping


def sample_status(**fields: Any) -> status.Status:
    raw = sample()
    raw["peers"][1].update(fields)
    return status.parse(raw)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "10.77.0.3"),
        ({"overlay_address": "fd00::9"}, "fd00::9"),
        ({"allowed_ips": ["10.5.0.0/16", "fd01::/64"]}, "10.5.0.1"),
        ({"allowed_ips": ["0.0.0.0/0", "fd01::1/128"]}, "fd01::1"),
    ],
)
def test_address_of(fields: dict[str, Any], expected: str) -> None:
    assert ping.address_of(sample_status(**fields).peers[1]) == expected


@pytest.mark.parametrize(
    "fields", [{"allowed_ips": []}, {"allowed_ips": ["0.0.0.0/0"]}, {"overlay_address": "-f"}]
)
def test_no_address(fields: dict[str, Any]) -> None:
    with pytest.raises(CliError):
        ping.address_of(sample_status(**fields).peers[1])


def test_find() -> None:
    s = sample_status()
    assert common.find(s, "phone", "ws0").name == "phone"
    assert common.find(s, "khnpirir", "ws0").name == "berlin"
    for wanted in ("nobody", "khnpiri", ""):
        with pytest.raises(CliError, match="has no peer") as e:
            common.find(s, wanted, "ws0")
        assert "berlin, phone" in e.value.fix


def test_find_by_the_name_that_dns_has() -> None:
    s = msgspec.structs.replace(sample_status(), network=status.Network(name="hearth"))
    for wanted in ("phone.internal", "phone.hearth.internal", "phone.hearth.internal."):
        assert common.find(s, wanted, "ws0").name == "phone"
    for wanted in ("phone.other.internal", "phone.hearth", "nobody.hearth.internal"):
        with pytest.raises(CliError, match="has no peer"):
            common.find(s, wanted, "ws0")


def test_parse_ping() -> None:
    out = (
        "--- 10.0.0.1 ping statistics ---\n"
        "4 packets transmitted, 3 received, 25% packet loss, time 3005ms\n"
        "rtt min/avg/max/mdev = 0.031/0.040/0.050/0.008 ms\n"
    )
    found = ping.parse(out)
    assert found is not None
    assert (found["transmitted"], found["received"]) == (4, 3)
    assert (found["rtt_min_ms"], found["rtt_mdev_ms"]) == (0.031, 0.008)
    lost = ping.parse("4 packets transmitted, 0 received, +4 errors, 100% packet loss")
    assert lost is not None
    assert (lost["received"], lost["rtt_avg_ms"]) == (0, None)
    assert ping.parse("ping: unknown iface") is None


def test_ping_through_the_interface(
    ws: Ws, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ping"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/words\n'
        'echo "2 packets transmitted, 2 received"\necho "rtt = 1.0/2.0/3.0/0.5 ms"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = ws("ping", "berlin", "-c", "2", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["version"], result["received"], result["rtt_avg_ms"]) == (1, 2, 2.0)
    both = set(ping.addresses_of(sample_status().peers[0]))
    assert "fd77:6861:6c65:4335:596:1e01:d6fb:c79a" in both
    words = {f"-n -I ws0 -c 2 {address}" for address in both}
    assert set((tmp_path / "words").read_text().splitlines()) == words
    assert {a["address"] for a in result["addresses"]} == both
    assert result["trouble"] == []
    assert ws("ping", "berlin").code == 0
    program.write_text("#!/bin/sh\necho 'ping: no way' >&2\nexit 2\n")
    assert ws("ping", "berlin").code == 1
    failed = ws("ping", "berlin", "--json")
    assert failed.code == 1
    assert "no way" in failed.err
    monkeypatch.setenv("PATH", "/nowhere")
    assert "iputils-ping" in ws("ping", "berlin").err
