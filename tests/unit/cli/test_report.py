"""`ws report`: what is in it, and that no key is."""

from __future__ import annotations

import base64
import os
import stat
import tarfile
from pathlib import Path

import pytest
from fake_agent import FakeAgent, ok
from run_ws import Ws

from whalescale import config, config_keys, identity, keyfiles, locations
from whalescale.cli import report
from whalescale.protocol.mesh import invite

NETWORK_KEY = bytes(range(100, 132))


@pytest.fixture
def file(tmp_path: Path, ws: Ws, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node, with another one beside it that has an imported key, and a peer with a PSK."""
    monkeypatch.setattr(locations, "CONFIG_DIR", tmp_path / "etc")
    monkeypatch.setattr(report, "COMMANDS", {"uname": ("uname", "-a"), "none": ("no-such", "x")})
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "etc" / "ws0.toml"
    assert ws("init").code == 0
    keyfiles.write(path.with_name("a.psk"), keyfiles.encode_wireguard_key(bytes([7]) * 32))
    words = ("--wireguard-public-key", keyfiles.encode_wireguard_key(bytes([5]) * 32))
    more = ("-a", "10.77.0.2/32", "--preshared-key-file", "a.psk")
    assert ws("peer", "add", "a", *words, *more).code == 0
    conf = tmp_path / "p.conf"
    private = keyfiles.encode_wireguard_key(bytes(range(32)))
    conf.write_text(f"[Interface]\nPrivateKey = {private}\n")
    assert ws("import", conf, "-i", "vpn").code == 0
    keyfiles.write(path.with_suffix(".network-key"), identity.encode_seed(NETWORK_KEY))
    return path


def every_key(file: Path) -> dict[str, bytes]:
    own = config_keys.read_identity(config.load(file))
    assert isinstance(own, identity.Identity)
    return {
        "seed": bytes(own.seed),
        "x25519": bytes(own.static_private),
        "psk": bytes([7]) * 32,
        "imported": bytes(range(32)),
        "network": NETWORK_KEY,
    }


def written_as(key: bytes) -> dict[str, bytes]:
    """The forms that the test knows, found without the code under test."""
    return {
        "raw": key,
        "base64": base64.b64encode(key)[:-1],
        "urlsafe": base64.urlsafe_b64encode(key)[:-1],
        "hex": key.hex().encode(),
        "HEX": key.hex().upper().encode(),
        "base32": base64.b32encode(key)[:51],
        "keygen": identity.encode_seed(key).encode(),
        "grouped": "-".join(identity.encode_seed(key)[i : i + 7] for i in range(0, 56, 7)).encode(),
        "repr": repr(key)[2:-1].encode(),
    }


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        files = [(m, tar.extractfile(m)) for m in tar.getmembers()]
        return {m.name.split("/", 1)[1]: f.read() for m, f in files if f is not None}


def test_no_key_in_any_form_leaves_this_machine(ws: Ws, file: Path, agent: FakeAgent) -> None:
    """They are everywhere that text comes from: the file's comments, the log, the status."""
    keys = every_key(file)
    everything = [form for key in keys.values() for form in written_as(key).values()]
    text = "\n".join(f.decode("latin-1") for f in everything)
    with file.open("a") as f:
        for form in everything:
            f.write(f"# {form.decode('latin-1').encode('unicode_escape').decode()}\n")
    agent.answers["logs"] = [ok({"line": line}) for line in text.splitlines()]
    agent.answers["status"]["agent"]["warnings"] = [text]
    done = ws("report", "-o", "r.tar.gz")
    assert done.code == 0, done.err
    data = Path("r.tar.gz").read_bytes()
    found = contents(Path("r.tar.gz"))
    for name, key in keys.items():
        for form, written in written_as(key).items():
            assert written not in data, (name, form)
            for part, content in found.items():
                assert written not in content, (name, form, part)
                assert written not in done.out.encode() + done.err.encode()
    assert b"removed" in found["logs.txt"]


def test_a_key_that_nobody_here_knows_is_removed_too(file: Path) -> None:
    secrets, public = report.keys_of(file)
    for form in ("base64", "hex", "keygen", "grouped"):
        written = written_as(os.urandom(32))[form] + (b"=" if form == "base64" else b"")
        assert written not in report.scrub(b"key " + written + b" end", secrets, public)


def test_a_ticket_is_removed(file: Path) -> None:
    secrets, public = report.keys_of(file)
    ticket = invite.Ticket(bytes(range(16)), bytes([9] * 32), bytes([8] * 16), 1_800_000_000, ())
    said = invite.encode_ticket(ticket)
    for text in (said, said.upper()):
        assert report.scrub(f"ws join {text}!".encode(), secrets, public) == (
            b"ws join [a key, removed]!"
        )


def test_what_everybody_may_know_stays(file: Path) -> None:
    secrets, public = report.keys_of(file)
    own = config_keys.read_identity(config.load(file))
    peer = keyfiles.encode_wireguard_key(bytes([5]) * 32)
    assert own.node_id is not None
    for text in (peer, keyfiles.encode_wireguard_key(own.static_public),
                 identity.encode_node_id(own.node_id), "z" * 70):  # fmt: skip
        assert report.scrub(text.encode(), secrets, public) == text.encode()


def test_what_is_in_it(ws: Ws, file: Path, agent: FakeAgent) -> None:
    done = ws("report")
    assert done.code == 0, done.err
    (archive,) = Path().glob("ws-report-ws0-*.tar.gz")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    found = contents(archive)
    assert {"versions.txt", "status.json", "doctor.json", "logs.txt", "config.toml"} < set(found)
    assert b"whalescale 0." in found["versions.txt"]
    assert b"berlin" in found["status.json"]
    assert b'name = "ws0"' in found["config.toml"]
    assert found["system/uname.txt"].startswith(b"Linux")
    assert found["system/none.txt"].startswith(b"not to be had")
    assert "look into it before you send it" in done.err
    refused = ws("report", "-o", archive)
    assert (refused.code, "--force" in refused.err) == (1, True)


def test_without_an_agent_and_a_configuration(ws: Ws, tmp_path: Path, file: Path) -> None:
    done = ws("report", "-i", "ws7")
    assert done.code == 0, done.err
    (archive,) = tmp_path.glob("ws-report-ws7-*.tar.gz")
    found = contents(archive)
    assert b"no agent is running" in found["status.json"]
    assert b"not to be had" in found["config.toml"]
