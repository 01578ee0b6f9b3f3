"""What a node forwards for its peers, and all of a host's traffic through one of them.

client ─┐
        ├─ 10.201.x ── exit ── web
phone ──┘              └────── nas, shed (behind it; the shed is not to be reached)

Nobody but the exit knows of addresses inside the tunnel: what gets an answer was masqueraded.
"""

from __future__ import annotations

import sys

import pytest

from tests.netns.conftest import known, make_end, make_router, route
from tools.netlab import Host, Lab, Link, wait_until
from tools.peers import Peer, Whalescale, WireGuardGo, debian_wireguard_go, outside

pytestmark = pytest.mark.netns

#: says to each connection from where it came
SERVER = """
import socket
s = socket.create_server(("::", 7777), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, at = s.accept()
    c.sendall(at[0].removeprefix("::ffff:").encode())
    c.close()
"""
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7777), timeout=4)
print(s.recv(100).decode())
"""
EVERYWHERE = ("0.0.0.0/0", "::/0")


def seen_as(host: Host, address: str) -> str:
    """By what address the server there sees this host; "": no connection."""
    done = host.run(sys.executable, "-c", CLIENT, address, check=False, timeout=15)
    return done.stdout.strip() if done.returncode == 0 else ""


class Street:
    """All hosts and links; agents of the client and the exit, not started."""

    def __init__(self, lab: Lab, client: str, exit: str) -> None:
        self.client, self.exit = lab.host("client"), lab.host("exit")
        self.link = lab.link(self.client, self.exit)
        self.behind: dict[str, Link] = {}
        for name in ("web", "nas", "shed"):
            other = lab.host(name)
            self.behind[name] = lab.link(self.exit, other)
            other.spawn(sys.executable, "-c", SERVER)
        for family in (4, 6):
            route(self.client, "default", self.link, self.exit, family)
            # the way past the tunnel works, so that a leak would be seen
            route(
                self.host("web"),
                self.network(self.link, family),
                self.behind["web"],
                self.exit,
                family,
            )
        make_router(self.exit)
        self.a = make_end(self.client, 1, dataplane=f'backend = "auto"\n\n{client}')
        self.b = make_end(self.exit, 2, dataplane=f'backend = "auto"\n\n{exit}')

    def host(self, name: str) -> Host:
        return next(host for host in self.behind[name].ends if host is not self.exit)

    def at(self, name: str, family: int = 4) -> str:
        return self.behind[name].address(self.host(name), family)

    def from_exit(self, name: str, family: int = 4) -> str:
        return self.behind[name].address(self.exit, family)

    @staticmethod
    def network(link: Link, family: int) -> str:
        """The link's, without host bits."""
        address = link.address(next(iter(link.ends)), family)
        return f"{address.removesuffix('1')}{'0/24' if family == 4 else '/64'}"

    def peer(self, end: Whalescale, *more: str) -> Peer:
        other = self.b if end is self.a else self.a
        at = outside(self.link.address(other.host), other.port)
        plain = known(other, at)
        return Peer(plain.public_key, (*plain.allowed_ips, *more), at, node_id=plain.node_id)


def by_tunnel(street: Street, name: str, family: int = 4) -> bool:
    return seen_as(street.client, street.at(name, family)) == street.from_exit(name, family)


USE = '[exit]\nuse = "peer0"\nlan = false'


@pytest.fixture
def street(lab: Lab) -> Street:
    return Street(lab, USE, "[forward]\nexit = true")


def test_all_traffic_by_an_exit_and_a_kill_switch(street: Street) -> None:
    client, web = street.client, street.at("web")
    ours = street.link.address(client)
    wait_until("the server", lambda: seen_as(client, web) == ours, 20)
    street.b.start(street.peer(street.b))
    street.a.start(street.peer(street.a))
    for family in (4, 6):
        wait_until(f"IPv{family} by the exit", lambda f=family: by_tunnel(street, "web", f), 20)
    # the agent dies: nothing leaves, and nothing of it goes on when it is back
    assert street.a.process is not None
    street.a.process.kill()
    for family in (4, 6):
        assert seen_as(client, street.at("web", family)) == ""
    street.a.launch()
    wait_until("the exit again", lambda: by_tunnel(street, "web"), 30)
    # without an exit in the file: as before
    street.a.dataplane = ""
    street.a.write_config(street.peer(street.a))
    street.a.ws("reload", "-i", street.a.interface)
    wait_until("the way past the tunnel", lambda: seen_as(client, web) == ours, 10)


def test_each_is_the_others_exit(lab: Lab) -> None:
    both = f"{USE.replace('false', 'true')}\n\n[forward]\nexit = true"
    street = Street(lab, both, both)
    street.b.start(street.peer(street.b))
    street.a.start(street.peer(street.a))
    wait_until("the client by the exit", lambda: by_tunnel(street, "web"), 20)
    # The exit's own traffic goes by the client, and comes back through it like anybody's.
    ours = street.from_exit("web")
    wait_until("the exit by the client", lambda: seen_as(street.exit, street.at("web")) == ours, 20)


def test_a_network_behind_a_peer_and_a_plain_wireguard_peer(lab: Lab) -> None:
    street = Street(lab, "", "")
    nas, shed = (street.network(street.behind[name], 4) for name in ("nas", "shed"))
    street.b.dataplane = f'backend = "auto"\n\n[forward]\nnetworks = ["{nas}"]'
    street.b.start(street.peer(street.b))
    street.a.start(street.peer(street.a, nas, shed))
    wait_until("the network behind", lambda: by_tunnel(street, "nas"), 20)
    assert seen_as(street.client, street.at("shed")) == ""
    binary = debian_wireguard_go()
    if binary is None:
        pytest.skip("the rest needs wireguard-go")
    phone_host = lab.host("phone")
    link = lab.link(phone_host, street.exit)
    phone = WireGuardGo(phone_host, f"wgp{street.a.port}", ("10.77.0.9/32",), 51830, binary)
    street.b.ws(
        *("peer", "add", "phone", "--wireguard-public-key", phone.public_key),
        *(
            "--allowed-ip",
            "10.77.0.9/32",
            "-i",
            street.b.interface,
            "--config",
            str(street.b.config),
        ),
    )
    at = outside(link.address(street.exit), street.b.port)
    phone.start(Peer(street.b.public_key, (f"{street.at('nas')}/32",), at))
    wait_until(
        "the phone",
        lambda: seen_as(phone_host, street.at("nas")) == street.from_exit("nas"),
        20,
    )
