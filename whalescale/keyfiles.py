"""Key files: read them with suspicion, write them for the owner alone. Standard library only."""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import stat
import tempfile
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


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Replace `file` in one step: either the old or the new content is there. Raises OSError.

    The owner of a file that is there already stays. A symbolic link is followed.
    """
    file = file.resolve()
    fd, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                info = file.stat()
                os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, mode)
            f.write(text)
            f.flush()
            os.fsync(fd)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
