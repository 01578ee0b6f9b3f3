"""How a command ends: exit codes, the one line of an error, output that cannot be written.

Standard library only: the agent's own process (`foreground`) ends in the same way, without typer.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
PERMISSION: Final = 4
INTERRUPTED: Final = 130


class CliError(Exception):
    """Ends a command: one line (`message`, then `fix`: what would mend it) and the exit code."""

    def __init__(self, message: str, fix: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message, self.fix, self.exit_code = message, fix, exit_code


def plain(text: str) -> str:
    """One line without control characters: what came from elsewhere must not drive the terminal."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text).strip()


def say(message: str, fix: str) -> None:
    line = plain(message).rstrip(".")
    between = " " if line.endswith("?") else "; "
    with contextlib.suppress(OSError):
        print(f"ws: {line}{between}{plain(fix)}" if fix else f"ws: {line}", file=sys.stderr)


#: for terminals and files that are not UTF-8: what stands for the few other characters
_ASCII: Final = str.maketrans(
    {
        **dict.fromkeys("\u2500\u2501\u2550\u2574\u2576\u2578\u257a", "-"),
        **dict.fromkeys("\u2502\u2503\u2551", "|"),
        **dict.fromkeys("\u256d\u256e\u2570\u256f\u250c\u2510\u2514\u2518", "+"),
        **dict(zip("\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.,-~=*#", strict=True)),
        "\u2191": "^",
        "\u2193": "v",
        "\u2192": ">",
        "\u2026": "~",
        "\u00b1": "~",
        "\u00d7": "x",
    }
)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(c if c.isascii() else "?" for c in text), error.end


def tolerant_output() -> None:
    """A character that the output's encoding lacks is written as one like it (LC_ALL=C)."""
    codecs.register_error("whalescale", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="whalescale")


def no_more_output(stream: int = 1) -> None:
    """It is broken: nothing waits in it for the interpreter's end to stumble over."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def flush_what_can_be() -> None:
    """The exit code has been chosen; Python's own, 120, would take its place."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            no_more_output(number)


def trace(error: Exception) -> None:
    """Where WS_DEBUG=1 asks for it."""
    if os.environ.get("WS_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)


def failed(error: Exception) -> int:
    """One line for the user. ConfigError, AgentError and CliError all have these attributes."""
    trace(error)
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        say(str(getattr(error, "message", error)), str(getattr(error, "fix", "")))
        return code
    if isinstance(error, PermissionError):
        what = f"{error.filename}: " if error.filename else ""
        say(f"{what}{error.strerror or error}", "run the same command with `sudo`")
        return PERMISSION
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        if not what and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "standard output: "  # all else that is written has a name
        say(f"{what}{error.strerror or error}", "")
        return FAILED
    what = f"{type(error).__name__}: {error}"
    say(f"a fault in whalescale itself ({what})", "WS_DEBUG=1 shows where; please report it")
    return FAILED


def flush() -> None:
    """CliError: what was printed cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        fix = "make room, or write it elsewhere"
        raise CliError(f"standard output: {e.strerror or e}", fix) from None
