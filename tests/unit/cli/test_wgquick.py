"""What people write in wg-quick files: taken as wg and wg-quick take it, or refused by its line."""

from __future__ import annotations

import codecs
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from run_ws import Ws

from whalescale import config, keyfiles, locations
from whalescale.cli import wgquick


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/services, which a minimal host has not."""

    def port_of(name: str, protocol: str) -> int:
        if (name, protocol) != ("domain", "udp"):
            raise OSError("service/proto not found")
        return 53

    monkeypatch.setattr(socket, "getservbyname", port_of)


KEY = keyfiles.encode_wireguard_key(bytes([5]) * 32)
KEY2 = keyfiles.encode_wireguard_key(bytes([6]) * 32)
ZERO = keyfiles.encode_wireguard_key(bytes(32))
PRIVATE = "FT9NCR4zSF1yh5yxxtvwBRovRFlug5itwtfsARYrQFU="
HEAD = f"[Interface]\nPrivateKey = {PRIVATE}\n"
PEER = f"[Peer]\nPublicKey = {KEY}\n"


def parse(data: str | bytes) -> wgquick.WgConfig:
    return wgquick.parse(wgquick.decode(data.encode() if isinstance(data, str) else data))


def peer(lines: str) -> wgquick.WgPeer:
    (found,) = parse(f"{HEAD}{PEER}{lines}").peers
    return found


def interface(lines: str) -> wgquick.WgConfig:
    return parse(f"{HEAD}{lines}\n{PEER}")


PLAIN = f"{HEAD}Address = 10.9.0.2/32\n{PEER}AllowedIPs = 10.9.0.0/24\n"


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.encode("utf-16"),
        b"# B\xfcro M\xfcnchen\n" + PLAIN.encode(),
        PLAIN.replace("[Peer]", "# one\u2028[nothing\x0b\x1c\x85\n[Peer]").encode(),
        PLAIN.replace(" = ", "=").encode(),
        PLAIN.replace(" = ", "\t=\u00a0").encode(),
        PLAIN.replace("\n", " \t\n\t ").encode(),
        PLAIN.replace("10.9.0.0/24", "10.9.0.0 / 24 ,").encode(),
        PLAIN.replace("[Peer]", "[ PEER ]  # x").encode(),
        PLAIN.replace("PublicKey", "pUBLICkEY").replace("AllowedIPs", "allowedips").encode(),
        PLAIN.replace("AllowedIPs = ", "Allowed IPs = 10.9.0.0/24, ").encode(),
        PLAIN.replace(KEY, f"{KEY[:9]} {KEY[9:]}").encode(),
        PLAIN.rstrip("\n").encode(),
        (PLAIN + "\ufeff\n").encode(),
    ],
)
def test_the_same_however_it_is_written(data: bytes) -> None:
    found = parse(data)
    assert found.addresses == ["10.9.0.2/32"]
    assert [p.public_key for p in found.peers] == [bytes([5]) * 32]
    assert list(found.peers[0].allowed_ips) == ["10.9.0.0/24"]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.7:51820", "192.0.2.7:51820"),
        ("[2001:db8::7]:51820", "[2001:db8::7]:51820"),
        ("2001:db8::7:51820", "[2001:db8::7]:51820"),
        ("[192.0.2.7]:51820", "192.0.2.7:51820"),
        ("[berlin.example]:1", "berlin.example:1"),
        ("Berlin.Example.:1", "berlin.example:1"),
        ("berlin.example:domain", "berlin.example:53"),
        ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7:1"),
        ("192.0.2.7 : 51820", "192.0.2.7:51820"),
    ],
)
def test_endpoints(text: str, endpoint: str) -> None:
    assert peer(f"Endpoint = {text}").endpoint == endpoint


def test_a_bare_ipv6_endpoint_is_told() -> None:
    (word,) = parse(f"{HEAD}{PEER}Endpoint = 2001:db8::7:51820").words
    assert word.startswith("line 5: Endpoint ")
    assert word.endswith("address 2001:db8::7, port 51820")


@pytest.mark.parametrize(
    ("lines", "networks"),
    [
        ("AllowedIPs =", []),
        ("AllowedIPs = 10.3.3.3/16", ["10.3.0.0/16"]),
        ("AllowedIPs = 10.3.3.3", ["10.3.3.3/32"]),
        ("AllowedIPs = 0.0.0.0/0,::/0", ["0.0.0.0/0", "::/0"]),
        (
            "AllowedIPs = 10.0.0.0/8\nAllowedIPs = fd00::1, 10.0.0.1/8",
            ["10.0.0.0/8", "fd00::1/128"],
        ),
        ("AllowedIPs = +10.0.0.0/8, 11.0.0.0/8, -10.0.0.0/8", ["11.0.0.0/8"]),
    ],
)
def test_allowed_ips(lines: str, networks: list[str]) -> None:
    assert list(peer(lines).allowed_ips) == networks


def test_cleared_host_bits_are_told_and_not_a_thousand_times() -> None:
    networks = ", ".join(f"10.{n}.0.1/16" for n in range(9))
    words = parse(f"{HEAD}{PEER}AllowedIPs = {networks}").words
    assert words[0] == "line 5: AllowedIPs 10.0.0.1/16 is 10.0.0.0/16: host bits are cleared"
    assert words[3:] == ["host bits are cleared in 6 more AllowedIPs"]


def test_values_of_the_interface() -> None:
    assert interface(
        "Address = 10.0.0.1, 10.0.1.1/24 10.0.0.1/32\nAddress = fd00::1/64"
    ).addresses == [
        "10.0.0.1/32",
        "10.0.1.1/24",
        "fd00::1/64",
    ]
    assert interface("Address = 10.0.0.1/255.255.255.0").addresses == ["10.0.0.1/24"]
    assert interface("FwMark = 0xca6c").fwmark == interface("FwMark = 51820").fwmark == 0xCA6C
    assert interface("FwMark = OFF").fwmark == 0
    assert interface("ListenPort = 0").listen_port == 0
    assert interface("ListenPort = domain").listen_port == 53
    assert interface("ListenPort = 1\nListenPort = 2").listen_port == 2
    assert interface("MTU = 1400").mtu == 1400
    assert interface("MTU =\nDNS =\nTable =\nAddress =\nPostUp =").words == []
    assert peer("PersistentKeepalive = off").persistent_keepalive == 0
    assert peer("PersistentKeepalive = 0").persistent_keepalive == 0
    assert peer(f"PresharedKey = {ZERO}").preshared_key is None


def test_two_interface_sections_are_one() -> None:
    found = parse(f"{HEAD}Address = 10.0.0.1/24\n{PEER}[interface]\nListenPort = 7\nMTU=1400\n")
    assert (found.listen_port, found.mtu, found.addresses) == (7, 1400, ["10.0.0.1/24"])
    assert found.words == ["line 6: a second [Interface], read as more of the first"]


@pytest.mark.parametrize(
    ("text", "table", "told"),
    [
        ("auto", "auto", False),
        ("OFF", "off", False),
        ("main", "auto", False),
        ("254", "auto", False),
        ("1234", 1234, False),
        ("51820", 51820, False),
        ("0", "off", True),
        ("253", "off", True),
        ("255", "off", True),
        ("local", "off", True),
        ("4294967296", "off", True),
        ("0x4d2", "off", True),
        ("vpn", "off", True),
    ],
)
def test_a_table_of_ones_own_never_becomes_the_main_one(
    text: str, table: int | str, told: bool
) -> None:
    found = interface(f"Table = {text}")
    assert found.table == table
    assert any("no routes are set" in w for w in found.words) is told
    assert any("rules of your own" in w for w in found.words) is isinstance(table, int)


def test_what_is_not_done_is_said_line_by_line() -> None:
    found = interface(
        "PreUp = echo # 1\nPostUp = a; b\nPostUp = c\nPreDown = d\nPostDown = e=f\n"
        "SaveConfig = true\nDNS = 1.1.1.1, example.com\nDNS = fd00::1 corp.example"
    )
    assert found.words == [
        "line 3: PreUp is NOT run: echo # 1",
        "line 4: PostUp is NOT run: a; b",
        "line 5: PostUp is NOT run: c",
        "line 6: PreDown is NOT run: d",
        "line 7: PostDown is NOT run: e=f",
        "line 9: DNS is not set: `resolvectl dns INTERFACE 1.1.1.1` does it",
        "line 9: search domains are not set: `resolvectl domain INTERFACE example.com` does it",
        "line 10: DNS is not set: `resolvectl dns INTERFACE fd00::1` does it",
        "line 10: search domains are not set: `resolvectl domain INTERFACE corp.example` does it",
        "line 8: SaveConfig = true: not taken over, nothing here is like it",
    ]


def test_the_own_key_as_a_peer_is_left_out() -> None:
    public = keyfiles.encode_wireguard_key(parse(HEAD).own_public or b"")
    found = parse(f"{HEAD}{PEER}[Peer]\nPublicKey = {public}\nAllowedIPs = 10.0.0.1\n")
    assert [p.public_key for p in found.peers] == [bytes([5]) * 32]
    assert "line 5: this peer is the file's own host" in found.words[0]
    wg = shutil.which("wg")
    if wg is not None:
        told = subprocess.run(
            [wg, "pubkey"], input=PRIVATE, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == public


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("AllowedIPs = 0/0", "line 5: AllowedIPs: '0/0' is no IP network"),
        ("AllowedIPs = 10/8", "line 5: AllowedIPs"),
        ("AllowedIPs = 10.0.0.0/255.0.0.0", "line 5: AllowedIPs"),
        ("AllowedIPs = 10.0.0.0/", "line 5: AllowedIPs"),
        ("AllowedIPs = 10.0.0.0/33", "line 5: AllowedIPs"),
        ("AllowedIPs = fe80::1%eth0/64", "line 5: AllowedIPs"),
        ("AllowedIPs = 010.0.0.0/8", "line 5: AllowedIPs"),
        ("AllowedIPs = 1.1.1.1 2.2.2.2", "line 5: AllowedIPs: '1.1.1.12.2.2.2' is no"),
        ("Endpoint = 192.0.2.7", "line 5: Endpoint: '192.0.2.7' has no port"),
        ("Endpoint = 192.0.2.7:", "line 5: Endpoint"),
        ("Endpoint = 192.0.2.7:0", "line 5: Endpoint"),
        ("Endpoint = 192.0.2.7:no-such-service", "line 5: Endpoint: 'no-such-service' is no port"),
        ("Endpoint = [2001:db8::7]", "line 5: Endpoint"),
        ("Endpoint =", "line 5: Endpoint has no value"),
        ("Endpoint = http://192.0.2.7:1", "line 5: Endpoint"),
        ("PersistentKeepalive = 65536", "line 5: PersistentKeepalive"),
        ("PersistentKeepalive = 25s", "line 5: PersistentKeepalive = 25s"),
        ("PersistentKeepalive = -1", "line 5: PersistentKeepalive"),
        ("PersistentKeepalive = 1_0", "line 5: PersistentKeepalive"),
        ("PersistentKeepalive = \u0661", "line 5: PersistentKeepalive"),
        ("; a comment", "line 5: '; a comment': a comment begins with #"),
        ("Address = 10.0.0.1/24", "line 5: 'Address' is no key of [Peer]"),
        ("[[Peer]]", "line 5: '[[Peer]]' is neither"),
        ("[Interface]\nJc = 4", "line 6: Jc is AmneziaWG's"),
        ("[Peer", "line 5: '[Peer' is neither"),
        (f"[Peer]\nPublicKey = {ZERO}", "line 6: PublicKey: no handshake"),
        (f"[Peer]\nPublicKey = {KEY}", "line 5: the same PublicKey as the peer of line 3"),
        (
            f"AllowedIPs = 1.0.0.0/8\n[Peer]\nPublicKey = {KEY2}\nAllowedIPs = 1.1.1.1/8",
            "line 8: AllowedIPs: 1.0.0.0/8 belongs to the peer of line 3 already",
        ),
    ],
)
def test_refused_by_its_line(lines: str, what: str) -> None:
    with pytest.raises(wgquick.WgQuickError) as caught:
        parse(f"{HEAD}{PEER}{lines}\n")
    assert str(caught.value).startswith(what)


def test_20000_networks_take_no_more_than_linear_time(ws: Ws, tmp_path: Path) -> None:
    """An absolute bound would fail on a busy machine: five times as many, not 25 times as long."""

    def took(count: int) -> float:
        text = ", ".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(count))
        source = tmp_path / "wg0.conf"
        source.write_text(f"{HEAD}{PEER}AllowedIPs = {text}\n")
        began = time.process_time()
        done = ws("import", source, "-c", tmp_path / f"{count}.toml", "--force")
        assert done.code == 0, done.err
        return time.process_time() - began

    took(100)
    least = min(took(4000) for _ in range(2))
    assert took(20000) < 12 * least
    assert len(config.load(tmp_path / "20000.toml").peers[0].allowed_ips) == 20000


def test_import_suggests_a_free_name(
    ws: Ws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "CONFIG_DIR", tmp_path / "etc")
    source = tmp_path / "wg0.conf"
    source.write_text(PLAIN)
    assert ws("import", source).code == 0
    again = ws("import", source)
    assert again.code == 1
    assert "is there already; make it another one's with `-i wg0`; --force replaces" in again.err
    assert ws("import", source, "-i", "wg0").code == 0
    assert "`-i ws1`" in ws("import", source).err
