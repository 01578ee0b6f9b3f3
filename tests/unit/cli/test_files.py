"""keygen, pubkey, init, peer, import, export, reload --check: what is in the files afterwards."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fake_agent import FakeAgent, failure
from run_ws import Ws

from whalescale import config, config_keys, config_values, identity, keyfiles
from whalescale.cli import wg_export, wgquick
from whalescale.cli.wg_import import peer_names

WG_KEY = keyfiles.encode_wireguard_key(bytes([5]) * 32)
WG_KEY2 = keyfiles.encode_wireguard_key(bytes([6]) * 32)
PSK = keyfiles.encode_wireguard_key(bytes([7]) * 32)


def node_id(number: int) -> str:
    own = identity.Identity.from_seed(bytes([number]) * 32)
    return identity.encode_node_id(own.node_id)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(tmp_path: Path, ws: Ws) -> Path:
    path = tmp_path / "etc" / "ws0.toml"
    done = ws("init", "-c", path, "-a", "10.77.0.1/24")
    assert done.code == 0, done.err
    return path


# keys


def test_keygen_and_pubkey(ws_process: Ws) -> None:
    key = ws_process("keygen")
    own = identity.Identity.from_seed(identity.decode_seed(key.out))
    assert (key.code, key.err, key.out.count("\n")) == (0, "", 1)
    assert key.out != ws_process("keygen").out
    forms = {
        (): identity.encode_node_id(own.node_id),
        ("--fingerprint",): identity.encode_fingerprint(own.fingerprint),
        ("--wireguard",): keyfiles.encode_wireguard_key(own.static_public),
    }
    for words, expected in forms.items():
        done = ws_process("pubkey", *words, stdin=key.out)
        assert (done.code, done.out) == (0, expected + "\n")


def test_keygen_warns_of_a_file_that_others_may_read(tmp_path: Path, ws_process: Ws) -> None:
    for loose, warned in ((0o644, True), (0o600, False)):
        path = tmp_path / "k"
        path.touch()
        path.chmod(loose)
        with path.open("w") as out:
            command = [sys.executable, "-m", "whalescale.cli", "keygen"]
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, text=True, check=True
            )
        assert ("chmod 600" in done.stderr) is warned
        assert len(path.read_text().strip()) == 56


@pytest.mark.parametrize("text", ["", "abc", "\x00", "é", node_id(1), WG_KEY, "a" * 56])
def test_pubkey_refuses_other_things(ws_process: Ws, text: str) -> None:
    done = ws_process("pubkey", stdin=text)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("ws: standard input: ")
    assert "ws keygen" in done.err
    assert done.err.count("\n") == 1


# init


def test_init(file: Path) -> None:
    assert mode(file) == 0o600
    assert mode(file.with_suffix(".key")) == 0o600
    assert mode(file.parent) == 0o700
    found = config_keys.check(file)
    assert found.interface.name == "ws0"
    assert [str(a) for a in found.interface.addresses] == ["10.77.0.1/24"]


def test_init_options_and_what_it_prints(ws: Ws, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    done = ws("init", "-i", "vpn1", "-c", path, "-p", "0", "--anchor")
    found = config_keys.check(path)
    interface = found.interface
    assert (interface.name, interface.listen_port, interface.anchor) == ("vpn1", 0, True)
    own = identity.Identity.from_seed(config_keys.read_private_key(found))
    for piece in (
        identity.encode_node_id(own.node_id),
        identity.encode_fingerprint(own.fingerprint),
        str(own.overlay_address),
        f"`sudo ws up --config {path}`",
    ):
        assert piece in done.out
    assert identity.encode_seed(own.seed) not in done.out + done.err


@pytest.mark.parametrize("there", ["ws0.toml", "ws0.key"])
def test_init_replaces_nothing_without_force(ws: Ws, file: Path, there: str) -> None:
    other = "ws0.key" if there == "ws0.toml" else "ws0.toml"
    (file.parent / other).unlink()
    before = (file.parent / there).read_text()
    done = ws("init", "-c", file)
    assert done.code == 1
    assert f"{file.parent / there} is there already; --force" in done.err
    assert [p.name for p in file.parent.iterdir()] == [there]
    assert ws("init", "-c", file, "--force").code == 0
    assert (file.parent / f"{there}.old").read_text() == before
    config_keys.check(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_init_without_permission(ws: Ws) -> None:
    done = ws("init")
    assert done.code == 4
    assert "sudo" in done.err


# peer


def test_peer_add_and_remove_keep_the_rest_of_the_file(ws: Ws, file: Path) -> None:
    text = file.read_text().replace("mtu = 1420", "mtu   = 1400   # a slow link\n\n# the end")
    file.write_text(text)
    words = ("--endpoint", "berlin.example:5", "-e", "[::1]:6", "-a", "10.77.0.2/32")
    assert ws("peer", "add", "-c", file, "berlin", "--id", node_id(1), *words).code == 0
    assert file.read_text().startswith(text)
    fingerprint = identity.encode_fingerprint(
        identity.Identity.from_seed(bytes([2]) * 32).fingerprint
    )
    assert ws("peer", "add", "-c", file, "rome", "--id", fingerprint).code == 0
    key = ("--wireguard-public-key", WG_KEY, "-a", "10.77.0.4/32", "--persistent-keepalive", "25")
    assert ws("peer", "add", "-c", file, "old", *key).code == 0
    found = config_keys.check(file)
    assert [p.name for p in found.peers] == ["berlin", "rome", "old"]
    assert [str(e) for e in found.peers[0].endpoints] == ["berlin.example:5", "[::1]:6"]
    assert found.peers[2].persistent_keepalive == 25
    assert mode(file) == 0o600
    assert ws("peer", "remove", "-c", file, "rome").code == 0
    assert ws("peer", "remove", "-c", file, node_id(1)[:8]).code == 0
    assert [p.name for p in config.load(file).peers] == ["old"]
    assert ws("peer", "remove", "-c", file, "old").code == 0
    assert file.read_text().rstrip() == text.rstrip()
    assert ws("peer", "add", "-c", file, "berlin", "--id", node_id(1)).code == 0
    assert len(config.load(file).peers) == 1


def test_peer_comments_stay_with_their_neighbours(ws: Ws, file: Path) -> None:
    with file.open("a") as f:
        for n in (1, 2, 3):
            f.write(f'\n[[peers]]  # number {n}\nname = "p{n}"\nid = "{node_id(n)}"\n')
    assert ws("peer", "remove", "-c", file, "p2").code == 0
    text = file.read_text()
    assert "# number 1" in text
    assert "# number 2" not in text
    assert "# number 3" in text


def test_peer_add_to_an_inline_array(ws: Ws, file: Path) -> None:
    text = f'peers = [{{name = "a", id = "{node_id(1)}"}}]\n{file.read_text()}'
    file.write_text(text)
    assert ws("peer", "add", "-c", file, "b", "--id", node_id(2)).code == 0
    assert [p.name for p in config.load(file).peers] == ["a", "b"]
    assert ws("peer", "remove", "-c", file, "a").code == 0
    assert [p.name for p in config.load(file).peers] == ["b"]


@pytest.mark.parametrize(
    ("words", "code", "piece"),
    [
        (["b"], 2, "exactly one key"),
        (["b", "--id", node_id(2), "--wireguard-public-key", WG_KEY], 2, "exactly one key"),
        (["b", "--wireguard-public-key", WG_KEY], 2, "--allowed-ip"),
        (["b", "--id", "abc"], 1, "peers[1].id"),
        (["b", "--id", node_id(1)], 1, "the key of b is that of a"),
        (["a", "--id", node_id(2)], 1, "has a peer a already"),
        (["b c", "--id", node_id(2)], 1, "peers[1].name"),
        (["b", "--id", node_id(2), "-e", "nowhere"], 1, "peers[1].endpoints[0]"),
        (["b", "--id", node_id(2), "-a", "10.0.0.1/8"], 1, "peers[1].allowed_ips[0]"),
        (["b", "--id", node_id(2), "--preshared-key-file", "x.psk"], 1, "wg genpsk"),
        (["b", "--id", node_id(2), "--persistent-keepalive", "-1"], 2, "--persistent-keepalive"),
    ],
)
def test_peer_add_refused_changes_nothing(
    ws: Ws, file: Path, words: list[str], code: int, piece: str
) -> None:
    ws("peer", "add", "-c", file, "a", "--id", node_id(1))
    before = file.read_text()
    done = ws("peer", "add", "-c", file, *words)
    assert (done.code, done.out) == (code, "")
    assert piece in done.err
    assert file.read_text() == before


def test_peer_remove_unknown(ws: Ws, file: Path) -> None:
    done = ws("peer", "remove", "-c", file, "x")
    assert done.code == 1
    assert "`ws peer add`" in done.err


def test_peer_changes_reach_a_running_agent(ws: Ws, file: Path, agent: FakeAgent) -> None:
    done = ws("peer", "add", "-c", file, "a", "--id", node_id(1))
    assert done.code == 0
    assert agent.requests[-1]["method"] == "reload"
    asked = len(agent.requests)
    assert ws("peer", "add", "-c", file, "b", "--id", node_id(2), "--no-reload").code == 0
    assert len(agent.requests) == asked
    agent.answers["reload"] = [failure("failed", "mtu changed", "restart it")]
    done = ws("peer", "remove", "-c", file, "a")
    assert done.code == 1
    assert "the agent did not take it over: mtu changed; restart it" in done.err


def test_interface_and_config_that_contradict(ws: Ws, file: Path) -> None:
    done = ws("peer", "add", "-i", "ws5", "-c", file, "a", "--id", node_id(1))
    assert done.code == 2
    assert "is for ws0, not for ws5" in done.err


def test_reload_check_without_an_agent(ws: Ws, file: Path) -> None:
    assert ws("reload", "--check", "-c", file).out == f"{file} is right\n"
    file.with_suffix(".key").chmod(0o644)
    done = ws("reload", "--check", "-c", file)
    assert done.code == 1
    assert f"`chmod 600 {file.with_suffix('.key')}`" in done.err


# wg-quick

WG_QUICK = f"""
[Interface]
PrivateKey = {WG_KEY2}
ListenPort = 51999 # here
Address = 10.77.0.1/24, fd00::1/64
address = 10.78.0.1/24
DNS = 1.1.1.1
PostUp = iptables -A FORWARD -i %i
MTU = 1400
FwMark = 0xca6c
Table = off

[Peer] # berlin office
PublicKey = {WG_KEY}
PresharedKey={PSK}
AllowedIPs = 10.77.0.2/24
ALLOWEDIPS = fd00::2
Endpoint = berlin.example:51820
PersistentKeepalive = 25

[peer]
# friendly_name = rome
PublicKey = {PSK}
AllowedIPs =
PersistentKeepalive = off
"""


def test_import(ws: Ws, tmp_path: Path) -> None:
    source, path = tmp_path / "wg0.conf", tmp_path / "new" / "ws0.toml"
    source.write_text(WG_QUICK)
    done = ws("import", source, "-c", path)
    assert done.code == 0, done.err
    c = config_keys.check(path)
    assert (c.interface.listen_port, c.interface.mtu, c.interface.table) == (51999, 1400, "off")
    assert c.interface.fwmark == 0xCA6C
    assert len(c.interface.addresses) == 3
    berlin, rome = c.peers
    assert (berlin.name, rome.name) == ("berlin-office", "rome")
    assert berlin.wireguard_public_key == bytes([5]) * 32
    assert [str(n) for n in berlin.allowed_ips] == ["10.77.0.0/24", "fd00::2/128"]
    assert [str(e) for e in berlin.endpoints] == ["berlin.example:51820"]
    assert (berlin.persistent_keepalive, rome.persistent_keepalive) == (25, 0)
    assert config_keys.read_preshared_key(c, berlin) == bytes([7]) * 32
    assert {mode(p) for p in path.parent.iterdir()} == {0o600}
    own = config_keys.read_identity(c)
    assert (own.node_id, bytes(own.static_private)) == (
        None,
        keyfiles.decode_wireguard_key(WG_KEY2),
    )
    assert c.interface.plain
    assert f"it is still {keyfiles.encode_wireguard_key(own.static_public)}" in done.out
    assert "no node ID, so there is one path to each peer" in done.out
    assert "line 7: DNS is not set: `resolvectl dns ws0 1.1.1.1` does it" in done.err
    assert "line 8: PostUp is NOT run: iptables -A FORWARD -i %i" in done.err
    assert WG_KEY2 not in done.out + done.err + path.read_text()
    again = ws("import", source, "-c", path)
    assert again.code == 1
    assert "name another file with -c; --force" in again.err
    assert ws("import", source, "-c", path, "--force").code == 0


def test_import_with_a_new_key_makes_a_node(ws: Ws, tmp_path: Path) -> None:
    source, path = tmp_path / "wg0.conf", tmp_path / "new" / "ws0.toml"
    source.write_text(WG_QUICK)
    done = ws("import", source, "--new-key", "-c", path)
    assert done.code == 0, done.err
    own = identity.Identity.from_seed(config_keys.read_private_key(config_keys.check(path)))
    assert f"PublicKey = {keyfiles.encode_wireguard_key(own.static_public)}" in done.out
    assert identity.encode_node_id(own.node_id) in done.out
    assert WG_KEY2 not in path.with_suffix(".key").read_text()
    source.write_text(WG_QUICK.replace(f"PrivateKey = {WG_KEY2}", ""))
    assert ws("import", source, "--force", "-c", path).code == 0
    assert not config_keys.check(path).interface.plain


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("", "line 1: there is no section [Interface]"),
        ("[Interfaces]", "line 1"),
        ("ListenPort = 1", "line 1: ListenPort stands before [Interface]"),
        ("[Interface]\nnonsense", "line 2"),
        ("[Interface]\nPublicKey = x", "no key of [Interface]"),
        ("[Interface]\nFwMark =", "line 2: FwMark has no value"),
        ("[Interface]\nMTU = 500", "576 to 9216"),
        ("[Interface]\nMTU = 1200\nAddress = fd00::1/64", "1280 or more"),
        ("[Interface]\nListenPort = 65536", "0 to 65535"),
        ("[Interface]\nFwMark = zz", "line 2: FwMark"),
        ("[Interface]\nPrivateKey = x", "line 2: PrivateKey: not a base64"),
        ("[Interface]\nAddress = x", "line 2: Address"),
        ("[Interface]\n[Peer]\n", "line 2: this [Peer] has no PublicKey"),
        (f"[Interface]\n[Peer]\nPublicKey = {WG_KEY}\nAllowedIPs = x", "line 4: AllowedIPs"),
        (f"[Interface]\n[Peer]\nPublicKey = {WG_KEY}\nEndpoint = x", "line 4: Endpoint"),
        (
            f"[Interface]\n[Peer]\nPublicKey = {WG_KEY}\n[Peer]\nPublicKey = {WG_KEY}",
            "line 4: the same PublicKey as the peer of line 2",
        ),
        (
            f"[Interface]\n[Peer]\nPublicKey={WG_KEY}\nAllowedIPs=::/0\n"
            f"[Peer]\nPublicKey={WG_KEY2}\nAllowedIPs=::/0",
            "line 7: AllowedIPs: ::/0 belongs to the peer of line 2 already",
        ),
    ],
)
def test_import_refused_leaves_nothing(ws: Ws, tmp_path: Path, text: str, piece: str) -> None:
    source, path = tmp_path / "wg0.conf", tmp_path / "new" / "ws0.toml"
    source.write_text(text)
    done = ws("import", source, "-c", path)
    assert done.code == 1
    assert piece in done.err
    assert not path.parent.exists()


def test_import_of_no_file(ws: Ws, tmp_path: Path) -> None:
    path = tmp_path / "ws0.toml"
    assert "no such file" in ws("import", tmp_path / "x", "-c", path).err
    assert "is a folder" in ws("import", tmp_path, "-c", path).err
    (tmp_path / "b").write_bytes(b"\x7fELF\0")
    assert (
        "is no wg-quick file: it holds zero bytes" in ws("import", tmp_path / "b", "-c", path).err
    )


def test_peer_names_are_names_and_differ() -> None:
    comments = ["berlin", "berlin", "", "peer3", "über", "a" * 41, "x y", "Name: z"]
    peers = [wgquick.WgPeer(public_key=b"", line=1, comment=c) for c in comments]
    names = peer_names(peers)
    assert names == ["berlin", "peer2", "peer3", "peer4", "peer5", "peer6", "x-y", "z"]
    assert all(config_values.is_peer_name(n) for n in names)


@pytest.fixture
def exported(ws: Ws, file: Path) -> Path:
    words = ("-e", "127.0.0.1:5", "-a", "10.77.0.2/32", "-a", "10.9.0.0/16")
    psk = file.with_name("a.psk")
    keyfiles.write(psk, PSK)
    assert ws("peer", "add", "-c", file, "a", "--wireguard-public-key", WG_KEY, *words,
              "--preshared-key-file", psk.name).code == 0  # fmt: skip
    return file


def section(text: str, name: str) -> dict[str, str]:
    body = text.split(f"[{name}]", 1)[1].split("\n[", 1)[0]
    lines = [line.partition("=") for line in body.splitlines() if "=" in line and line[0] != "#"]
    return {k.strip(): v.strip() for k, _, v in lines}


def test_export_of_a_known_peer(ws: Ws, exported: Path) -> None:
    done = ws("export", "--wireguard", "a", "-c", exported)
    assert done.code == 0, done.err
    c = config.load(exported)
    own = identity.Identity.from_seed(config_keys.read_private_key(c))
    assert section(done.out, "Interface") == {
        "PrivateKey": "PRIVATE_KEY",
        "Address": "10.77.0.2/32",
        "ListenPort": "5",
        "MTU": "1420",
    }
    assert section(done.out, "Peer") == {
        "PublicKey": keyfiles.encode_wireguard_key(own.static_public),
        "PresharedKey": PSK,
        "AllowedIPs": "10.77.0.1/32",
        "Endpoint": "127.0.0.1:51820",
    }
    assert f"its public key here: {WG_KEY}" in done.out
    assert identity.encode_seed(own.seed) not in done.out
    given = ws("export", "--wireguard", "a", "-c", exported, "--endpoint", "here.example:7")
    assert section(given.out, "Peer")["Endpoint"] == "here.example:7"
    assert ws("export", "--wireguard", "a", "-c", exported, "--endpoint", "x").code == 2


def test_the_key_of_an_exported_whalescale_peer_is_its_public_key(ws: Ws, exported: Path) -> None:
    assert ws("peer", "add", "b", "-c", exported, "--id", node_id(1)).code == 0
    own = identity.Identity.from_seed(bytes([1]) * 32)
    out = ws("export", "--wireguard", "b", "-c", exported).out
    assert f"its public key here: {keyfiles.encode_wireguard_key(own.static_public)}" in out


def test_export_to_a_file_that_others_may_read_is_said(exported: Path, tmp_path: Path) -> None:
    for loose, warned in ((0o644, True), (0o600, False)):
        path = tmp_path / "x.conf"
        path.touch()
        path.chmod(loose)
        words = ["export", "--wireguard", "a", "-c", str(exported)]
        with path.open("w") as out:
            command = [sys.executable, "-m", "whalescale.cli", *words]
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, text=True, check=True
            )
        assert ("chmod 600" in done.stderr) is warned


def test_export_with_a_new_key_for_a_new_peer(
    ws: Ws, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wg_export, "_default_address", lambda: "198.51.100.4")
    out = tmp_path / "phone.conf"
    done = ws("export", "--wireguard", "phone", "--new-key", "-c", exported, "-o", out)
    assert done.code == 0, done.err
    assert mode(out) == 0o600
    text = out.read_text()
    found = config_keys.check(exported).peers[1]
    assert (found.name, [str(n) for n in found.allowed_ips]) == ("phone", ["10.77.0.3/32"])
    assert section(text, "Interface")["Address"] == "10.77.0.3/32"
    assert section(text, "Peer")["Endpoint"] == "198.51.100.4:51820"
    assert "Endpoint = 198.51.100.4:51820 is a guess" in done.err
    assert section(text, "Peer")["PersistentKeepalive"] == "25"
    monkeypatch.setattr(wg_export, "_default_address", lambda: None)
    bare = ws("export", "--wireguard", "phone", "-c", exported)
    assert "# Endpoint = THIS_HOST:51820" in bare.out
    assert "Endpoint" not in section(bare.out, "Peer")
    wg = shutil.which("wg")
    if wg is not None:
        private = section(text, "Interface")["PrivateKey"]
        public = subprocess.run(
            [wg, "pubkey"], input=private, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert found.wireguard_public_key == keyfiles.decode_wireguard_key(public)
    # what comes out goes in again
    assert ws("import", out, "-c", tmp_path / "back.toml").code == 0


def test_export_follows_no_link_and_serves_no_other_owner(
    ws: Ws, exported: Path, tmp_path: Path
) -> None:
    words = ("export", "--wireguard", "phone", "--new-key", "-c", exported)
    out, elsewhere = tmp_path / "phone.conf", tmp_path / "elsewhere"
    before = exported.read_text()
    out.symlink_to(elsewhere)  # dangling
    assert "there already" in ws(*words, "-o", out).err
    done = ws(*words, "--force", "-o", out)
    assert (done.code, "symbolic link" in done.err) == (1, True), done.err
    assert not elsewhere.exists()
    assert exported.read_text() == before
    out.unlink()
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    done = ws(*words, "-o", open_to_all / "phone.conf")
    assert (done.code, "its folder" in done.err) == (1, True), done.err
    assert not list(open_to_all.iterdir())
    assert exported.read_text() == before
    if os.geteuid() == 0:
        out.write_text("old")
        os.chown(out, 65533, 65533)
        done = ws(*words, "--force", "-o", out)
        assert done.code == 0, done.err
        assert (out.stat().st_uid, mode(out)) == (0, 0o600)


def test_init_in_a_folder_of_others_moves_nothing(ws: Ws, file: Path) -> None:
    file.parent.chmod(0o777)
    done = ws("init", "-c", file, "--force")
    assert (done.code, "its folder" in done.err) == (1, True), done.err
    assert sorted(p.name for p in file.parent.iterdir()) == ["ws0.key", "ws0.toml"]


def test_export_replaces_keys_and_files_only_when_told(
    ws: Ws, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.conf"
    before = exported.read_text()
    words = ("export", "--wireguard", "a", "-c", exported, "--new-key")
    refused = ws(*words)
    assert (refused.code, refused.out) == (1, "")
    assert "--force" in refused.err
    out.touch()
    assert "--force" in ws("export", "--wireguard", "a", "-c", exported, "-o", out).err
    assert exported.read_text() == before
    assert ws(*words, "--force", "-o", out).code == 0
    assert config.load(exported).peers[0].wireguard_public_key != bytes([5]) * 32


def test_export_refusals(ws: Ws, exported: Path) -> None:
    ws("peer", "add", "-c", exported, "b", "--id", node_id(1))
    words = ("export", "--wireguard", "-c", exported)
    assert "Whalescale peer" in ws(*words, "b", "--new-key").err
    assert "there is no peer" in ws(*words, "nobody").err
    assert ws(*words, "a", "-a", "10.0.0.1/32").code == 2
    exported.write_text(exported.read_text().replace("10.77.0.1/24", "10.77.0.1/32"))
    assert "--address" in ws(*words, "c", "--new-key").err
    done = ws(*words, "c", "--new-key", "-a", "10.3.0.1/32")
    assert section(done.out, "Interface")["Address"] == "10.3.0.1/32"


def test_export_asks_the_agent_where_this_host_is(ws: Ws, exported: Path, agent: FakeAgent) -> None:
    agent.answers["status"]["peers"][0] |= {"name": "a", "local": "198.51.100.4:777"}
    done = ws("export", "--wireguard", "a", "-c", exported)
    assert section(done.out, "Peer")["Endpoint"] == "198.51.100.4:777"
    agent.answers["status"]["peers"][0] |= {"local": "0.0.0.0:777"}
    done = ws("export", "--wireguard", "a", "-c", exported)
    assert section(done.out, "Peer")["Endpoint"] == "127.0.0.1:51820"
