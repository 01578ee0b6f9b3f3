"""A network made by commands: create, invite, join, a third member by gossip, revoke.

laptop ── veth ── home ── veth ── phone
"""

from __future__ import annotations

import json
import sys
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import make_end
from tools.netlab import Host, Lab, wait_until
from tools.peers import Whalescale

pytestmark = pytest.mark.netns


def end_of(host: Host, number: int) -> Whalescale:
    end = make_end(host, number)
    end.addresses = ()
    end.env["WHALESCALE_STATE_DIR"] = str(end.runtime.with_name("state"))
    end.write_config()
    return end


def ws(end: Whalescale, *words: str, check: bool = True) -> Any:
    place = ("--config", str(end.config)) if words[0] in ("join", "network") else ()
    return end.ws(*words, "-i", end.interface, *place, check=check)


def up(end: Whalescale) -> None:
    end.launch()
    end.wait_for_uapi()


def members(end: Whalescale) -> dict[str, dict[str, Any]]:
    view = json.loads(end.ws("members", "-i", end.interface, "--json").stdout)
    return {m["name"]: m for m in view["members"]}


def join(end: Whalescale, inviter: Whalescale, name: str, *, running: bool = False) -> None:
    """`running`: its agent runs already, and takes the network up without a restart."""
    if running:
        up(end)
    ticket = inviter.ws("invite", name, "-i", inviter.interface).stdout.strip()
    told = json.loads(ws(end, "join", ticket, "--json").stdout)
    assert (told["name"], told["running"]) == (name, running)
    if not running:
        up(end)


def reaches(end: Whalescale, address: str) -> bool:
    done = end.host.run("ping", "-c1", "-W1", address, check=False)
    return done.returncode == 0


def taken(end: Whalescale, member: str) -> set[str]:
    """Networks that lead to it, its own addresses apart."""
    shown = json.loads(end.ws("route", "show", "--json", "-i", end.interface).stdout)
    return {n for n in shown["peers"][member] if not n.endswith(("/32", "/128"))}


def advertised(end: Whalescale, member: str) -> set[str]:
    """What the record says is behind it, taken or not."""
    view = json.loads(end.ws("members", "-i", end.interface, "--json").stdout)
    return next(set(m["routes"]) for m in view["members"] if m["name"] == member)


QUERY = """
import sys, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), sys.argv[2], timeout=5)
print(*(r.address for rrset in reply.answer for r in rrset))
"""


def resolved(end: Whalescale, name: str, server: str) -> str:
    return end.host.run(sys.executable, "-c", QUERY, name, server).stdout.strip()


def test_create_invite_join_gossip_revoke(lab: Lab) -> None:
    resolvers = Path("/etc/resolv.conf")
    before = resolvers.read_bytes() if resolvers.exists() else b""
    hub, *others = (lab.host(name) for name in ("home", "laptop", "phone"))
    links = [lab.link(hub, other) for other in others]
    # They reach each other through the hub's host, which forwards.
    hub.sysctl("net.ipv4.ip_forward", 1)
    for link, other in zip(links, others, strict=True):
        other.ip(f"route add default via {link.address(hub)}")
    home, laptop, phone = (end_of(h, n) for n, h in enumerate((hub, *others), start=1))
    made = json.loads(
        ws(
            home,
            "network",
            "create",
            "hearth",
            "--name",
            "home",
            "--prefix",
            "10.99.0.0/24",
            "--json",
        ).stdout
    )
    assert made["address"] == "10.99.0.1"
    up(home)
    join(laptop, home, "laptop")
    wait_until("laptop sees home", lambda: members(laptop)["home"]["session"], 15)
    wait_until("a ping", lambda: reaches(laptop, "10.99.0.1"), 10)
    wait_until("a ping back", lambda: reaches(home, "10.99.0.2"), 10)

    assert "10.99.0.2/24" in laptop.status()["agent"]["addresses"]  # type: ignore[index]
    assert resolved(laptop, "home.hearth.internal", "10.99.0.2") == "10.99.0.1"
    assert resolved(laptop, "laptop.internal", "10.99.0.2") == "10.99.0.2"
    # netbird#742: names never touch the host's own resolvers.
    assert (resolvers.read_bytes() if resolvers.exists() else b"") == before

    # Another admin lets the third one in; once it is none any more, whom it let in stays.
    ws(home, "network", "admin", "add", "laptop")
    wait_until("laptop is an admin", lambda: members(laptop)["laptop"]["admin"], 10)
    join(phone, laptop, "phone", running=True)
    wait_until("home hears of phone", lambda: "phone" in members(home), 10)
    removed = json.loads(ws(home, "network", "admin", "remove", "laptop", "--json").stdout)
    assert removed == {"version": 1, "name": "laptop", "admin": False}
    wait_until("laptop is none", lambda: not members(laptop)["laptop"]["admin"], 10)
    assert members(home).keys() == members(laptop).keys() == {"home", "laptop", "phone"}
    wait_until("laptop hears of phone", lambda: "phone" in members(laptop), 10)
    wait_until("phone hears of laptop", lambda: "laptop" in members(phone), 10)
    wait_until("they talk", lambda: reaches(laptop, members(phone)["phone"]["address"]), 15)
    # It joined beside its running agent, which answers for names all the same.
    assert resolved(phone, "home.hearth.internal", members(phone)["phone"]["overlay"]) == (
        "10.99.0.1"
    )

    # What the live view shows of them.
    network: Any = laptop.status()["network"]
    shown = {m["name"]: m for m in network["members"]}
    assert shown.keys() == {"home", "laptop", "phone"}
    assert shown["laptop"]["here"]
    assert shown["home"]["session"]
    assert shown["home"]["reached"] in {"near", "dialled", "seen"}
    assert network["warnings"][0].startswith("no anchor is alive")

    ws(home, "rename", "phone", "mobile")
    wait_until("the name is known", lambda: "mobile" in members(laptop), 10)
    refused = ws(laptop, "revoke", "home", check=False)
    assert refused.returncode == 1
    assert "no admin" in refused.stderr

    # What is behind the laptop: private at once, public when accepted, the phone's own LAN never.
    lan = ip_interface(f"{links[1].address(others[1])}/24").network
    signed = [
        word for n in ("192.168.77.0/24", "203.0.113.0/24", lan) for word in ("--add", str(n))
    ]
    ws(home, "route", "sign", "laptop", *signed)
    wait_until("a route", lambda: taken(phone, "laptop") == {"192.168.77.0/24"}, 10)
    assert phone.host.ip_json("route get 192.168.77.5")[0]["dev"] == phone.interface
    shown = json.loads(phone.ws("route", "show", "--json", "-i", phone.interface).stdout)
    assert {left["network"] for left in shown["left"]} == {"203.0.113.0/24", str(lan)}
    phone.ws("route", "accept", "203.0.113.0/24", "--config", str(phone.config))
    wait_until("both", lambda: taken(phone, "laptop") == {"192.168.77.0/24", "203.0.113.0/24"}, 10)

    lines = laptop.ws("hosts", "-i", laptop.interface).stdout.split("\n")
    assert "10.99.0.3\tmobile.hearth.internal mobile.internal" in lines

    def near() -> bool:
        where = laptop.ws("address", "home", "-i", laptop.interface).stdout
        return "near     10.201." in where

    wait_until("home on one link with it", near, 10)

    ws(home, "revoke", "mobile")
    for end in (home, laptop):
        wait_until("nobody has it", lambda end=end: "mobile" not in members(end), 10)
        names = [p["name"] for p in end.status()["peers"]]  # type: ignore[attr-defined]
        assert "mobile" not in names
    wait_until("it is cut off", lambda: not reaches(laptop, "10.99.0.3"), 10)

    # What is known outlives an agent, and so does a ticket.
    spare = home.ws("invite", "tablet", "-i", home.interface).stdout.strip()
    home.process.kill()
    home.process.wait()
    up(home)
    laptop.process.stop()
    up(laptop)
    assert members(laptop).keys() == {"home", "laptop"}
    wait_until("a ping", lambda: reaches(laptop, "10.99.0.1"), 15)
    key = json.loads(ws(home, "network", "export-key", "--json").stdout)["key"]
    assert key == ws(home, "network", "export-key").stdout.strip()
    for words in (("network", "create", "x"), ("join", spare)):
        again = ws(laptop, *words, check=False)
        assert again.returncode == 1
        assert "already" in again.stderr
    laptop.process.stop()
    shown = json.loads(home.ws("network", "show", "--json", "-i", home.interface).stdout)
    assert [t["name"] for t in shown["tickets"]] == ["tablet"]
    assert shown["anchor"]["wanted"] == "no"
    home.ws("invite", "tablet", "--withdraw", "-i", home.interface)
    assert "ticket" not in home.ws("network", "show", "-i", home.interface).stdout
    left = json.loads(ws(laptop, "network", "leave", "--json").stdout)
    assert left == {"version": 1, "left": laptop.interface}


def test_what_is_told_who_is_in_no_network(lab: Lab) -> None:
    end = end_of(lab.host("a"), 1)
    up(end)
    for words in (("members",), ("invite", "x"), ("network", "show")):
        done = end.ws(*words, "-i", end.interface, check=False)
        assert done.returncode == 1
        assert "ws network create" in done.stderr
    done = ws(end, "join", "nonsense", check=False)
    assert done.returncode == 2
