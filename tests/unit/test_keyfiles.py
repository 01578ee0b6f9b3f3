"""Secrets are written as fresh files: no link followed, nobody else's to read, swap or redirect."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from whalescale import keyfiles

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
BOB = 65533


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_replaces_in_one_step_and_for_the_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "k"
    file.write_text("old")
    file.chmod(0o666)
    before = file.stat().st_ino
    with file.open() as old:
        keyfiles.write(file, "new")
        assert old.read() == "old"  # who had it open sees nothing of the new one
    assert (file.read_text(), mode(file)) == ("new", 0o600)
    assert file.stat().st_ino != before
    assert names(tmp_path) == ["k"]


@pytest.mark.parametrize("links", [True, False])
def test_replaces_nothing_unless_told(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", no_links)
    file = tmp_path / "k"
    keyfiles.write(file, "one", replace=False)
    assert (file.read_text(), mode(file)) == ("one", 0o600)
    with pytest.raises(FileExistsError) as error:
        keyfiles.write(file, "two", replace=False)
    assert error.value.filename == str(file)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        keyfiles.write(dangling, "two", replace=False)
    assert file.read_text() == "one"
    assert names(tmp_path) == ["dangling", "k"]


@pytest.mark.parametrize("exists", [True, False])
def test_no_link_is_followed(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    with pytest.raises(keyfiles.WriteError, match="link"):
        keyfiles.write(link, "secret")
    assert link.is_symlink()
    assert target.read_text() == "old" if exists else not target.exists()


def test_a_configuration_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, middle, link = tmp_path / "real" / "f", tmp_path / "middle", tmp_path / "link"
    file.write_text("old")
    middle.symlink_to("real/f")
    link.symlink_to(middle)
    keyfiles.write(link, "through", 0o640, follow=True)
    assert link.is_symlink()
    assert middle.is_symlink()
    assert (file.read_text(), mode(file)) == ("through", 0o640)
    assert names(tmp_path / "real") == ["f"]
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(keyfiles.WriteError):
        keyfiles.write(link, "round", follow=True)


@needs_root
def test_a_link_of_somebody_else_is_never_followed(tmp_path: Path) -> None:
    file, link = tmp_path / "f", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    os.chown(link, BOB, BOB, follow_symlinks=False)
    with pytest.raises(keyfiles.WriteError):
        keyfiles.write(link, "through", follow=True)
    assert file.read_text() == "old"


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    fifo, folder = tmp_path / "fifo", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (fifo, folder, Path("/dev/null")):
        with pytest.raises(keyfiles.WriteError, match="no regular file"):
            keyfiles.write(path, "secret")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names(tmp_path) == ["fifo", "folder"]


@needs_root
def test_the_old_owner_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    file = tmp_path / "k"
    file.write_text("old")
    os.chown(file, BOB, BOB)
    keyfiles.write(file, "secret")
    assert (file.stat().st_uid, mode(file)) == (0, 0o600)
    # who called sudo owns the folder and keeps the file
    os.chown(tmp_path, BOB, BOB)
    os.chown(file, BOB, BOB)
    monkeypatch.setenv("SUDO_UID", str(BOB))
    keyfiles.write(file, "secret", 0o640)
    assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (BOB, BOB, 0o640)


@needs_root
@pytest.mark.parametrize(
    ("folder_mode", "owner", "group", "fine"),
    [
        (0o755, 0, 0, True),
        (0o775, 0, 0, True),
        (0o775, 0, BOB, False),
        (0o777, 0, 0, False),
        (0o1777, 0, 0, True),
        (0o1777, BOB, 0, False),
        (0o700, BOB, BOB, False),
    ],
)
def test_the_folder_is_nobody_elses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder_mode: int,
    owner: int,
    group: int,
    fine: bool,
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, owner, group)
    folder.chmod(folder_mode)
    if fine:
        keyfiles.write(folder / "k", "secret")
        assert names(folder) == ["k"]
        return
    with pytest.raises(keyfiles.WriteError, match="folder"):
        keyfiles.write(folder / "k", "secret")
    assert names(folder) == []


def test_leaves_nothing_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnicodeEncodeError):
        keyfiles.write(tmp_path / "k", "\ud800")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for replace in (True, False):
        with pytest.raises(OSError, match="No space") as error:
            keyfiles.write(tmp_path / "k", "secret", replace=replace)
        assert error.value.filename == str(tmp_path / "k")
    assert names(tmp_path) == []
