"""What the tables for forwarding and exits say, and when they are put (nft itself: tests/netns)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from whalescale import config as configuration
from whalescale.config import Config
from whalescale.runtime import forwarding
from whalescale.runtime.background import Background
from whalescale.runtime.forwarding import Forwarding, exit_commands, forward_commands

HEAD = '[interface]\nname = "ws0"\nprivate_key_file = "k"\n'


def parsed(text: str) -> Config:
    return configuration.parse(HEAD + text, Path("/nowhere/ws0.toml"))


class FakeNft:
    """Remembers what was run; a table stands until it is deleted."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.tables: dict[str, int] = {}
        self.refuses = False
        self.closed = 0

    def run(self, commands: str) -> None:
        if self.refuses:
            raise OSError(22, "nftables: no")
        self.ran.append(commands)
        for line in commands.splitlines():
            words = line.split()
            if words[:2] == ["delete", "table"]:
                self.tables.pop(words[3], None)
            if words[0] == "table":
                self.tables[words[2]] = commands.count("accept") + commands.count("reject")

    def rules(self, table: str) -> int | None:
        return self.tables.get(table)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNft:
    fake = FakeNft()
    monkeypatch.setattr(forwarding, "open_nft", lambda: (fake, ""))
    monkeypatch.setattr(forwarding, "CONF", tmp_path)
    for name, value in (
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv6/conf/eth0/accept_ra", "1"),
        ("ipv6/conf/ws0/accept_ra", "0"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    return fake


def begun(text: str, mark: int = 0xCA6C) -> Forwarding:
    made = Forwarding(parsed(text), lambda: mark, Background())
    made.open()
    asyncio.run(made.apply(parsed(text)))
    return made


USE = '[exit]\nuse = "home"\n'


def test_nothing_wanted_is_nothing_done(nft: FakeNft, tmp_path: Path) -> None:
    made = begun("")
    assert nft.ran == []
    assert (tmp_path / "ipv4/ip_forward").read_text().strip() == "0"
    assert made.status() == {
        "networks": [],
        "serves": False,
        "exit": "",
        "kill_switch": False,
        "problem": "",
    }


def test_an_exit_switches_forwarding_on_and_uplinks_go_on_listening(
    nft: FakeNft, tmp_path: Path
) -> None:
    begun("[forward]\nexit = true\n")
    assert (tmp_path / "ipv4/ip_forward").read_text().strip() == "1"
    assert (tmp_path / "ipv6/conf/all/forwarding").read_text().strip() == "1"
    assert (tmp_path / "ipv6/conf/eth0/accept_ra").read_text().strip() == "2"
    assert (tmp_path / "ipv6/conf/ws0/accept_ra").read_text().strip() == "0"
    (text,) = nft.ran
    assert "flags owner" in text
    assert "masquerade" in text
    assert "drop" not in text


def test_the_kill_switch_is_put_back_and_taken_away(nft: FakeNft) -> None:
    made = begun(USE)
    assert "whalescale-ws0-exit" in nft.tables
    before = len(nft.ran)
    asyncio.run(made.apply(parsed(USE)))
    assert len(nft.ran) == before
    for spoil in (nft.tables.clear, lambda: nft.tables.update({"whalescale-ws0-exit": 1})):
        spoil()
        asyncio.run(made.apply(parsed(USE)))
        assert nft.tables["whalescale-ws0-exit"] > 1
    asyncio.run(made.apply(parsed("")))
    assert "whalescale-ws0-exit" not in nft.tables
    assert "whalescale-ws0-forward" not in nft.tables


def test_a_kill_switch_of_an_earlier_life_stands_until_there_are_routes(nft: FakeNft) -> None:
    nft.tables["whalescale-ws0-exit"] = 7
    begun(USE, mark=0)
    assert nft.tables["whalescale-ws0-exit"] == 7
    begun("")
    assert "whalescale-ws0-exit" not in nft.tables


def test_the_library_stays_as_long_as_something_stands(nft: FakeNft) -> None:
    made = begun("")
    assert nft.closed == 1
    asyncio.run(made.apply(parsed("")))
    assert nft.closed == 1
    asyncio.run(made.apply(parsed(USE)))
    assert "whalescale-ws0-exit" in nft.tables
    assert nft.closed == 1
    nft.refuses = True
    asyncio.run(made.apply(parsed("")))
    assert (nft.closed, made.status()["problem"]) == (1, "nftables: no")
    nft.refuses = False
    asyncio.run(made.apply(parsed("")))
    assert (nft.closed, nft.tables, made.status()["problem"]) == (2, {}, "")


def test_what_is_refused_is_told_and_tried_again(nft: FakeNft) -> None:
    nft.refuses = True
    made = begun(USE)
    assert made.status()["problem"] == "nftables: no"
    nft.refuses = False
    asyncio.run(made.apply(parsed(USE)))
    assert made.status()["problem"] == ""
    assert made.status()["kill_switch"] is True


def test_without_the_library_it_says_so(nft: FakeNft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "open_nft", lambda: (None, "libnftables1 is not installed"))
    assert "libnftables1" in (begun(USE)).status()["problem"]
    assert (begun("")).status()["problem"] == ""


def test_only_networks_that_are_forwarded_are_reached() -> None:
    config = parsed('[forward]\nnetworks = ["192.168.7.0/24"]\nmasquerade = false\n')
    text = forward_commands("ws0", config.forward, config.exit, 0)
    assert "ip daddr != { 192.168.7.0/24 } drop" in text
    assert "nfproto ipv6 ct state new drop" in text
    assert "masquerade" not in text
    assert "meta mark" not in text


def test_who_only_uses_an_exit_forwards_as_before() -> None:
    config = parsed(USE)
    text = forward_commands("ws0", config.forward, config.exit, 7)
    assert "drop" not in text
    assert "masquerade" not in text


def test_questions_go_to_the_server_that_was_named() -> None:
    config = parsed(USE + 'dns = "9.9.9.9"\nlan = false\n')
    text = forward_commands("ws0", config.forward, config.exit, 7)
    assert text.count("dnat ip to 9.9.9.9") == 2
    assert text.index("meta mark 0x7 return") < text.index("dnat")
    # Whatever address they bore, they leave with the tunnel's, and by the tunnel or not at all.
    assert 'oifname "ws0" ip daddr 9.9.9.9 udp dport 53 ct status dnat masquerade' in text
    guard = exit_commands("ws0", config.exit, 7)
    assert guard.index("ct status dnat accept") < guard.index("udp dport 53 reject")
    assert 'oifname != "ws0" ip daddr 9.9.9.9 tcp dport 53 ct status dnat drop' in guard
    assert guard.index("udp dport 53 reject") < guard.index("reject with icmpx admin-prohibited\n}")
    assert "192.168.0.0/16" not in guard
    assert "192.168.0.0/16" in exit_commands("ws0", parsed(USE).exit, 7)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[exit]\nuse = "a b"', "exit.use"),
        ('[exit]\nuse = "home"\ndns = "nine"', "exit.dns"),
        ('[exit]\nlan = "no"', "exit.lan"),
        ('[forward]\nnetworks = ["192.168.7.1/24"]', "forward.networks[0]"),
        ("[forward]\nexits = true", "forward.exits"),
    ],
)
def test_what_is_wrong_is_named(text: str, key: str) -> None:
    with pytest.raises(configuration.ConfigError) as caught:
        parsed(text)
    assert caught.value.key == key
    assert caught.value.fix or "write" in str(caught.value)


def test_an_exit_needs_routes_of_ours() -> None:
    text = HEAD + 'table = "off"\n' + USE
    with pytest.raises(configuration.ConfigError) as caught:
        configuration.parse(text, Path("/nowhere/ws0.toml"))
    assert caught.value.key == "exit.use"
