"""Each setting of a host that hurts, as `ws doctor` finds it; and the same host without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whalescale.cli import hostchecks as checks
from whalescale.cli.hostchecks import Datagrams

MARK = 0xCA6C


def put(root: Path, **values: str) -> Path:
    for name, value in values.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return root


@pytest.mark.parametrize(
    ("every", "one", "verdict"),
    [("0", "0", "ok"), ("1", "0", "warn"), ("0", "1", "warn"), ("2", "1", "ok")],
)
def test_rp_filter(tmp_path: Path, every: str, one: str, verdict: str) -> None:
    conf = put(tmp_path, all__rp_filter=every, default__rp_filter="1", eth0__rp_filter=one)
    found = checks.reverse_path(conf, "ws0")
    assert found.verdict == verdict
    if verdict == "warn":
        assert "eth0" in found.detail
        assert "rp_filter=2" in found.fix


def fib(*flags: str) -> dict[str, Any]:
    left = {"fib": {"result": "oif", "flags": list(flags)}}
    match = {"match": {"op": "==", "left": left, "right": False}}
    place = {"family": "inet", "table": "firewalld", "chain": "p"}
    rule = {**place, "expr": [match, {"drop": None}]}
    return {"rule": rule}


def test_firewalld() -> None:
    assert checks.firewall_reverse_path([fib("saddr", "mark", "iif")]).verdict == "ok"
    found = checks.firewall_reverse_path([fib("saddr", "iif")])
    assert found.verdict == "warn"
    assert "IPv6_rpfilter=no" in found.fix


def test_ipv6_that_is_switched_off(tmp_path: Path) -> None:
    values = {f"{d}__disable_ipv6": "0" for d in ("all", "default", "ws0")}
    assert checks.no_ipv6(put(tmp_path, **values), "ws0").verdict == "ok"
    found = checks.no_ipv6(put(tmp_path, default__disable_ipv6="1"), "ws0")
    assert (found.verdict, "net.ipv6.conf.default.disable_ipv6=0" in found.fix) == ("warn", True)
    assert checks.no_ipv6(tmp_path / "none", "ws0").verdict == "warn"


def test_rules_and_routes_that_go_before_ours() -> None:
    kernel = [{"priority": 0, "src": "all", "table": "local"},
              {"priority": 32764, "src": "all", "table": "main", "suppress_prefixlen": 0},
              {"priority": 32765, "not": None, "src": "all", "fwmark": "0xca6c", "table": "51820"},
              {"priority": 100, "src": "192.0.2.1", "table": "7"},
              {"priority": 32766, "src": "all", "table": "main"}]  # fmt: skip
    assert checks.policy_rules(kernel, MARK).verdict == "ok"
    catch_all = {"priority": 1000, "src": "all", "table": "100"}
    found = checks.policy_rules([*kernel, catch_all], MARK)
    assert (found.verdict, "priority 1000" in found.fix) == ("warn", True)
    assert checks.policy_rules([catch_all], 0).verdict == "ok"
    routes = [{"dst": "default", "dev": "eth0"}, {"dst": "10.0.0.0/8", "dev": "eth0"}]
    assert checks.more_specific(routes, "ws0", MARK).verdict == "ok"
    other = {"dst": "128.0.0.0/1", "dev": "tun7"}
    assert "tun7" in checks.more_specific([*routes, other], "ws0", MARK).detail
    assert checks.more_specific([{**other, "dev": "ws0"}], "ws0", MARK).verdict == "ok"


def test_a_kill_switch() -> None:
    place = {"family": "inet", "table": "ks"}
    chain = {"chain": {**place, "name": "out", "hook": "output", "policy": "drop"}}
    accept = {"rule": {**place, "chain": "out", "expr": [
        {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": MARK}},
        {"accept": None}]}}  # fmt: skip
    found = checks.kill_switch([chain], [], Datagrams(MARK))
    assert (found.verdict, "meta mark 0xca6c accept" in found.fix) == ("warn", True)
    assert "fwmark" in checks.kill_switch([chain], [], Datagrams()).fix
    assert checks.kill_switch([chain, accept], [], Datagrams(MARK)).verdict == "ok"
    open_chain = {"chain": {**chain["chain"], "policy": "accept"}}
    assert checks.kill_switch([open_chain], [], Datagrams(MARK)).verdict == "ok"
    last = {"rule": {**place, "chain": "out", "expr": [{"drop": None}]}}
    assert checks.kill_switch([open_chain, last], [], Datagrams(MARK)).verdict == "warn"
    old = [":OUTPUT DROP [0:0]"]
    assert checks.kill_switch([], old, Datagrams(MARK)).verdict == "warn"
    let = "-A OUTPUT -m mark --mark 0xca6c -j ACCEPT"
    assert checks.kill_switch([], [*old, let], Datagrams(MARK)).verdict == "ok"


def test_a_kill_switch_that_lets_the_port_pass() -> None:
    """Our own port, or the peers'."""
    ours = Datagrams(MARK, frozenset({("sport", 51820), ("dport", 4500)}))
    place = {"family": "inet", "table": "ks"}
    chain = {"chain": {**place, "name": "out", "hook": "output", "policy": "drop"}}

    def verdict(field: str, right: Any, end: str = "accept", op: str = "==") -> str:
        left = {"payload": {"protocol": "udp", "field": field}}
        expr = [{"match": {"op": op, "left": left, "right": right}}, {end: None}]
        rule = {"rule": {**place, "chain": "out", "expr": expr}}
        return checks.kill_switch([chain, rule], [], ours).verdict

    assert verdict("sport", 51820) == "ok"
    assert verdict("dport", {"set": [53, {"range": [4000, 5000]}]}) == "ok"
    assert verdict("dport", 53) == "warn"
    assert verdict("dport", 51820) == "warn"
    assert verdict("sport", 51820, "drop") == "warn"
    assert verdict("sport", 51820, op="!=") == "warn"
    closed = ":OUTPUT DROP [0:0]"
    for line, expected in (
        ("-A OUTPUT -p udp -m udp --sport 51820 -j ACCEPT", "ok"),
        ("-A OUTPUT -p udp -m multiport --dports 53,4500:4501 -j ACCEPT", "ok"),
        ("-A OUTPUT -p udp -m udp --dport 53 -j ACCEPT", "warn"),
        ("-A OUTPUT -p udp -m udp --sport 51820 -j DROP", "warn"),
    ):
        assert checks.kill_switch([], [closed, line], ours).verdict == expected, line


def test_networkd(tmp_path: Path) -> None:
    assert checks.networkd(tmp_path, running=False).verdict == "ok"
    found = checks.networkd(tmp_path, running=True)
    assert (found.verdict, "ManageForeignRoutes=no" in found.fix) == ("warn", True)
    folder = tmp_path / "systemd/networkd.conf.d"
    folder.mkdir(parents=True)
    text = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
    (folder / "x.conf").write_text(text)
    assert checks.networkd(tmp_path, running=True).verdict == "ok"


def test_the_connection_tracker(tmp_path: Path) -> None:
    assert checks.conntrack(tmp_path).verdict == "ok"
    put(tmp_path, nf_conntrack_count="100", nf_conntrack_max="1000")
    assert checks.conntrack(tmp_path).verdict == "ok"
    put(tmp_path, nf_conntrack_count="950")
    assert "nf_conntrack_max=4000" in checks.conntrack(tmp_path).fix


def test_a_small_mtu() -> None:
    links = [{"ifname": n, "mtu": m, "flags": ["UP"]} for n, m in (("eth0", 1500), ("ws0", 1280))]
    assert checks.small_mtu(links, "ws0").verdict == "ok"
    links.append({"ifname": "ppp0", "mtu": 1300, "flags": ["UP"]})
    assert "ppp0" in checks.small_mtu(links, "ws0").detail
