"""Names of members: which queries get which answers."""

from __future__ import annotations

import socket
import subprocess

import dns.message
import dns.rcode
import pytest

from whalescale.runtime import zone
from whalescale.runtime.responder import Responder, answer, member_of

MEMBERS = {"home": ["10.9.0.1", "fd77::1"], "board": ["fd77::2"]}


def ask(name, kind="A", **options):
    data = dns.message.make_query(name, kind, **options).to_wire()
    reply = answer(data, "hearth", MEMBERS)
    return None if reply is None else dns.message.from_wire(reply)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("home.hearth.internal", "A", ["10.9.0.1"]),
        ("HOME.Hearth.Internal", "AAAA", ["fd77::1"]),
        ("home.internal", "A", ["10.9.0.1"]),
        ("home.internal", "ANY", ["10.9.0.1", "fd77::1"]),
        ("board.internal", "A", []),
        ("board.internal", "AAAA", ["fd77::2"]),
        ("home.internal", "MX", []),
        ("hearth.internal", "SOA", []),
    ],
)
def test_answers(name, kind, found):
    reply = ask(name, kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert [str(r) for rrset in reply.answer for r in rrset] == found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("phone.hearth.internal", dns.rcode.NXDOMAIN),
        ("phone.internal", dns.rcode.NXDOMAIN),
        ("example.com", dns.rcode.REFUSED),
        ("www.home.hearth.internal", dns.rcode.REFUSED),
        ("home.other.internal", dns.rcode.REFUSED),
        (".", dns.rcode.REFUSED),
    ],
)
def test_refusals(name, code):
    assert ask(name).rcode() == code


def test_what_is_no_query_gets_no_answer():
    query = dns.message.make_query("home.internal", "A")
    for data in (b"", b"x" * 11, query.to_wire()[:20], b"\0" * 600):
        assert answer(data, "hearth", MEMBERS) is None
    assert answer(dns.message.make_response(query).to_wire(), "hearth", MEMBERS) is None


def test_peers_get_no_answer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        responder = Responder("hearth", {"10.9.0.2": sock}, lambda: MEMBERS)
    query = dns.message.make_query("home.internal", "A").to_wire()
    assert responder.reply(query, "10.9.0.1") is None
    assert responder.reply(query, "10.9.0.2") is not None


def test_a_network_named_like_a_member():
    assert member_of("hearth.internal", "hearth") == ""
    assert member_of("hearth.hearth.internal", "hearth") == "hearth"


def test_a_port_that_cannot_be_had_is_left_out(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        monkeypatch.setattr(zone, "PORT", other.getsockname()[1])
        assert zone.open_sockets(["127.0.0.1", "192.0.2.1"]) == {}


def test_resolved_is_told_of_this_link_alone(monkeypatch, tmp_path):
    said = []

    def run(words, **_):
        said.append(words[1:])
        return subprocess.CompletedProcess(words, int(words[1] == "default-route"), b"", b"no\n")

    monkeypatch.setattr(zone, "RESOLVED", tmp_path)
    monkeypatch.setattr(zone.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(zone.subprocess, "run", run)
    assert zone.tell_resolved("ws0", "hearth", []) is None
    assert not said
    trouble = zone.tell_resolved("ws0", "hearth", ["fd77::1", "10.9.0.1"])
    assert trouble == "resolvectl default-route: no"
    assert said == [
        ["dns", "ws0", "10.9.0.1", "fd77::1"],
        ["domain", "ws0", "~hearth.internal", "~internal"],
        ["default-route", "ws0", "no"],
    ]
