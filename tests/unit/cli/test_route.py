"""`ws route` and `ws exit-node` write the file, and keep the rest of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_ws import Ws

from whalescale import config, nft


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ws0.toml"
    peers = "".join(
        f'\n[[peers]]\nname = "{name}"\nwireguard_public_key = "{key}"\n'
        for name, key in (("home", "A" * 42 + "E="), ("office", "A" * 42 + "I="))
    )
    head = '# mine\n[interface]\nname = "ws0"\nprivate_key_file = "ws0.key"\n'
    path.write_text(head + peers)
    return path


def test_networks_come_and_go(ws: Ws, file: Path) -> None:
    before = file.read_text()
    assert ws("route", "advertise", "192.168.7.0/24", "fd01::/64", "-c", file).code == 0
    assert ws("route", "advertise", "192.168.7.0/24", "-c", file).code == 0
    assert [str(n) for n in config.load(file).forward.networks] == ["192.168.7.0/24", "fd01::/64"]
    assert ws("route", "withdraw", "fd01::/64", "-c", file).code == 0
    assert [str(n) for n in config.load(file).forward.networks] == ["192.168.7.0/24"]
    assert ws("route", "withdraw", "192.168.7.0/24", "-c", file).code == 0
    assert file.read_text().strip() == before.strip()


def test_a_network_is_checked_before_anything_is_written(ws: Ws, file: Path) -> None:
    before = file.read_text()
    for wrong in ("192.168.7.1/24", "hearth", "0.0.0.0/0"):
        done = ws("route", "advertise", wrong, "-c", file)
        assert done.code == 2
        assert wrong.partition("/")[0] in done.err
    assert file.read_text() == before


def test_what_others_advertise_is_accepted_and_refused(ws: Ws, file: Path) -> None:
    before = file.read_text()

    def accepted() -> tuple[str, list[str]]:
        accept = config.load(file).network.accept
        return accept.kind, [str(n) for n in accept.networks]

    assert accepted() == ("private", [])
    assert ws("route", "accept", "203.0.113.0/24", "-c", file).code == 0
    assert accepted() == ("private", ["203.0.113.0/24"])
    assert ws("route", "accept", "none", "-c", file).code == 0
    assert accepted() == ("none", [])
    assert ws("route", "accept", "10.1.0.0/16", "-c", file).code == 0
    assert accepted() == ("none", ["10.1.0.0/16"])
    assert ws("route", "accept", "all", "-c", file).code == 0
    assert accepted() == ("all", [])
    assert ws("route", "accept", "all", "none", "-c", file).code == 2
    assert ws("route", "accept", "0.0.0.0/0", "-c", file).code == 2
    assert ws("route", "accept", "private", "-c", file).code == 0
    assert file.read_text().strip() == before.strip()


class FakeNft:
    def __init__(self, *tables: str) -> None:
        self.standing = list(tables)
        self.refuses = False

    def tables(self) -> list[str]:
        return self.standing

    def rules(self, table: str) -> int | None:
        return 1 if table in self.standing else None

    def run(self, commands: str) -> None:
        if self.refuses:
            raise OSError(22, "nftables: no")
        self.standing = [t for t in self.standing if f"inet {t}\n" not in commands]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> FakeNft:
    """This machine's own stay out of it."""
    fake = FakeNft("whalescale-ws0-exit", "whalescale-ws01-exit", "mine")
    monkeypatch.setattr(nft, "open_nft", lambda: (fake, ""))
    return fake


def test_a_kill_switch_without_an_agent_is_taken_away(ws: Ws, file: Path, tables: FakeNft) -> None:
    ws("exit-node", "use", "home", "-c", file)
    assert ws("exit-node", "off", "-c", file).code == 0
    assert tables.standing == ["whalescale-ws01-exit", "mine"]
    # removing the package
    nft.end_exits()
    assert tables.standing == ["mine"]
    tables.standing, tables.refuses = ["whalescale-ws0-exit"], True
    done = ws("exit-node", "off", "-c", file)
    assert done.code == 1
    assert "the kill switch stands: nftables: no" in done.err


def test_an_exit_is_used_and_left(ws: Ws, file: Path) -> None:
    before = file.read_text()
    words = ("--dns", "9.9.9.9", "--no-lan")
    assert ws("exit-node", "use", "home", *words, "-c", file).code == 0
    used = config.load(file).exit
    assert (used.use, str(used.dns), used.lan, used.kill_switch) == ("home", "9.9.9.9", False, True)
    assert ws("exit-node", "use", "office", "-c", file).code == 0
    used = config.load(file).exit
    assert (used.use, used.dns, used.lan) == ("office", None, True)
    assert ws("exit-node", "off", "-c", file).code == 0
    assert file.read_text().strip() == before.strip()


def test_an_exit_is_served_and_no_more(ws: Ws, file: Path) -> None:
    assert ws("exit-node", "serve", "-c", file).code == 0
    assert config.load(file).forward.exit
    assert ws("exit-node", "serve", "--off", "-c", file).code == 0
    assert not config.load(file).forward.exit


def test_an_exit_that_nobody_knows_is_refused(ws: Ws, file: Path) -> None:
    done = ws("exit-node", "use", "hose", "-c", file)
    assert done.code == 1
    assert "there is: home, office" in done.err


def test_a_wrong_server_is_refused(ws: Ws, file: Path) -> None:
    before = file.read_text()
    assert ws("exit-node", "use", "home", "--dns", "nine", "-c", file).code == 1
    assert file.read_text() == before
