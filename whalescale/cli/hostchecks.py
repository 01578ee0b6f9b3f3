"""What `ws doctor` finds in a host's settings that will hurt a tunnel, each with its mend.

Every check takes what it reads as arguments; `host` gathers it. None needs privileges: what cannot
be read without is left out.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from whalescale.cli import hostways
from whalescale.cli.parts import Check

#: share of the connection tracker's room
CROWDED: Final = 0.9
#: bytes of the outer headers over IPv6: IPv6, UDP, WireGuard
OVERHEAD: Final = 80
#: 1280 inside, and those
MTU_LEAST: Final = 1280 + OVERHEAD
#: rules that are looked at after ours
PRIORITY_OWN: Final = 32765
OUR_TABLE: Final = "whalescale-"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What a firewall can tell the agent's datagrams by."""

    #: their mark where the tunnel has a routing table of its own; else 0
    mark: int = 0
    #: ("sport", ours), and ("dport", N) of each peer
    ports: frozenset[tuple[str, int]] = frozenset()
    #: as they are marked in any case
    fwmark: int = 0
    #: where peers are, without zones
    endpoints: frozenset[str] = frozenset()


def host(
    interface: str,
    ours: Datagrams = Datagrams(),
    proc: Path = Path("/proc"),
    etc: Path = Path("/etc"),
) -> Iterator[Check]:
    mark = ours.mark
    ruleset = _objects(("nft", "-j", "list", "ruleset"), "nftables")
    rules = [r for f in ("-4", "-6") for r in _list(("ip", "-j", f, "rule"))]
    routes = [r for f in ("-4", "-6") for r in _list(("ip", "-j", f, "route"))]
    yield reverse_path(proc / "sys/net/ipv4/conf", interface)
    yield firewall_reverse_path(ruleset)
    yield no_ipv6(proc / "sys/net/ipv6/conf", interface)
    yield policy_rules(rules, mark)
    yield more_specific(routes, interface, mark)
    yield kill_switch(ruleset, _iptables(), ours)
    yield networkd(etc, Path("/run/systemd/netif").exists())
    yield conntrack(proc / "sys/net/netfilter")
    yield small_mtu(_list(("ip", "-j", "link")), interface)
    through = ("route", "show", "table", "all", "dev", interface)
    own = [
        {**r, "family": int(f[1])} for f in ("-4", "-6") for r in _list(("ip", "-j", f, *through))
    ]
    if own:
        outside = ours.fwmark or mark
        yield from hostways.host(interface, routes, own, mark, outside, ours.endpoints, _way)


def _run(words: Sequence[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _list(words: Sequence[str]) -> list[Json]:
    with contextlib.suppress(ValueError):
        found = json.loads(_run(words))
        if isinstance(found, list):
            return [x for x in found if isinstance(x, dict) and x]
    return []


def _objects(words: Sequence[str], key: str) -> list[Json]:
    with contextlib.suppress(ValueError, AttributeError):
        return [x for x in json.loads(_run(words)).get(key, []) if isinstance(x, dict)]
    return []


def _way(address: str, mark: int) -> str:
    return _run(("ip", "-j", "route", "get", address, *(("mark", str(mark)) if mark else ())))


def _iptables() -> list[str]:
    """Lines of the legacy tables; those of nftables are in its rule set already."""
    lines: list[str] = []
    for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
        lines += _run((program, "-t", "filter")).splitlines()
    return lines


def _switch(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def reverse_path(conf: Path, interface: str) -> Check:
    """The greater of all's and the device's counts; 1 is strict."""
    name = "rp_filter"
    every = _switch(conf / "all/rp_filter")
    devices = sorted(p.name for p in conf.glob("*") if p.name not in ("all", "default", "lo"))
    strict = [d for d in devices if max(every, _switch(conf / d / "rp_filter")) == 1]
    if not strict:
        return Check(name, "ok", "no strict reverse-path filter")
    others = [d for d in strict if d != interface]
    named = ", ".join(strict)
    detail = f"strict (1) on {named}: what comes in where the answer would not leave is dropped"
    lost = (
        "of several uplinks those that are not the default route"
        if others
        else "packets of the tunnel whose source is routed elsewhere"
    )
    return Check(name, "warn", detail, "`sudo sysctl -w net.ipv4.conf.all.rp_filter=2`", lost)


def _fib_checks(ruleset: Iterable[Json]) -> Iterator[tuple[str, list[str]]]:
    """(table, what is looked up) of each rule that asks where a source would be answered by."""
    for rule in (x["rule"] for x in ruleset if "rule" in x):
        for expression in rule.get("expr", ()):
            left = (expression.get("match") or {}).get("left") or {}
            fib = left.get("fib") if isinstance(left, dict) else None
            if fib and "saddr" in fib.get("flags", ()) and fib.get("result") in ("oif", "oifname"):
                yield f"{rule.get('family')} {rule.get('table')}", list(fib["flags"])


def firewall_reverse_path(ruleset: Iterable[Json]) -> Check:
    name = "firewall's reverse paths"
    for table, flags in _fib_checks(ruleset):
        if "mark" not in flags:
            return Check(
                name,
                "warn",
                f"table {table} drops what comes in where the answer would not leave, and does "
                "not look at the mark",
                "for firewalld: IPv6_rpfilter=no in /etc/firewalld/firewalld.conf, then "
                "`sudo firewall-cmd --reload`; else take `fib saddr . mark . iif` for it",
                "a tunnel that is the default route gets no answers",
            )
    return Check(name, "ok", "none that the mark does not pass")


def no_ipv6(conf: Path, interface: str) -> Check:
    name = "disable_ipv6"
    if not conf.exists():
        return Check(name, "warn", "the kernel has no IPv6", "", "the overlay address")
    off = [d for d in ("all", "default", interface) if _switch(conf / d / "disable_ipv6")]
    if not off:
        return Check(name, "ok", "IPv6 is on")
    keys = " ".join(f"net.ipv6.conf.{d}.disable_ipv6=0" for d in off)
    detail = f"IPv6 is switched off for {', '.join(off)}"
    return Check(name, "warn", detail, f"`sudo sysctl -w {keys}`", "IPv6 in the tunnel")


def policy_rules(rules: Iterable[Json], mark: int) -> Check:
    """Rules before ours that send everything elsewhere."""
    name = "ip rules"
    if not mark:
        return Check(name, "ok", "the tunnel needs none")
    found = []
    for rule in rules:
        priority = int(rule.get("priority") or 0)
        chosen = rule.keys() & {"fwmark", "iif", "oif", "ipproto", "sport", "dport", "uid_start"}
        everything = rule.get("src") in (None, "all") and not chosen and "dst" not in rule
        ours = "suppress_prefixlen" in rule or "suppress_prefixlength" in rule
        if 0 < priority < PRIORITY_OWN and everything and not ours and "not" not in rule:
            found.append(f"{priority} (table {rule.get('table')})")
    if not found:
        return Check(name, "ok", "none goes before the tunnel's")
    return Check(
        name,
        "warn",
        f"rule {', '.join(found)} goes before the tunnel's and takes all packets",
        f"remove it: `sudo ip rule del priority {found[0].split()[0]}`",
        "what its table routes does not go into the tunnel",
    )


def more_specific(routes: Iterable[Json], interface: str, mark: int) -> Check:
    """Great pieces of the internet that go by another interface, beside our default route."""
    name = "routes"
    if not mark:
        return Check(name, "ok", "all are in the main table")
    pieces = []
    for route in routes:
        to, device = str(route.get("dst")), str(route.get("dev"))
        length = to.partition("/")[2]
        wide = length.isdecimal() and 1 <= int(length) <= (3 if ":" in to else 5)
        if wide and device != interface and not to.startswith(("fe80", "ff")):
            pieces.append(f"{to} by {device}")
    if not pieces:
        return Check(name, "ok", "none takes the tunnel's place")
    return Check(
        name,
        "warn",
        f"{', '.join(pieces)}: longer than the tunnel's default route",
        "stop the other VPN that made it, or give the tunnel the same networks in allowed_ips",
        "what they hold does not go into the tunnel",
    )


def kill_switch(ruleset: Sequence[Json], iptables: Iterable[str], ours: Datagrams) -> Check:
    """Output that is dropped unless something allows it, and nothing that lets our mark or port
    pass."""
    name, mark = "kill switch", ours.mark
    chains = [x["chain"] for x in ruleset if "chain" in x]
    closed = [
        f"{c.get('family')} {c.get('table')} {c.get('name')}"
        for c in chains
        if c.get("hook") == "output" and c.get("policy") == "drop"
    ]
    outputs = {(c.get("family"), c.get("table"), c.get("name")) for c in chains
               if c.get("hook") == "output"}  # fmt: skip
    marked = passed = False
    for rule in (x["rule"] for x in ruleset if "rule" in x):
        place = rule.get("family"), rule.get("table"), rule.get("name") or rule.get("chain")
        expressions = rule.get("expr", [])
        if place in outputs and [next(iter(e)) for e in expressions if e] in (["drop"], ["reject"]):
            closed.append(" ".join(map(str, place)))
        if not str(rule.get("table")).startswith(OUR_TABLE):
            marked |= bool(mark) and _speaks_of(expressions, mark)
            passed |= {"accept": None} in expressions and _names(expressions, ours.ports)
    legacy = list(iptables)
    closed += [
        f"iptables {line}"
        for line in legacy
        if re.match(r":OUTPUT DROP|-A OUTPUT -j (DROP|REJECT)", line)
    ]
    marked |= bool(mark) and any(f"{mark:#x}" in line and "--mark" in line for line in legacy)
    passed |= any("ACCEPT" in line and _port_in(line, ours.ports) for line in legacy)
    if not closed or marked or passed:
        what = "mark" if marked else "port"
        return Check(name, "ok", f"lets our {what} pass" if closed else "none")
    allow = f"meta mark {mark:#x} accept" if mark else "udp sport PORT accept, of the listen_port"
    return Check(
        name,
        "warn",
        f"{closed[0]} drops what leaves this host, unless a rule lets it pass; none names our "
        "mark or port",
        f"add a rule before it: `{allow}`"
        + ("" if mark else "; or set [interface] fwmark and let that pass"),
        "no peer is reached where nothing else lets the agent's datagrams pass",
    )


def _speaks_of(expressions: Iterable[Json], mark: int) -> bool:
    for expression in expressions:
        match = expression.get("match") or {}
        if (match.get("left") or {}) == {"meta": {"key": "mark"}} and match.get("right") == mark:
            return True
    return False


def _names(expressions: Iterable[Json], ports: Iterable[tuple[str, int]]) -> bool:
    """Whether a rule is about one of these UDP ports."""
    for expression in expressions:
        match = expression.get("match") or {}
        left = match.get("left") if match.get("op") in ("==", "in") else None
        payload = left.get("payload") if isinstance(left, dict) else None
        if not isinstance(payload, dict) or payload.get("protocol") not in ("udp", "th"):
            continue
        if any(payload.get("field") == f and _holds(match.get("right"), p) for f, p in ports):
            return True
    return False


def _holds(right: Any, port: int) -> bool:
    """A number, {"range": [A, B]} or {"set": [...]} of nft's JSON."""
    if not isinstance(right, dict):
        return bool(right == port)
    if isinstance(between := right.get("range"), list) and len(between) == 2:
        return all(isinstance(x, int) for x in between) and between[0] <= port <= between[1]
    return any(_holds(x, port) for x in right.get("set") or ())


def _port_in(line: str, ports: Iterable[tuple[str, int]]) -> bool:
    """A line of iptables-save: --sport 51820, --dports 1,5:9 and the like."""
    for field, port in ports:
        for text in re.findall(rf"(?<!! )--{field}s? (\S+)", line):
            for part in text.split(","):
                low, _, high = part.partition(":")
                if low.isdecimal() and int(low) <= port <= int(high or low):
                    return True
    return False


def networkd(etc: Path, running: bool) -> Check:
    """systemd-networkd removes the routes and rules that it did not make, unless told not to."""
    name = "systemd-networkd"
    if not running:
        return Check(name, "ok", "not running")
    settings: dict[str, str] = {}
    files = [
        etc / "systemd/networkd.conf",
        *sorted((etc / "systemd/networkd.conf.d").glob("*.conf")),
    ]
    for path in files:
        with contextlib.suppress(OSError):
            for key, value in re.findall(r"(?m)^\s*(Manage\w+)\s*=\s*(\S+)", path.read_text()):
                settings[key] = value.lower()
    keys = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
    on = [k for k in keys if settings.get(k, "yes") not in ("no", "false", "0", "off")]
    if not on:
        return Check(name, "ok", "leaves others' routes and rules alone")
    lines = "\\n".join(f"{k}=no" for k in on)
    return Check(
        name,
        "warn",
        f"removes others' routes and rules when it restarts ({', '.join(on)}); the agent puts "
        "them back",
        f"`sudo mkdir -p /etc/systemd/networkd.conf.d; printf '[Network]\\n{lines}\\n' | sudo tee "
        "/etc/systemd/networkd.conf.d/whalescale.conf; sudo systemctl restart systemd-networkd`",
        "moments without routes",
    )


def conntrack(folder: Path) -> Check:
    name = "connection tracker"
    count, most = _switch(folder / "nf_conntrack_count"), _switch(folder / "nf_conntrack_max")
    if not most:
        return Check(name, "ok", "not in use")
    if count < most * CROWDED:
        return Check(name, "ok", f"{count} of {most} connections")
    return Check(
        name,
        "warn",
        f"full: {count} of {most} connections",
        f"`sudo sysctl -w net.netfilter.nf_conntrack_max={most * 4}`",
        "new connections, handshakes among them, are dropped",
    )


def small_mtu(links: Iterable[Json], interface: str) -> Check:
    name = "MTU"
    small = [
        f"{x.get('ifname')} ({x.get('mtu')})"
        for x in links
        if "UP" in x.get("flags", ())
        and "LOOPBACK" not in x.get("flags", ())
        and x.get("ifname") != interface
        and int(x.get("mtu") or MTU_LEAST) < MTU_LEAST
    ]
    if not small:
        return Check(name, "ok", f"every interface takes {MTU_LEAST} bytes or more")
    return Check(
        name,
        "warn",
        f"{', '.join(small)} takes less than the {MTU_LEAST} bytes that IPv6 inside needs",
        f"raise it where the link allows it: `sudo ip link set {small[0].split()[0]} mtu 1500`",
        "a path over it carries small packets only, or in fragments",
    )
