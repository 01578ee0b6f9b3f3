"""Metrics: what Prometheus' parsers make of them, what they cost, who may ask, and the board."""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from whalescale.config import MetricsConfig
from whalescale.runtime import metrics, scrape
from whalescale.runtime.errors import AgentError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tui"))
import multipath_sample  # noqa: E402

BOARD = HERE.parents[2] / "docs/grafana/whalescale.json"
ALERTS = HERE.parents[2] / "docs/grafana/alerts.yml"
WALL = 1_800_000_000.0


def told(peers: int = 1) -> dict[str, Any]:
    """A whole status; each peer has three paths, and the last one none."""
    value = multipath_sample.three()
    value["counters"] = {**dict.fromkeys(metrics.TOTALS, 0), **value["counters"]}
    first = value["peers"][0]
    first["last_handshake_s"] = 20.0
    copies = [{**copy.deepcopy(first), "name": f"p{n}"} for n in range(peers)]
    copies[-1] = {**copies[-1], "multipath": None, "state": "unreachable", "last_handshake_s": None}
    value["peers"] = copies
    return value


def parsed(text: str) -> dict[str, Any]:
    return {f.name: f for f in text_string_to_metric_families(text)}


def values(family: Any) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels.values()): s.value for s in family.samples}


def test_the_numbers_in_the_units_of_prometheus() -> None:
    found = parsed(metrics.text(told(2), 1000, WALL))
    assert values(found["whalescale_peers"])[("up",)] == 1
    assert values(found["whalescale_peer_up"]) == {("p0",): 1, ("p1",): 0}
    handshakes = values(found["whalescale_peer_last_handshake_timestamp_seconds"])
    assert handshakes == {("p0",): WALL - 20, ("p1",): 0}
    paths = multipath_sample.three()["peers"][0]["multipath"]["paths"]
    rtt = values(found["whalescale_path_rtt_seconds"])
    for path in (p for p in paths if p["rtt_ms"] is not None):
        name = (path["interface"], str(path["id"]), "p0")  # labels are sorted
        assert rtt[name] == pytest.approx(path["rtt_ms"] / 1000)
        rate = values(found["whalescale_path_capacity_bytes_per_second"])[name]
        assert rate == pytest.approx(path["rate_bps"] / 8)
    assert len(values(found["whalescale_path_up"])) == len(paths)
    heard = values(found["whalescale_path_last_heard_timestamp_seconds"])
    assert set(heard.values()) == {WALL - 0.4}
    assert values(found["whalescale_dropped_packets"])[("replay",)] == 3
    assert found["whalescale_dropped_packets"].type == "counter"


def test_each_family_is_there_once_with_help_type_and_unit() -> None:
    text = metrics.text(told(2), 1000, WALL)
    helps = re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert len({name for name, _ in helps}) == len(helps) == len(types)
    for name, kind in types.items():
        assert re.fullmatch(r"(whalescale|process)_[a-z0-9_]+", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|ns|bps|kb|mb|percent)\b", name), name
    assert all(text_.endswith(".") for _, text_ in helps)


def test_network_nat_and_relay_are_told_without_a_members_name() -> None:
    value = told()
    member = {"here": False, "anchor": True, "session": True, "reached": "dialled", "name": "home"}
    value["network"] = {
        "anchors_alive": 1,
        "warnings": ["the other anchor is gone"],
        "members": [
            {**member, "here": True, "anchor": False},
            member,
            {**member, "session": False, "reached": ""},
            *[{**member, "anchor": False, "reached": "relayed"}] * 3,
        ],
    }
    value["nat"] = {"mappings": [{"kind": "by destination"}], "met": 4, "looking_for": 2}
    value["portmap"] = {"gateways": [{"state": "mapped"}]}
    value["relay"] = {"bindings": 5, "pairs": [{"elsewhere": 1, "over": 2}] * 2}
    text = metrics.text(value, 9)
    found = parsed(text)
    assert values(found["whalescale_members"]) == {
        ("here",): 1, ("session",): 1, ("relayed",): 3, ("none",): 1,
    }  # fmt: skip
    assert values(found["whalescale_anchors"]) == {(): 2}
    assert values(found["whalescale_anchors_alive"]) == {(): 1}
    assert values(found["whalescale_network_warnings"]) == {(): 1}
    assert values(found["whalescale_nat_mappings"])[("by destination",)] == 1
    assert values(found["whalescale_nat_direct_ways_found"]) == {(): 4}
    assert values(found["whalescale_portmap_gateways"])[("mapped",)] == 1
    assert values(found["whalescale_relay_bindings"]) == {(): 5}
    assert values(found["whalescale_relay_dropped_datagrams"])[("over",)] == 4
    # The same number of series for a network of any size.
    value["network"]["members"] *= 500
    assert metrics.text(value, 9).count("\n") == text.count("\n")
    assert "home" not in text


def test_a_name_cannot_break_the_format() -> None:
    value = told()
    value["peers"][0]["name"] = 'a"b\\c\nd'
    assert values(parsed(metrics.text(value, 9))["whalescale_peer_up"]) == {('a"b\\c\nd',): 0}


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    text = metrics.text(told(2), 1000)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, check=True)


def test_more_peers_than_wanted_are_sums_only() -> None:
    found = parsed(metrics.text(told(11), 10))
    assert values(found["whalescale_peers_untold"]) == {(): 11}
    assert values(found["whalescale_peers"])[("up",)] == 10
    assert not found["whalescale_peer_up"].samples


def test_of_too_many_paths_only_the_number_is_told() -> None:
    found = parsed(metrics.text(told(1 + metrics.PATHS_MAX // 3 + 1), 1000))
    assert values(found["whalescale_paths_untold"])[()] > metrics.PATHS_MAX
    assert not found["whalescale_path_up"].samples
    assert found["whalescale_peer_up"].samples


def test_a_thousand_peers_cost_less_than_100_ms() -> None:
    value = told(1000)
    best = 1.0
    for _ in range(5):
        before = time.process_time()
        metrics.text(value, 1000)
        best = min(best, time.process_time() - before)
    assert best < 0.3  # 70 ms on a quiet machine


# the server


def ask(request: bytes, settings: MetricsConfig, path: Path, own: tuple[str, ...] = ()) -> bytes:
    """What a server with these settings answers on one connection."""

    async def main() -> bytes:
        addresses = {ipaddress.ip_address(a) for a in own}
        server = scrape.Scrape(lambda: told(2), lambda: addresses, path)
        await server.listen(settings)
        if settings.unix:
            reader, writer = await asyncio.open_unix_connection(str(path))
        else:
            assert settings.address is not None
            host, port = settings.address
            reader, writer = await asyncio.open_connection(str(host), port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await server.close()
        return answer

    return asyncio.run(asyncio.wait_for(main(), 20))


def loopback() -> MetricsConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return MetricsConfig(listen=f"127.0.0.1:{probe.getsockname()[1]}")


def test_a_scrape(tmp_path: Path) -> None:
    answer = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", loopback(), tmp_path / "m")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert "whalescale_peer_up" in parsed(body.decode())
    empty = ask(b"HEAD /metrics HTTP/1.0\r\n\r\n", loopback(), tmp_path / "m")
    assert empty.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in empty


def test_by_a_socket_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "ws0.metrics"
    modes: list[int] = []
    seen = metrics.text

    def look(*words: Any) -> str:
        modes.append(path.stat().st_mode & 0o777)
        return seen(*words)

    metrics.text = look
    try:
        answer = ask(b"GET /metrics?x HTTP/1.1\r\n\r\n", MetricsConfig(listen="unix"), path)
    finally:
        metrics.text = seen
    assert (answer[:15], modes) == (b"HTTP/1.1 200 OK", [0o600])
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\xff\x00 \r\n\r\n", b"400"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b""),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, request_: bytes, status: bytes) -> None:
    answer = ask(request_, loopback(), tmp_path / "m")
    assert answer[9:12] == status
    assert b"whalescale_" not in answer


def test_only_where_nobody_elses_packets_come_in(tmp_path: Path) -> None:
    async def main(listen: str, own: str) -> None:
        server = scrape.Scrape(told, lambda: {ipaddress.ip_address(own)}, tmp_path / "m")
        await server.listen(MetricsConfig(listen=listen))
        await server.close()

    with pytest.raises(AgentError, match=r"192\.0\.2\.1 is no address of this host inside"):
        asyncio.run(main("192.0.2.1:9586", "10.77.0.1"))
    with pytest.raises(AgentError, match="9586") as e:  # ours, but not of this machine
        asyncio.run(main("192.0.2.1:9586", "192.0.2.1"))
    assert "another port" in e.value.fix


def test_a_reload_moves_it(tmp_path: Path) -> None:
    async def main() -> None:
        server = scrape.Scrape(told, set, tmp_path / "m")
        first, second = loopback(), loopback()
        await server.listen(first)
        await server.listen(first)
        await server.listen(second)
        assert first.address is not None
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.open_connection(str(first.address[0]), first.address[1])
        await server.listen(MetricsConfig())
        assert second.address is not None
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.open_connection(str(second.address[0]), second.address[1])

    asyncio.run(main())


# the board


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:whalescale|process)_[a-z0-9_]+", text))


def test_board_and_alerts_ask_for_what_there_is() -> None:
    known = set(re.findall(r"^# TYPE (\S+)", metrics.text(told(2), 9), re.MULTILINE))
    board = json.loads(BOARD.read_text())
    asked = [t["expr"] for p in board["panels"] for t in p.get("targets", ())]
    asked += [v["definition"] for v in board["templating"]["list"] if "definition" in v]
    for text in (*asked, *re.findall(r"expr: (.+)", ALERTS.read_text())):
        assert names_in(text) <= known, text
    assert names_in(" ".join(asked))


def test_the_board_is_one_that_grafana_takes() -> None:
    """What its schema asks: panels with ids of their own on a grid of 24 that do not overlap."""
    board = json.loads(BOARD.read_text())
    assert (board["uid"], board["schemaVersion"]) == ("whalescale", 39)
    taken: set[tuple[int, int]] = set()
    ids = [p["id"] for p in board["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {v["name"] for v in board["templating"]["list"]}
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
