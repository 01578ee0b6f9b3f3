"""`ws export` for a phone: routes, name servers, both families, QR codes."""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path

import pytest
from run_ws import Ws

from whalescale import config, keyfiles
from whalescale.cli import qr, wg_export, wgquick
from whalescale.cli.ending import CliError

segno = pytest.importorskip("segno", reason="segno is not installed")

PRIVATE = keyfiles.encode_wireguard_key(bytes([9]) * 32)
PUBLIC = keyfiles.encode_wireguard_key(bytes([5]) * 32)


@pytest.fixture
def file(tmp_path: Path, ws: Ws) -> Path:
    path = tmp_path / "etc" / "ws0.toml"
    assert ws("init", "-c", path, "-a", "10.77.0.1/24", "-a", "fd00:77::1/64").code == 0
    return path


def export(ws: Ws, file: Path, *more: object) -> wgquick.WgConfig:
    words = ("--new-key", "--endpoint", "here.example:51820")
    done = ws("export", "--wireguard", "phone", "-c", file, *words, *more)
    assert done.code == 0, done.err
    return wgquick.parse(done.out)


def test_a_new_peer_gets_an_address_of_each_family(ws: Ws, file: Path) -> None:
    found = export(ws, file)
    assert found.addresses == ["10.77.0.2/32", "fd00:77::2/128"]
    networks = [str(n) for n in config.load(file).peers[0].allowed_ips]
    assert networks == ["10.77.0.2/32", "fd00:77::2/128"]
    assert {"10.77.0.1/32", "fd00:77::1/128"} <= set(found.peers[0].allowed_ips)


def test_a_full_tunnel_takes_both_families_and_names(ws: Ws, file: Path) -> None:
    words = ("--full-tunnel", "-a", "10.77.0.9", "--dns", "10.77.0.1, fd00:77::1", "--dns", "lan")
    done = ws("export", "--wireguard", "phone", "-c", file, "--new-key", "--endpoint", "x.y:1",
              *words)  # fmt: skip
    assert done.code == 0, done.err
    assert "AllowedIPs = 0.0.0.0/0, ::/0\n" in done.out
    assert "DNS = 10.77.0.1, fd00:77::1, lan\n" in done.out
    assert "has to forward and masquerade" in done.err
    assert wgquick.parse(done.out).addresses == ["10.77.0.9/32"]


def test_routes_of_the_other_side(ws: Ws, file: Path) -> None:
    found = export(ws, file, "--allowed-ips", "10.77.0.0/24,192.168.1.0/24")
    assert list(found.peers[0].allowed_ips) == ["10.77.0.0/24", "192.168.1.0/24"]


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--allowed-ips", "10.77.0.1/24"], "host bits"),
        (["--allowed-ips", "home"], "no IP network"),
        (["--dns", "1.2.3.4.5"], "neither an address nor a domain"),
        (["--dns", "a;b"], "neither an address nor a domain"),
        (["--qr-file", "x.gif"], "PNG or SVG"),
    ],
)
def test_refusals(ws: Ws, file: Path, words: list[str], piece: str) -> None:
    before = file.read_text()
    done = ws("export", "--wireguard", "phone", "-c", file, "--new-key", *words)
    assert (done.code, done.out) == (2, "")
    assert piece in done.err
    assert file.read_text() == before


def test_no_code_without_the_key(ws: Ws, file: Path) -> None:
    ws("peer", "add", "a", "-c", file, "--wireguard-public-key", PUBLIC, "-a", "10.77.0.2/32")
    done = ws("export", "--wireguard", "a", "-c", file, "--qr")
    assert (done.code, "private key is of no use" in done.err) == (2, True)


def test_pictures(ws: Ws, file: Path, tmp_path: Path) -> None:
    png, svg, text = (tmp_path / f"phone.{e}" for e in ("png", "svg", "conf"))
    done = ws(
        "export", "--wireguard", "phone", "-c", file, "--new-key", "--qr-file", png, "-o", text
    )
    assert done.code == 0, done.err
    private = next(x for x in text.read_text().splitlines() if x.startswith("PrivateKey"))
    assert private.split(" = ")[1] not in done.out + done.err
    assert stat.S_IMODE(png.stat().st_mode) == 0o600
    assert png.read_bytes().startswith(b"\x89PNG")
    done = ws("export", "--wireguard", "other", "-c", file, "--new-key", "--qr-file", svg)
    assert b"<svg" in svg.read_bytes()
    again = ws("export", "--wireguard", "third", "-c", file, "--new-key", "--qr-file", svg)
    assert (again.code, "--force" in again.err) == (1, True)
    assert [p.name for p in config.load(file).peers] == ["phone", "other"]


def modules_of(text: str) -> list[list[bool]]:
    return [[bool(m) for m in row] for row in segno.make_qr(
        text, error="l", boost_error=False).matrix_iter(scale=1, border=qr.BORDER)]  # fmt: skip


@pytest.mark.parametrize("blocks", [True, False])
def test_the_terminal_shows_every_module(blocks: bool) -> None:
    """Read back from what is drawn: dark is dark on a light background, whatever the theme."""
    lines = qr.for_terminal("hello", blocks=blocks).splitlines()
    rows: list[list[bool]] = []
    for line in lines:
        assert line.endswith("\033[0m")
        if blocks:
            body = line.removeprefix("\033[38;5;16;48;5;231m").removesuffix("\033[0m")
            rows.append([c in "▀█" for c in body])
            rows.append([c in "▄█" for c in body])
        else:
            cells = line.removesuffix("\033[0m").split("\033[48;5;")[1:]
            assert {c[-3:] for c in cells} == {"m  "}
            rows.append([c.startswith("16m") for c in cells])
    wanted = modules_of("hello")
    assert rows[: len(wanted)] == wanted
    assert not any(any(row) for row in rows[len(wanted) :])


def test_a_code_that_does_not_fit_says_so() -> None:
    with pytest.raises(CliError, match="columns"):
        qr.for_terminal("x" * 300, 40)
    with pytest.raises(CliError, match="too much"):
        qr.for_terminal("x" * 3000)


def test_what_the_picture_holds() -> None:
    """PNG of one bit a pixel: every module is a square of it."""
    data = qr.picture("hello", Path("a.png"))
    width, height, depth = struct.unpack(">IIB", data[16:25])
    modules = len(segno.make_qr("hello", error="l", boost_error=False).matrix)
    assert (width, height, depth) == ((modules + 8) * qr.SCALE,) * 2 + (1,)
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    assert len(zlib.decompress(data[at + 4 : at + 4 + size])) == height * (1 + (width + 7) // 8)


def test_show_prints_the_bare_file(ws: Ws, file: Path) -> None:
    done = ws(
        "export", "--wireguard", "phone", "-c", file, "--new-key", "--endpoint", "x.y:1", "--qr"
    )
    assert done.code == 0, done.err
    assert "PrivateKey" not in done.out
    assert done.out.count("\n") > 20
    assert wg_export._bare("# a\n[Interface]\n\nMTU = 1420\n") == "[Interface]\nMTU = 1420\n"
