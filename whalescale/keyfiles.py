"""Key files: read them with suspicion, write them for the owner alone. Standard library only."""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

KEY_FILE_BYTES_MAX: Final = 4096


class SecretError(Exception):
    """`fix` says what would mend it; `missing` and `denied` tell ENOENT and EACCES apart."""

    def __init__(self, text: str, fix: str = "", *, missing: bool = False, denied: bool = False):
        super().__init__(text)
        self.fix, self.missing, self.denied = fix, missing, denied


def read(file: Path) -> str:
    """The stripped text of a key file. Refuses one that others may read or own, or no file at all.

    The checks are made on the open descriptor, so the file cannot be swapped in between.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang.
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise SecretError(f"no such file: {file}", missing=True) from None
        if e.errno in {errno.EACCES, errno.EPERM}:
            fix = "run it as root, with `sudo`"
            raise SecretError(f"you may not read {file}", fix, denied=True) from None
        fix = "name a regular file"
        raise SecretError(f"{file} cannot be read: {os.strerror(e.errno or 0)}", fix) from None
    # Not fdopen: it raises for a folder.
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise SecretError(f"{file} is not a regular file", "name a regular file")
        if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(info.st_mode)
            raise SecretError(f"others may use {file} (mode {mode:04o})", f"`chmod 600 {file}`")
        if info.st_uid not in {0, os.geteuid()}:
            problem = f"{file} belongs to user {info.st_uid}"
            raise SecretError(problem, f"`sudo chown {os.geteuid()} {file}`")
        data = os.read(fd, KEY_FILE_BYTES_MAX + 1)
    if len(data) > KEY_FILE_BYTES_MAX:
        raise SecretError(f"{file} is too large to be a key", "name the right file")
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise SecretError(f"{file} holds no text", "name the right file") from None


class WriteError(OSError):
    """A file that is not written, since somebody else could read, swap or redirect it."""

    exit_code = 1

    def __init__(self, file: Path, problem: str, fix: str) -> None:
        super().__init__(errno.EPERM, problem, str(file))
        self.message, self.fix = f"{file}: {problem}", fix


def owners() -> frozenset[int]:
    """User IDs whose files are ours to write to: root, the caller, and who called `sudo`."""
    return frozenset({0, os.geteuid(), *_sudo("SUDO_UID")})


def _sudo(name: str) -> list[int]:
    text = os.environ.get(name, "")
    return [int(text)] if os.geteuid() == 0 and text.isascii() and text.isdecimal() else []


def _folder(file: Path) -> int:
    """The folder that `file` lies in, open; close it. WriteError: others can change what is in it.

    Sticky folders (/tmp) will do: in them nobody can move or replace the file of another.
    """
    fd = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    info = os.fstat(fd)
    problem = ""
    if info.st_uid not in owners():
        problem = f"its folder belongs to user {info.st_uid}"
    elif not info.st_mode & stat.S_ISVTX:
        groups = {0, os.getegid(), *_sudo("SUDO_GID")}
        if info.st_mode & stat.S_IWOTH:
            problem = "everybody may write to its folder"
        elif info.st_mode & stat.S_IWGRP and info.st_gid not in groups:
            problem = f"group {info.st_gid} may write to its folder"
    if problem:
        os.close(fd)
        raise WriteError(file, problem, "choose a folder that only you or root can write to")
    return fd


def check_folder(file: Path) -> None:
    """WriteError: others can change what lies in the folder of `file`. OSError: it is not there."""
    os.close(_folder(file))


def _target(file: Path, follow: bool) -> Path:
    """Where `file` is to be written. WriteError: it is a link, and not one to follow."""
    for _ in range(8):
        try:
            info = file.lstat()
        except FileNotFoundError:
            return file
        if not stat.S_ISLNK(info.st_mode):
            if not stat.S_ISREG(info.st_mode):
                raise WriteError(file, "is there and no regular file", "name another file")
            return file
        # One that somebody else laid, as can be done in /tmp, may lead anywhere.
        if not follow or info.st_uid not in owners():
            raise WriteError(file, "is a symbolic link", "name the file itself, or remove the link")
        file = file.parent / os.readlink(file)
    raise WriteError(file, "too many symbolic links", "name the file itself")


def write(
    file: Path,
    text: str | bytes,
    mode: int = 0o600,
    *,
    replace: bool = True,
    follow: bool = False,
) -> None:
    """Write a secret or a configuration as a fresh file, moved into place in one step.

    Either the old or the new content is there, never a part. The file belongs to the caller; only
    the owner of an old one who is among `owners()` stays. No link is followed, unless `follow`
    says so for a file that an administrator may have linked to. `replace` False: FileExistsError
    where something is there, a dangling link too. WriteError: a link, no regular file, or a folder
    that others can change. OSError names `file`.
    """
    try:
        target = _target(file, follow) if replace else file
        folder = _folder(target)
        try:
            _write_in(folder, target.name, text, mode, replace)
        finally:
            os.close(folder)
    except OSError as e:
        if not isinstance(e, WriteError):
            e.filename, e.filename2 = str(file), None
        raise


def _write_in(folder: int, name: str, text: str | bytes, mode: int, replace: bool) -> None:
    data = text.encode() if isinstance(text, str) else text
    temporary = f".{name[:200]}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as f:
            with contextlib.suppress(FileNotFoundError):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if os.geteuid() == 0 and info.st_uid in owners():
                    os.fchown(fd, info.st_uid, info.st_gid if mode & stat.S_IRWXG else -1)
            os.fchmod(fd, mode)
            f.write(data)
            f.flush()
            os.fsync(fd)
        if replace or not _link(folder, temporary, name):
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _link(folder: int, temporary: str, name: str) -> bool:
    """Give the file the name `name`, which unlike a rename never replaces. False: not done yet, on
    a file system without hard links (a memory stick's), but nothing has the name. OSError.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder))
        return False
    os.unlink(temporary, dir_fd=folder)
    return True


def decode_wireguard_key(text: str) -> bytes:
    """base64 as `wg genkey`, `wg pubkey` and `wg genpsk` write it -> 32 bytes. ValueError."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a base64 WireGuard key (44 characters ending in =)") from None
    if len(key) != 32 or base64.b64encode(key).decode() != text:
        raise ValueError("not a base64 WireGuard key (44 characters ending in =)")
    return key


def encode_wireguard_key(key: bytes) -> str:
    return base64.b64encode(key).decode()
