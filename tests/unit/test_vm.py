"""The initramfs of the test machine, from packages as Debian 12 and 13 lay them out."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from tools import vm

LIBRARIES = "lib/x86_64-linux-gnu"


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("release", [12, 13])
def test_the_initramfs_of_either_layout(tmp_path: Path, release: int) -> None:
    usr = tmp_path / ("usr" if release == 13 else "")
    modules = usr / "lib/modules/6.1-cloud-amd64/kernel"
    inner = b"\0depends=udp_tunnel\0a module"
    for name, data in (("net/wireguard", inner), ("net/ipv4/udp-tunnel", b"\0depends=\0another")):
        if release == 13:
            write(modules / f"{name}.ko.xz", lzma.compress(data))
        else:
            write(modules / f"{name}.ko", data)
    write(usr / "bin/busybox", b"the busybox")
    write(tmp_path / "usr/bin/wg", b"the wg")
    write(usr / LIBRARIES / "libc.so.6", b"the libc")
    write(usr / LIBRARIES / "ld-linux-x86-64.so.2", b"the loader")
    archive = gzip.decompress(vm._initramfs(tmp_path))
    for part in (inner, b"another", b"the busybox", b"the wg", b"the libc", b"the loader"):
        assert part in archive
    # The one that the other needs is loaded first.
    assert b"udp_tunnel.ko\nwireguard.ko\n" in archive
