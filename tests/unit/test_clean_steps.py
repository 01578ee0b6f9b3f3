"""What a clean test system is told of this machine: mirrors, proxies, indices, and no more."""

from __future__ import annotations

from pathlib import Path

from tools import clean_system


def test_the_mirror_of_this_machine_serves_any_release() -> None:
    told = clean_system.apt_sources("trixie", {"Debian": "http://mirror.example/debian/"})
    assert told.splitlines() == [
        "deb http://mirror.example/debian/ trixie main",
        "deb http://mirror.example/debian/ trixie-updates main",
        f"deb {clean_system.SECURITY} trixie-security main",
    ]
    assert clean_system.MIRROR in clean_system.apt_sources("trixie", {})


def test_of_apt_only_how_archives_are_reached() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::https "";\nAcquire::Retries "3";\nDir::Etc "etc/apt";\n'
    )
    assert clean_system.apt_options(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Retries "3";',
    ]


def test_of_pip_only_how_indices_are_reached(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\ncert = /etc/ca.pem\nuser = true\n[install]\nretries = 9\n")
    environment = {"PIP_INDEX_URL": "https://index.example/simple", "PIP_RETRIES": "2", "HOME": "/"}
    assert clean_system.pip_options([file, tmp_path / "none"], environment) == {
        "index-url": "https://index.example/simple",
        "cert": "/etc/ca.pem",
        "retries": "2",
    }
