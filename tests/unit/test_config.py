"""Every way a configuration can be wrong names the file, the key and what would be right."""

from __future__ import annotations

import os
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale import config, config_keys, config_values, doubts, identity, keyfiles
from whalescale.config import ConfigError
from whalescale.endpoints import HostPort, parse_endpoint

FILE = Path("/etc/whalescale/ws0.toml")


def ident(number: int) -> identity.Identity:
    return identity.Identity.from_seed(bytes([number]) * 32)


NODE = identity.encode_node_id(ident(1).node_id)
NODE2 = identity.encode_node_id(ident(2).node_id)
PRINT = identity.encode_fingerprint(ident(1).fingerprint)
PRINT3 = identity.encode_fingerprint(ident(3).fingerprint)
WG = keyfiles.encode_wireguard_key(ident(1).static_public)
WG4 = keyfiles.encode_wireguard_key(ident(4).static_public)

INTERFACE = '[interface]\nname = "ws0"\nprivate_key_file = "ws0.key"\n'
FULL = f"""
[interface]
name = "ws0"
private_key_file = "ws0.key"
listen_port = 51821
addresses = ["10.77.0.1/24", "fd00::1/64"]
mtu = 1400
anchor = true
fwmark = 51820
table = "off"

[[peers]]
name = "berlin"
id = "{NODE}"
endpoints = ["192.0.2.7:51820", "[2001:db8::7]:51820", "berlin.example:51820"]
allowed_ips = ["10.77.0.2/32"]
preshared_key_file = "berlin.psk"
persistent_keepalive = 25

[[peers]]
name = "rome"
id = "{PRINT3}"

[[peers]]
name = "old"
wireguard_public_key = "{WG4}"
allowed_ips = ["10.77.0.4"]

[dataplane]
backend = "mmsg"
cipher = "openssl"
tun_uso = false
workers = 2
pin_cpus = true
busy_poll_us = 1000

[multipath]
enabled = false
scheduler = "backup"
reorder_depth = 128
late = "drop"
repair = true
"""


def test_everything_is_taken() -> None:
    c = config.parse(FULL, FILE)
    assert c.interface.name == "ws0"
    assert c.interface.private_key_file == Path("/etc/whalescale/ws0.key")
    assert c.interface.listen_port == 51821
    assert c.interface.addresses == (ip_interface("10.77.0.1/24"), ip_interface("fd00::1/64"))
    assert (c.interface.mtu, c.interface.anchor) == (1400, True)
    assert (c.interface.fwmark, c.interface.table) == (51820, "off")
    berlin, rome, old = c.peers
    assert berlin.node_id == ident(1).node_id
    assert berlin.endpoints == (
        HostPort("192.0.2.7", 51820, True),
        HostPort("2001:db8::7", 51820, True),
        HostPort("berlin.example", 51820, False),
    )
    assert berlin.allowed_ips == (ip_network("10.77.0.2/32"),)
    assert berlin.preshared_key_file == Path("/etc/whalescale/berlin.psk")
    assert berlin.persistent_keepalive == 25
    assert rome.fingerprint == ident(3).fingerprint
    assert rome.node_id is None
    assert old.wireguard_public_key == ident(4).static_public
    assert old.allowed_ips == (ip_network("10.77.0.4/32"),)
    assert c.dataplane.backend == "mmsg"
    assert c.dataplane.cipher == "openssl"
    assert c.dataplane.workers == 2
    assert c.dataplane.pin_cpus is True
    assert c.dataplane.busy_poll_us == 1000
    assert c.dataplane.tun_tso is True
    assert c.dataplane.tun_uso is False
    m = c.multipath
    assert (m.enabled, m.scheduler, m.late) == (False, "backup", "drop")
    assert m.reorder_depth == 128
    assert m.repair is True


def test_defaults() -> None:
    c = config.parse(INTERFACE, FILE)
    assert (c.interface.listen_port, c.interface.mtu, c.interface.anchor) == (51820, 1420, False)
    assert (c.interface.fwmark, c.interface.table) == (0, "auto")
    assert c.peers == ()
    assert (c.dataplane.backend, c.dataplane.cipher, c.dataplane.workers) == ("auto", "auto", 1)
    assert (c.dataplane.pin_cpus, c.dataplane.busy_poll_us) == (False, 0)
    m = c.multipath
    assert (m.enabled, m.scheduler, m.late) == (True, "edf", "deliver")
    assert (m.reorder_depth, m.repair) == ("adaptive", "auto")


def peer(body: str) -> str:
    return f'{INTERFACE}\n[[peers]]\nname = "a"\n{body}'


#: text, key of the error, a piece of the whole message
WRONG = [
    ("", "interface", "[interface]"),
    ("[interface\n", "", "line 1"),
    ("x = 1\n" + INTERFACE, "x", "known here: interface, peers, dataplane, multipath"),
    ("interface = 3", "interface", "expected table"),
    ('[interface]\nprivate_key_file = "k"', "interface.name", "is missing"),
    ('[interface]\nname = "ws0"', "interface.private_key_file", "is missing"),
    (INTERFACE + "listenport = 1", "interface.listenport", "did you mean listen_port?"),
    (INTERFACE + '"a b" = 1', "interface.'a b'", "no such key"),
    (INTERFACE + "listen_port = 65536", "interface.listen_port", "0 (any free one) to 65535"),
    (INTERFACE + "listen_port = -1", "interface.listen_port", "UDP port"),
    (INTERFACE + 'listen_port = "51820"', "interface.listen_port", "expected number, got text"),
    (INTERFACE + "listen_port = true", "interface.listen_port", "got boolean"),
    (INTERFACE + "listen_port = 1.5", "interface.listen_port", "UDP port"),
    (INTERFACE + "mtu = 575", "interface.mtu", "576 to 9216"),
    (INTERFACE + "mtu = 9217", "interface.mtu", "576 to 9216"),
    (INTERFACE + 'mtu = 1279\naddresses = ["fd77::1/64"]', "interface.mtu", "1280 or more"),
    (INTERFACE + "anchor = 1", "interface.anchor", "true or false"),
    (INTERFACE + "fwmark = 4294967296", "interface.fwmark", "4294967295"),
    (INTERFACE + 'table = "main"', "interface.table", '"off" or the number'),
    (INTERFACE + "table = 0", "interface.table", '"off" or the number'),
    (INTERFACE + "table = 255", "interface.table", "or another number"),
    (INTERFACE + 'addresses = "10.0.0.1/24"', "interface.addresses", "expected list"),
    (INTERFACE + "addresses = [1]", "interface.addresses[0]", "expected text"),
    (INTERFACE + 'addresses = ["10.0.0.1/33"]', "interface.addresses[0]", '"10.77.0.1/24"'),
    (INTERFACE + 'addresses = ["224.0.0.1/4"]', "interface.addresses[0]", "cannot be"),
    (INTERFACE + 'addresses = ["0.0.0.0/0"]', "interface.addresses[0]", "cannot be"),
    (INTERFACE + 'addresses = ["127.0.0.1/8"]', "interface.addresses[0]", "cannot be"),
    (INTERFACE + 'addresses = ["fe80::1%eth0/64"]', "interface.addresses[0]", "zone"),
    (
        INTERFACE + 'addresses = ["10.0.0.1/24", "10.0.0.1/24"]',
        "interface.addresses[1]",
        "twice",
    ),
    ('[interface]\nname = "ws0"\nprivate_key_file = ""', "interface.private_key_file", "file name"),
    (
        '[interface]\nname = "ws0"\nprivate_key_file = "a\\u0000"',
        "interface.private_key_file",
        "file name",
    ),
    (INTERFACE + "[peers]\nname = 1", "peers", "[[peers]]"),
    (INTERFACE + "[[peers]]\n", "peers[0].name", "is missing"),
    (INTERFACE + '[[peers]]\nname = "a b"', "peers[0].name", "such as"),
    (INTERFACE + '[[peers]]\nname = ""', "peers[0].name", "such as"),
    (peer(""), "peers[0].id", "neither id nor wireguard_public_key"),
    (peer(f'id = "{NODE}"\nwireguard_public_key = "{WG4}"'), "peers[0].wireguard_public_key", "b"),
    (peer('id = "abc"'), "peers[0].id", "node ID (56) nor a fingerprint (40)"),
    (peer(f'id = "{NODE[:-1]}{"a" if NODE[-1] != "a" else "b"}"'), "peers[0].id", "ws pubkey"),
    (peer(f'id = "{WG}"'), "peers[0].id", "wireguard_public_key"),
    (peer(f'wireguard_public_key = "{NODE}"'), "peers[0].wireguard_public_key", "wg pubkey"),
    (peer(f'wireguard_public_key = "{WG[:-2]}="'), "peers[0].wireguard_public_key", "base64"),
    (peer(f'id = "{NODE}"\nenabled = true'), "peers[0].enabled", "no such key"),
    (peer(f'id = "{NODE}"\nendpoint = ["a:1"]'), "peers[0].endpoint", "did you mean endpoints?"),
    (
        peer(f'id = "{NODE}"\nendpoints = ["192.0.2.1:1", "berlin"]'),
        "peers[0].endpoints[1]",
        "has no port",
    ),
    (peer(f'id = "{NODE}"\nallowed_ips = ["10.0.0.1/24"]'), "peers[0].allowed_ips[0]", "0.0/24"),
    (peer(f'id = "{NODE}"\nallowed_ips = ["x"]'), "peers[0].allowed_ips[0]", "10.77.0.2/32"),
    (peer(f'id = "{NODE}"\nallowed_ips = ["::/0", "::/0"]'), "peers[0].allowed_ips[1]", "twice"),
    (peer(f'id = "{NODE}"\npreshared_key_file = "x/"'), "peers[0].preshared_key_file", "no file"),
    (
        peer(f'id = "{NODE}"\npersistent_keepalive = 65536'),
        "peers[0].persistent_keepalive",
        "0 (off) to 65535",
    ),
    (
        peer(f'id = "{NODE}"\n[[peers]]\nname = "a"\nid = "{NODE2}"'),
        "peers[1].name",
        "also the name of peers[0]",
    ),
    (
        peer(f'id = "{NODE}"\n[[peers]]\nname = "b"\nid = "{NODE}"'),
        "peers[1].id",
        "the key of b is that of a",
    ),
    (
        peer(f'id = "{NODE}"\n[[peers]]\nname = "b"\nid = "{PRINT}"'),
        "peers[1].id",
        "the key of b is that of a",
    ),
    (
        peer(f'id = "{NODE}"\n[[peers]]\nname = "b"\nwireguard_public_key = "{WG}"'),
        "peers[1].wireguard_public_key",
        "the key of b is that of a",
    ),
    (
        peer(
            f'id = "{NODE}"\nallowed_ips = ["10.0.0.0/8"]\n'
            f'[[peers]]\nname = "b"\nid = "{NODE2}"\nallowed_ips = ["10.1.0.0/16", "10.0.0.0/8"]'
        ),
        "peers[1].allowed_ips[1]",
        "belongs to a already",
    ),
    (INTERFACE + '[dataplane]\nbackend = "x"', "dataplane.backend", "io_uring"),
    (INTERFACE + '[dataplane]\ncipher = "aes"', "dataplane.cipher", "ipsec-mb"),
    (INTERFACE + "[dataplane]\nworkers = 0", "dataplane.workers", "1 to 16"),
    (INTERFACE + "[dataplane]\nworkers = 17", "dataplane.workers", "1 to 16"),
    (INTERFACE + "[dataplane]\nbusy_poll_us = 1001", "dataplane.busy_poll_us", "0 (off) to 1000"),
    (INTERFACE + "[dataplane]\nbusy_poll_us = -1", "dataplane.busy_poll_us", "0 (off) to 1000"),
    (INTERFACE + "[dataplane]\nbusy_poll_us = true", "dataplane.busy_poll_us", "0 (off) to 1000"),
    (INTERFACE + "[dataplane]\npin_cpus = 1", "dataplane.pin_cpus", "true or false"),
    ("multipath = 1\n" + INTERFACE, "multipath", "write a table [multipath]"),
    ("network = 1\n" + INTERFACE, "network", "write a table [network]"),
    (INTERFACE + "[network]\nneighbours = 0\n", "network.neighbours", "from 1 to 32"),
    ("nat = 1\n" + INTERFACE, "nat", "write a table [nat]"),
    (INTERFACE + "[nat]\nportmap = 1\n", "nat.portmap", "write true or false"),
    (INTERFACE + "[nat]\nportmp = true\n", "nat.portmp", "did you mean portmap?"),
    (INTERFACE + "[multipath]\nenabled = 1", "multipath.enabled", "true or false"),
    (INTERFACE + '[multipath]\nscheduler = "rr"', "multipath.scheduler", '"minrtt", "redundant"'),
    (INTERFACE + "[multipath]\nscheduler = true", "multipath.scheduler", "expected text"),
    (
        INTERFACE + "[multipath]\nreorder_depth = 0",
        "multipath.reorder_depth",
        'write "adaptive", or packets from 1 to 4096',
    ),
    (INTERFACE + "[multipath]\nreorder_depth = 4097", "multipath.reorder_depth", "1 to 4096"),
    (INTERFACE + "[multipath]\nreorder_depth = true", "multipath.reorder_depth", "got boolean"),
    (INTERFACE + '[multipath]\nreorder_depth = "128"', "multipath.reorder_depth", "1 to 4096"),
    (INTERFACE + '[multipath]\nlate = "keep"', "multipath.late", '"deliver" or "drop"'),
    (INTERFACE + "[multipath]\nrepair = 1", "multipath.repair", '"auto", true or false'),
    (INTERFACE + '[multipath]\nrepair = "on"', "multipath.repair", '"auto", true or false'),
    (INTERFACE + "[multipath]\nschedular = 1", "multipath.schedular", "did you mean scheduler?"),
    (INTERFACE + '[dataplane]\nudp_gso = "no"', "dataplane.udp_gso", "true or false"),
    (INTERFACE + "[dataplane]\nudp_gs = false", "dataplane.udp_gs", "did you mean udp_gs"),
    ("a = " + "[" * 5000, "", "mend"),
]


@pytest.mark.parametrize(("text", "key", "piece"), WRONG)
def test_wrong(text: str, key: str, piece: str) -> None:
    with pytest.raises(ConfigError) as e:
        config.parse(text, FILE)
    assert e.value.key == key
    assert e.value.file == FILE
    assert piece in str(e.value)
    assert str(e.value).startswith(f"{FILE}: {key}")
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 1


@pytest.mark.parametrize(
    "name",
    ["", "a" * 16, "a b", "a/b", "..", ".", "a%d", "ä", "a:b", "a\nb", "all", "default", "lo"],
)
def test_interface_names_refused(name: str) -> None:
    assert not config_values.is_interface_name(name)
    text = f'[interface]\nname = {name!r}\nprivate_key_file = "k"'.replace("'", '"')
    with pytest.raises(ConfigError) as e:
        config.parse(text, FILE)
    assert e.value.key == "interface.name"
    assert "1 to 15" in str(e.value)


@pytest.mark.parametrize("name", ["ws0", "a" * 15, "eth0.5", "my-vpn_1", "w+=."])
def test_interface_names_taken(name: str) -> None:
    text = f'[interface]\nname = "{name}"\nprivate_key_file = "k"'
    assert config.parse(text, FILE).interface.name == name


@given(st.text(max_size=400))
def test_any_text_is_taken_or_explained(text: str) -> None:
    for whole in (text, INTERFACE + text, INTERFACE + "[[peers]]\n" + text):
        try:
            config.parse(whole, FILE)
        except ConfigError as e:
            assert str(FILE) in str(e)  # noqa: PT017


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(
        st.characters(codec="ascii", exclude_characters='"\\', min_codepoint=32, max_codepoint=126),
        max_size=60,
    )
    | st.sampled_from([NODE, PRINT3, WG4, "10.0.0.0/8", "a:1", "[::1]:5"]),
    lambda v: st.lists(v, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["interface", "[peers]", "dataplane"]),
    st.dictionaries(st.sampled_from(sorted({*config._FIELDS["interface"], *config._FIELDS["peers"],
                                            *config._FIELDS["dataplane"], "other"})), VALUES),
)  # fmt: skip
def test_any_values_are_taken_or_explained(table: str, values: dict[str, object]) -> None:
    def toml(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return f"[{', '.join(map(toml, value))}]"
        return f'"{value}"' if isinstance(value, str) else str(value)

    head = "" if table == "interface" else INTERFACE
    text = f"{head}[{table}]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in values.items())
    try:
        config.parse(text, FILE)
    except ConfigError as e:
        # The error names the table that is wrong, or what is missing from it.
        assert e.key.startswith(table.strip("[]"))  # noqa: PT017
        assert e.fix or ";" in str(e)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7:51820", HostPort("192.0.2.7", 51820, True)),
        ("[2001:DB8:0::7]:1", HostPort("2001:db8::7", 1, True)),
        ("[fe80::1%eth0]:65535", HostPort("fe80::1%eth0", 65535, True)),
        ("Berlin.Example.:5", HostPort("berlin.example", 5, False)),
        ("localhost:5", HostPort("localhost", 5, False)),
        ("a_b-c.de:5", HostPort("a_b-c.de", 5, False)),
    ],
)
def test_endpoints(text: str, expected: HostPort) -> None:
    assert parse_endpoint(text) == expected
    assert parse_endpoint(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":1", "a", "a:", "a:0", "a:65536", "a:-1", "a: 1", "a:1 ", "a:१", "a:0x1",
        "2001:db8::7:51820", "[::1]", "[::1]5", "[::1]:", "[1.2.3.4]:5", "[a]:5", "[]:5",
        "300.1.1.1:5", "1.2.3:5", "-a.de:5", "a..b:5", "a b:5", "a\n:5", "a" * 64 + ":5",
        ".".join(["a" * 60] * 5) + ":5", "0.0.0.0:5", "[::]:5", "224.0.0.1:5", "a/b:5", "a:1:2",
    ],
)  # fmt: skip
def test_endpoints_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write") as e:
        parse_endpoint(text)
    assert len(str(e.value)) < 1000


@given(st.ip_addresses(), st.integers(1, 65535))
def test_numeric_endpoints_round_trip(address: object, port: int) -> None:
    text = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    try:
        found = parse_endpoint(text)
    except ValueError as e:
        assert "cannot be the address of a peer" in str(e)  # noqa: PT017
    else:
        assert (found.host, found.port, str(found)) == (str(address), port, text)


@given(st.text(max_size=40))
def test_any_endpoint_is_taken_or_explained(text: str) -> None:
    try:
        found = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(str(found)) == found


# files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keyfiles.write(tmp_path / "ws0.key", identity.encode_seed(bytes([9]) * 32) + "\n")
    keyfiles.write(tmp_path / "berlin.psk", keyfiles.encode_wireguard_key(bytes([7]) * 32) + "\n")
    (tmp_path / "ws0.toml").write_text(FULL)
    return tmp_path


def test_load_reads_keys_beside_the_file(folder: Path) -> None:
    c = config.load(folder / "ws0.toml")
    assert config_keys.read_private_key(c) == bytearray([9]) * 32
    assert config_keys.read_preshared_key(c, c.peers[0]) == bytes([7]) * 32
    assert config_keys.read_preshared_key(c, c.peers[1]) == bytes(32)
    assert config_keys.check(folder / "ws0.toml") == c


def test_a_wireguard_key_instead(folder: Path) -> None:
    file, key = folder / "ws0.toml", folder / "wg.key"
    keyfiles.write(key, keyfiles.encode_wireguard_key(bytes([9]) * 32) + "\n")
    file.write_text(
        FULL.replace('private_key_file = "ws0.key"', 'wireguard_private_key_file = "wg.key"')
    )
    c = config_keys.check(file)
    assert (c.interface.plain, c.interface.private_key_file) == (True, key)
    own = config_keys.read_identity(c)
    assert (own.node_id, bytes(own.static_private)) == (None, bytes([9]) * 32)
    key.write_text(identity.encode_seed(bytes([9]) * 32))
    assert "not a base64 WireGuard key" in str(failing(file))
    key.unlink()
    assert "wg genkey" in str(failing(file))
    keyfiles.write(folder / "ws0.key", keyfiles.encode_wireguard_key(bytes([9]) * 32))
    file.write_text(FULL)
    assert "name it as wireguard_private_key_file" in str(failing(file))
    both = FULL.replace("[interface]", '[interface]\nwireguard_private_key_file = "k"', 1)
    with pytest.raises(ConfigError, match="both there"):
        config.parse(both, FILE)


def test_one_identity_is_the_node(folder: Path) -> None:
    own = config_keys.read_identity(config.load(folder / "ws0.toml"))
    assert own.node_id == ident(9).node_id


def failing(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as e:
        config_keys.check(path)
    return e.value


def test_load_errors(folder: Path, tmp_path: Path) -> None:
    assert "ws init" in str(failing(tmp_path / "none.toml"))
    assert "cannot be read" in str(failing(tmp_path))
    (tmp_path / "latin").write_bytes(b"# \xff")
    assert "byte 2 is not UTF-8" in str(failing(tmp_path / "latin"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_load_without_permission(folder: Path) -> None:
    (folder / "ws0.toml").chmod(0)
    error = failing(folder / "ws0.toml")
    assert error.exit_code == 4
    assert "sudo" in str(error)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o610, 0o644, 0o777])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("ws0.key", "interface.private_key_file"),
        ("berlin.psk", "peers[0].preshared_key_file"),
    ],
)
def test_loose_modes_are_refused(folder: Path, file: str, key: str, mode: int) -> None:
    (folder / file).chmod(mode)
    error = failing(folder / "ws0.toml")
    assert error.key == key
    assert f"`chmod 600 {folder / file}`" in str(error)
    (folder / file).chmod(0o400)
    config_keys.check(folder / "ws0.toml")


def test_key_file_missing(folder: Path) -> None:
    (folder / "ws0.key").unlink()
    assert "no such file" in str(failing(folder / "ws0.toml"))
    assert "ws keygen" in str(failing(folder / "ws0.toml"))


def test_psk_file_missing(folder: Path) -> None:
    (folder / "berlin.psk").unlink()
    assert "wg genpsk" in str(failing(folder / "ws0.toml"))


def test_key_file_that_is_no_regular_file(folder: Path) -> None:
    key = folder / "ws0.key"
    key.unlink()
    key.mkdir(0o700)
    assert "not a regular file" in str(failing(folder / "ws0.toml"))
    key.rmdir()
    os.mkfifo(key, 0o600)  # must not hang either
    assert "not a regular file" in str(failing(folder / "ws0.toml"))
    key.unlink()
    key.symlink_to("/dev/zero")
    assert "not a regular file" in str(failing(folder / "ws0.toml"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_key_file_of_another_user(folder: Path) -> None:
    os.chown(folder / "ws0.key", 12345, -1)
    error = failing(folder / "ws0.toml")
    assert "belongs to user 12345" in str(error)
    assert f"chown 0 {folder / 'ws0.key'}" in str(error)


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "no text"),
        (b"a" * 5000, "too large"),
        (NODE.encode(), "node ID"),
        (b"abc", "56"),
    ],
)
def test_key_files_with_other_content(folder: Path, content: bytes, piece: str) -> None:
    (folder / "ws0.key").write_bytes(content)
    error = failing(folder / "ws0.toml")
    assert piece in str(error)
    assert error.key == "interface.private_key_file"


@pytest.mark.parametrize("content", ["", "abc", WG[:-1], WG + "=", WG.replace("=", "!")])
def test_psk_files_with_other_content(folder: Path, content: str) -> None:
    (folder / "berlin.psk").write_text(content)
    error = failing(folder / "ws0.toml")
    assert "44 characters" in str(error)
    assert not content or content not in str(error)


@pytest.mark.parametrize(
    "line",
    [
        f'id = "{identity.encode_node_id(ident(9).node_id)}"',
        f'id = "{identity.encode_fingerprint(ident(9).fingerprint)}"',
        f'wireguard_public_key = "{keyfiles.encode_wireguard_key(ident(9).static_public)}"',
    ],
)
def test_own_key_as_peer(folder: Path, line: str) -> None:
    (folder / "ws0.toml").write_text(peer(line))
    error = failing(folder / "ws0.toml")
    assert error.key == f"peers[0].{line.split(maxsplit=1)[0]}"
    assert "this host itself" in str(error)


@pytest.mark.parametrize("value", ["rate", "window"])
def test_a_file_with_a_key_of_an_older_version_is_taken_and_said(value: str) -> None:
    text = f'{INTERFACE}[multipath]\ncontrol = "{value}"\nlate = "drop"\n'
    loaded = config.parse(text, FILE)
    assert loaded.multipath == config.MultipathConfig(late="drop")
    (said,) = doubts.of(loaded)
    assert said == f"{FILE}: multipath.control has no meaning any more: take it out"
    assert not doubts.of(config.parse(INTERFACE, FILE))
