"""The command: which words go together, and what it says without root or without a peer."""

from __future__ import annotations

import os

import pytest

from whalescale.cli import main


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
