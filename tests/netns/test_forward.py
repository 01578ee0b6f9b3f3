"""What a node forwards for its peers, and all of a host's traffic through one of them.

client ─┐
        ├─ 10.201.x ── exit ── web
phone ──┘              └────── nas, shed (behind it; the shed is not to be reached)

Nobody but the exit knows of addresses inside the tunnel: what gets an answer was masqueraded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.netns.conftest import known, make_end, make_router, route
from tests.netns.test_network import advertised, end_of, join, up, ws
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
#: answers each question, by UDP and TCP, with the address that asked and its own
NAMES = """
import socket, socketserver, sys, threading
class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.client_address[0].encode(), self.client_address)
class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.client_address[0].encode())
for server in (socketserver.UDPServer((sys.argv[1], 53), Udp),
               socketserver.TCPServer((sys.argv[1], 53), Tcp)):
    threading.Thread(target=server.serve_forever).start()
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, getattr(socket, sys.argv[1]))
s.settimeout(4)
s.connect((sys.argv[2], 53))
s.send(b"?")
print(s.recv(100).decode())
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


def asked_as(host: Host, server: str, by: str = "SOCK_DGRAM") -> str:
    """By what address a name server sees this host's question to `server`; "": no answer."""
    done = host.run(sys.executable, "-c", ASK, by, server, check=False, timeout=15)
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

    def phone(self, *allowed: str) -> Host:
        """A plain WireGuard peer of the exit, on a link of its own. Skips without wireguard-go."""
        binary = debian_wireguard_go()
        if binary is None:
            pytest.skip("the rest needs wireguard-go")
        host = self.exit.lab.host("phone")
        link = self.exit.lab.link(host, self.exit)
        phone = WireGuardGo(host, f"wgp{self.b.interface[3:]}", ("10.77.0.9/32",), 51830, binary)
        at = ("-i", self.b.interface, "--config", str(self.b.config))
        key = ("--wireguard-public-key", phone.public_key)
        self.b.ws("peer", "add", "phone", *key, "--allowed-ip", "10.77.0.9/32", *at)
        phone.start(Peer(self.b.public_key, allowed, outside(link.address(self.exit), self.b.port)))
        return host

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
    told = street.a.status()["forwarding"]
    assert (told["problem"], told["kill_switch"]) == ("", False)
    assert "whalescale" not in client.run("nft", "list", "tables", check=False).stdout
    maps = Path(f"/proc/{street.a.status()['agent']['pid']}/maps")
    assert "nftables" not in maps.read_text()
    # and once more: the confined agent opens the library again
    street.a.dataplane = f'backend = "auto"\n\n{USE}'
    street.a.write_config(street.peer(street.a))
    street.a.ws("reload", "-i", street.a.interface)
    wait_until("the exit once more", lambda: by_tunnel(street, "web"), 20)
    told = street.a.status()["forwarding"]
    assert (told["problem"], told["kill_switch"]) == ("", True)
    assert "nftables" in maps.read_text()


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
    phone = street.phone(f"{street.at('nas')}/32")
    wait_until("the phone", lambda: seen_as(phone, street.at("nas")) == street.from_exit("nas"), 20)


def test_questions_and_a_phone_by_an_exit(lab: Lab) -> None:
    street = Street(lab, "", "[forward]\nexit = true")
    client, web = street.client, street.at("web")
    street.a.dataplane = f'backend = "auto"\n\n{USE}\ndns = "{web}"'
    names = street.host("web")
    names.spawn(sys.executable, "-c", NAMES, web)
    names.wait_listening(53)
    street.b.start(street.peer(street.b))
    street.a.start(street.peer(street.a))
    wait_until("the client by the exit", lambda: by_tunnel(street, "web"), 20)
    # A resolver of the LAN, whose questions bear the LAN's address; one far away; the right one.
    for server in (street.link.address(street.exit), "192.0.2.53", web):
        for by in ("SOCK_DGRAM", "SOCK_STREAM"):
            wait_until(
                f"an answer of {server} by {by}",
                lambda s=server, b=by: asked_as(client, s, b) == street.from_exit("web"),
                15,
            )
    # What stays on the host is its own.
    client.spawn(sys.executable, "-c", NAMES, "127.0.0.53")
    wait_until("the own one", lambda: asked_as(client, "127.0.0.53") == "127.0.0.1", 15)
    phone = street.phone("0.0.0.0/0")
    wait_until("the phone", lambda: seen_as(phone, web) == street.from_exit("web"), 20)


def test_an_exit_of_the_network(lab: Lab) -> None:
    home_host, laptop_host, web_host = (lab.host(name) for name in ("home", "laptop", "web"))
    link, behind = lab.link(home_host, laptop_host), lab.link(home_host, web_host)
    web_host.spawn(sys.executable, "-c", SERVER)
    route(laptop_host, "default", link, home_host)
    home, laptop = end_of(home_host, 1), end_of(laptop_host, 2)
    ws(home, "network", "create", "hearth", "--name", "home", "--prefix", "10.99.0.0/24")
    up(home)
    join(laptop, home, "laptop")
    at = ("-i", home.interface, "--config", str(home.config))
    assert "every member" in home.ws("exit-node", "serve", *at).stdout
    web = behind.address(web_host)
    # Nobody takes it who does not ask for it.
    wait_until("the record", lambda: "0.0.0.0/0" in advertised(laptop, "home"), 20)
    assert seen_as(laptop_host, web) == ""
    use = ("-i", laptop.interface, "--config", str(laptop.config))
    laptop.ws("exit-node", "use", "home", *use)
    ours = behind.address(home_host)
    wait_until("the laptop by the exit", lambda: seen_as(laptop_host, web) == ours, 20)
    home.ws("exit-node", "serve", "--off", *at)
    wait_until("no exit any more", lambda: seen_as(laptop_host, web) == "", 20)
    # A kill switch of an agent that is dead.
    laptop.kill()
    assert "-exit" in laptop_host.run("nft", "list", "tables").stdout
    laptop.ws("exit-node", "off", *use)
    assert "-exit" not in laptop_host.run("nft", "list", "tables").stdout
