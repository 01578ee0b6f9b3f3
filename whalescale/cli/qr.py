"""QR codes, for the phone that is to read a wg-quick file: in the terminal, as PNG or as SVG."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from whalescale.cli.ending import USAGE, CliError

if TYPE_CHECKING:
    import segno

#: pixels (PNG) or units (SVG) to a module: a phone reads it from a screen at arm's length
SCALE: Final = 6
#: modules of light around it in a terminal; the standard's four are for print
BORDER: Final = 2
KINDS: Final = (".png", ".svg")
_BLACK_ON_WHITE: Final = "\033[38;5;16;48;5;231m"
_HALVES: Final = {(0, 0): " ", (1, 0): "\u2580", (0, 1): "\u2584", (1, 1): "\u2588"}
_RESET: Final = "\033[0m"


def check_kind(file: Path) -> None:
    """CliError: the ending is none that can be written."""
    if file.suffix.lower() not in KINDS:
        raise CliError(
            f"{file}: a QR code is written as PNG or SVG", "end it in .png or .svg", USAGE
        )


def load() -> None:
    """CliError: the library is not there. Called before anything is changed."""
    try:
        import segno  # noqa: F401
    except ImportError:
        fix = "install it: `pip install segno`, or Debian's python3-segno"
        raise CliError("QR codes need the Python package segno", fix) from None


def _make(text: str) -> segno.QRCode:
    import segno

    try:
        # The least error correction: a screen has no stains, and fewer modules are larger ones.
        return segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError:
        fix = "write a file with -o; fewer --allowed-ips make it shorter"
        raise CliError("this is too much for a QR code (2,953 bytes)", fix) from None


def for_terminal(text: str, columns: int | None = None, *, blocks: bool = True) -> str:
    """Lines of ANSI colours, dark on light whatever the terminal's own are.

    `columns`: the room there is, None: enough. `blocks`: half blocks may be printed, two modules a
    character; else two characters a module. CliError: it does not fit.
    """
    rows = [list(row) for row in _make(text).matrix_iter(scale=1, border=BORDER)]
    width = len(rows[0]) * (1 if blocks else 2)
    if columns is not None and width > columns:
        fix = "make the window wider, or write a picture: --qr-file phone.png"
        raise CliError(f"the QR code takes {width} columns, there are {columns}", fix)
    lines: list[str] = []
    if blocks:
        rows += [[0] * len(rows[0])] * (len(rows) % 2)
        for upper, lower in zip(rows[::2], rows[1::2], strict=True):
            body = "".join(_HALVES[bool(a), bool(b)] for a, b in zip(upper, lower, strict=True))
            lines.append(f"{_BLACK_ON_WHITE}{body}{_RESET}")
    else:
        for row in rows:
            body = "".join("\033[48;5;16m  " if m else "\033[48;5;231m  " for m in row)
            lines.append(f"{body}{_RESET}")
    return "\n".join(lines) + "\n"


def show(text: str) -> None:
    """On standard output, as it fits there."""
    columns: int | None = None
    if sys.stdout.isatty():
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    try:
        "".join(_HALVES.values()).encode(sys.stdout.encoding or "ascii")
        blocks = True
    except (UnicodeEncodeError, LookupError):
        blocks = False
    print(for_terminal(text, columns or None, blocks=blocks), end="")


def picture(text: str, file: Path) -> bytes:
    """What a file of this ending holds."""
    out = io.BytesIO()
    kind = file.suffix.lower().removeprefix(".")
    _make(text).save(out, kind=kind, scale=SCALE, light="white")
    return out.getvalue()
