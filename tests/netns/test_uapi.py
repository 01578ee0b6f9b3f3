"""`wg show`, `wg set` and `wg syncconf` on a Whalescale interface."""

from __future__ import annotations

import pytest

from tests.netns.conftest import Two, addresses
from tools.netlab import run, wait_until
from tools.peers import Peer, wg_config

pytestmark = pytest.mark.netns

SOMEONE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def test_wg_show(two: Two) -> None:
    two.a.ping(two.b, count=1)
    shown = two.a.run("wg", "show", two.a.interface).stdout
    assert f"public key: {two.a.public_key}" in shown
    assert f"listening port: {two.a.port}" in shown
    assert f"peer: {two.b.public_key}" in shown
    assert "latest handshake:" in shown
    # Its link-local address is as good as the one that was told.
    ip, _, port = two.a.show("endpoints").rpartition(":")
    assert ip.strip("[]") in addresses(two.b.host)
    assert port == str(two.b.port)
    assert two.a.show("allowed-ips").split() == two.a.show("allowed-ips").strip().split(" ")
    received, sent = two.a.transfer()
    assert received > 100
    assert sent > 100
    dumped = two.a.run("wg", "show", two.a.interface, "dump").stdout.splitlines()
    assert len(dumped) == 2
    assert len(dumped[1].split("\t")) == 8


def test_wg_set_adds_changes_and_removes_a_peer(two: Two) -> None:
    def wg_set(*words: str, check: bool = True) -> int:
        return two.a.run("wg", "set", two.a.interface, *words, check=check).returncode

    def show(what: str) -> dict[str, str]:
        lines = two.a.run("wg", "show", two.a.interface, what).stdout.splitlines()
        return dict(line.split("\t", 1) for line in lines)

    wg_set("peer", SOMEONE, "allowed-ips", "10.99.0.0/24,fd99::/64", "endpoint", "10.201.1.9:5555")
    assert show("allowed-ips")[SOMEONE] == "10.99.0.0/24 fd99::/64"
    assert show("endpoints")[SOMEONE] == "10.201.1.9:5555"
    wg_set("peer", SOMEONE, "persistent-keepalive", "25")
    assert show("persistent-keepalive")[SOMEONE] == "25"
    # A network moves to whoever got it last.
    wg_set("peer", SOMEONE, "allowed-ips", "10.77.0.2/32")
    assert "10.77.0.2/32" in show("allowed-ips")[SOMEONE]
    assert "10.77.0.2/32" not in show("allowed-ips")[two.b.public_key].split()
    wg_set("peer", SOMEONE, "remove")
    assert SOMEONE not in show("allowed-ips")
    two.a.ping(two.b, 6, count=1)


def test_wg_set_listen_port_moves_the_socket(two: Two) -> None:
    two.a.ping(two.b, count=1)
    two.a.run("wg", "set", two.a.interface, "listen-port", "40404")
    assert 40404 in two.a.host.udp_ports()
    assert two.a.port not in two.a.host.udp_ports()
    two.a.ping(two.b, count=2)
    wait_until("b to know of it", lambda: two.b.show("endpoints").endswith(":40404"))


def test_wg_syncconf_keeps_the_session(two: Two) -> None:
    two.a.ping(two.b, count=1)

    def settled() -> bool:
        """The handshake for the sake of post-quantum keys is over."""
        return bool(two.a.status()["peers"][0]["post_quantum"] == "yes")

    wait_until("post-quantum keys", settled, 15)
    before = two.a.latest_handshake()
    told = two.peer_of(two.a)
    current = two.a.run("wg", "showconf", two.a.interface).stdout
    private = next(line.split(" = ")[1] for line in current.splitlines() if "PrivateKey" in line)
    path = two.lab.folder / "sync.conf"
    path.touch(mode=0o600)
    kept = Peer(told.public_key, told.allowed_ips, told.endpoint, keepalive=7)
    path.write_text(wg_config(private, two.a.port, kept))
    two.a.run("wg", "syncconf", two.a.interface, path)
    assert two.a.show("persistent-keepalive") == "7"
    two.a.ping(two.b, count=1)
    assert two.a.latest_handshake() == before


def test_wg_set_of_a_psk_on_both_sides(two: Two) -> None:
    psk = two.lab.folder / "psk"
    psk.touch(mode=0o600)
    psk.write_text(run("wg", "genpsk").stdout)
    for end, other in ((two.a, two.b), (two.b, two.a)):
        end.run("wg", "set", end.interface, "peer", other.public_key, "preshared-key", psk)
    two.a.ping(two.b, count=1)
    assert two.a.show("preshared-keys") == psk.read_text().strip()


def test_what_stands_before_a_faulty_line_is_done(two: Two) -> None:
    # The UAPI is spoken by hand here: `wg` itself would refuse this.
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(sys.argv[2].encode()); print(s.recv(4096).decode())"
    )
    path = f"/var/run/wireguard/{two.a.interface}.sock"
    request = f"set=1\nlisten_port=40405\npublic_key={'07' * 32}\nno_such_key=1\n\n"
    answer = run("python3", "-c", script, path, request).stdout
    assert answer.startswith("errno=")
    assert not answer.startswith("errno=0")
    after = two.a.run("wg", "showconf", two.a.interface).stdout
    assert "ListenPort = 40405" in after
    assert after.count("[Peer]") == 2
