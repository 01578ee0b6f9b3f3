"""The command: which words go together, and what it says without root or without a peer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from whalescale.bench import local
from whalescale.bench.remote import BenchError
from whalescale.bench.session import FIGURES, Row, make_row
from whalescale.cli import bench, main


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main.main(["bench", *words])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == 1
    return code, error


@pytest.mark.parametrize(
    "words",
    [
        ("--serve", "berlin"),
        ("--serve", "--bare", "192.0.2.1"),
        ("--listen", "192.0.2.1"),
        ("--bare", "192.0.2.1"),
        ("berlin", "--rounds", "0"),
        ("berlin", "--seconds", "61"),
        ("--port", "0", "--serve"),
        ("--only", "tcp5"),
    ],
)
def test_words_that_do_not_go_together(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(capsys, *words)[0] == 2


def test_without_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, error = failed(capsys)
    assert code == 4
    assert "sudo ws bench" in error


def test_nobody_serves(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = failed(capsys, "127.0.0.1", "--port", "1")
    assert code == 1
    assert "ws bench --serve" in error


def test_an_address_of_another_host(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = failed(capsys, "--serve", "--listen", "192.0.2.1")
    assert code == 1
    assert "192.0.2.1" in error


def test_no_agent(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHALESCALE_RUNTIME_DIR", str(tmp_path))
    assert failed(capsys, "--serve")[0] == 3
    assert failed(capsys, "berlin")[0] == 3


def between(asked: list[tuple[int, list[str]]]) -> Callable[[int, list[str]], list[Row]]:
    """In place of two namespaces: every figure is the family."""

    def run(family: int, words: list[str]) -> list[Row]:
        asked.append((family, words))
        only = [words[i + 1] for i, word in enumerate(words) if word == "--only"]
        rows = [make_row(name) for name in only or FIGURES]
        for row in rows:
            row.values = {"tunnel": [float(family)], "bare": [2.0 * family]}
        return rows

    return run


def figures(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    assert main.main(["bench", "--json", *words]) == 0
    return {f["name"]: f for f in json.loads(capsys.readouterr().out)["figures"]}


def test_both_families_in_one_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(bench, "_between", between(asked))
    monkeypatch.setattr(local, "lacks_ipv6", lambda: "")
    found = figures(capsys)
    assert list(found) == [*FIGURES, *(f"{name}-ipv6" for name in bench.IPV6_FIGURES)]
    assert [family for family, _ in asked] == [4, 6]
    assert found["tcp1-ipv6"]["tunnel"]["median"] == 6  # type: ignore[index]
    assert str(found["tcp1-ipv6"]["title"]).endswith("IPv6 outside")
    assert all("1" in words[words.index("--seconds") + 1] for _, words in asked)
    asked.clear()
    assert list(figures(capsys, "--only", "tcp16")) == ["tcp16"]
    assert [family for family, _ in asked] == [4], "nothing of it is measured over IPv6"


def test_without_ipv6(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "_between", between([]))
    monkeypatch.setattr(local, "lacks_ipv6", lambda: "this kernel has no IPv6")
    found = figures(capsys)
    assert found["udp64-ipv6"]["skipped"] == "this kernel has no IPv6"
    assert found["udp64"]["skipped"] == ""
    assert main.main(["bench"]) == 0
    out = capsys.readouterr().out
    assert "IPv6 outside: skipped, this kernel has no IPv6" in out


def test_a_failure_over_ipv6_keeps_the_figures_over_ipv4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over_ipv4 = between([])

    def run(family: int, words: list[str]) -> list[Row]:
        if family == 6:
            raise BenchError("`ip addr add` failed: Permission denied")
        return over_ipv4(family, words)

    monkeypatch.setattr(bench, "_between", run)
    monkeypatch.setattr(local, "lacks_ipv6", lambda: "")
    found = figures(capsys)
    assert list(found) == [*FIGURES, *(f"{name}-ipv6" for name in bench.IPV6_FIGURES)]
    assert found["tcp1"]["tunnel"]["median"] == 4  # type: ignore[index]
    assert found["tcp1-ipv6"]["skipped"] == "`ip addr add` failed: Permission denied"
    assert "tunnel" not in found["tcp1-ipv6"]


@pytest.mark.parametrize("there", [True, False])
def test_whether_there_is_ipv6(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: there)
    assert bool(local.lacks_ipv6()) != there
