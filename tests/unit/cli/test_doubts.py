"""What was once accepted in silence: own keys and addresses at the wrong place."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from run_ws import Ws

from whalescale import config, config_keys, doubts, identity

INIT = ("-a", "10.77.0.1/24")


@pytest.fixture
def file(tmp_path: Path, ws: Ws) -> Path:
    path = tmp_path / "etc" / "ws0.toml"
    assert ws("init", "-c", path, *INIT).code == 0
    return path


def own(file: Path) -> identity.Identity:
    return identity.Identity.from_seed(config_keys.read_private_key(config.load(file)))


def node_id(number: int) -> str:
    return identity.encode_node_id(identity.Identity.from_seed(bytes([number]) * 32).node_id)


def test_the_own_key_as_a_peer_is_refused_before_it_is_written(ws: Ws, file: Path) -> None:
    before = file.read_text()
    key = own(file)
    forms = [
        ("--id", identity.encode_node_id(key.node_id)),
        ("--id", identity.encode_fingerprint(key.fingerprint)),
    ]
    for words in forms:
        done = ws("peer", "add", "me", "-c", file, *words)
        assert done.code == 1
        assert "peers[0].id: this is the key of this host itself" in done.err
        assert file.read_text() == before


def test_a_peer_of_no_usable_key_is_refused(ws: Ws, file: Path) -> None:
    zeros = "A" * 43 + "="
    words = ("--wireguard-public-key", zeros, "-a", "10.77.0.2/32")
    done = ws("peer", "add", "zero", "-c", file, *words)
    assert done.code == 1
    assert "no handshake can be made with this key" in done.err


def test_the_own_address_as_the_peers_is_refused(ws: Ws, file: Path) -> None:
    before = file.read_text()
    done = ws("peer", "add", "b", "-c", file, "--id", node_id(2), "-a", "10.77.0.1/32")
    assert done.code == 2
    assert "10.77.0.1 is this host's own address, and allowed_ips of b has it" in done.err
    assert file.read_text() == before
    for network in ("10.77.0.0/24", "0.0.0.0/0", "10.77.0.2/32"):
        assert ws("peer", "add", "b", "-c", file, "--id", node_id(2), "-a", network).code == 0
        assert ws("peer", "remove", "b", "-c", file).code == 0


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("10.77.0.1", "has no prefix; write 10.77.0.1/24 for a network, 10.77.0.1/32 for it alone"),
        ("fd00::1", "write fd00::1/64 for a network, fd00::1/128 for it alone"),
        ("10.77.0.0/24", "is the network itself and not a host's address, such as 10.77.0.1/24"),
        ("fd00::/64", "is the network itself and not a host's address, such as fd00::1/64"),
        ("10.77.0.255/24", "is the broadcast address of 10.77.0.0/24, take one such as"),
    ],
)
def test_init_refuses_what_is_no_hosts_address(
    ws: Ws, tmp_path: Path, address: str, what: str
) -> None:
    done = ws("init", "-c", tmp_path / "x.toml", "-a", address)
    assert done.code == 2
    assert what in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::1/128"])
def test_addresses_of_two_and_of_one(ws: Ws, tmp_path: Path, address: str) -> None:
    done = ws("init", "-c", tmp_path / "x.toml", "-a", address)
    assert (done.code, done.err) == (0, "")


def test_init_says_that_an_address_is_taken(ws: Ws, tmp_path: Path) -> None:
    from whalescale.cli import init

    assert ws("init", "-c", tmp_path / "x.toml", "-a", "203.0.113.77/24").err == ""
    # loopback's own address is refused otherwise; what counts is that it is one of this host
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whalescale.config.parse_address", ipaddress.ip_interface)
        patch.setattr("whalescale.config_values.parse_address", ipaddress.ip_interface)
        done = ws("init", "-c", tmp_path / "y.toml", "-a", "127.0.0.1/8", "-i", "ws9")
    assert done.code == 0
    assert "127.0.0.1 is an address of another interface here" in done.err
    assert init._is_up("lo")


@pytest.mark.parametrize(
    ("address", "peer", "what"),
    [
        ("10.9.0.0/24", "AllowedIPs = 10.9.0.2", "is the network itself"),
        ("10.9.0.2/24", "AllowedIPs = 10.9.0.2", "are the two swapped?"),
        ("10.9.0.1/24", "Endpoint = 10.9.0.7:1", "10.9.0.7:1 of peer1 lies in 10.9.0.0/24"),
        ("fd00::1/64", "Endpoint = [fd00::7]:1", "lies in fd00::/64, the tunnel's own network"),
        ("10.9.0.1/32", "Endpoint = 10.9.0.1:1", ""),
        ("fe80::1/64", "Endpoint = [fe80::7%eth0]:1", ""),
        ("10.9.0.1/24", "Endpoint = berlin.example:1", ""),
    ],
)
def test_import_says_what_is_doubtful(
    ws: Ws, tmp_path: Path, address: str, peer: str, what: str
) -> None:
    key = "A" * 42 + "E="
    source = tmp_path / "wg0.conf"
    source.write_text(f"[Interface]\nAddress = {address}\n[Peer]\nPublicKey = {key}\n{peer}\n")
    done = ws("import", source, "-c", tmp_path / "x.toml")
    assert done.code == 0, done.err
    assert done.err.count("\n") == bool(what)
    assert what in done.err


def test_doctor_tells_what_is_doubtful(ws: Ws, file: Path) -> None:
    text = file.read_text().replace("10.77.0.1/24", "10.77.0.0/24")
    peer = f'[[peers]]\nname = "b"\nid = "{node_id(2)}"\nallowed_ips = ["10.77.0.0/32"]\n'
    file.write_text(f"{text}\n{peer}")
    found = doubts.of(config.load(file))
    assert len(found) == 2
    checks = json.loads(ws("doctor", "-c", file, "--json").out)["checks"]
    assert set(found) <= {c["detail"] for c in checks if c["verdict"] == "warn"}
