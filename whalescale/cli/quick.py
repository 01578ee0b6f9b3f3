"""Commands without typer, whose import takes as long as all the rest of `ws status`.

Taken is only what is plainly right: known options in full, values of their kind and range, as many
arguments as are declared. Everything else (help, mistakes, abbreviations, lists) is left to
typer, by the same declarations (`cli/options.py`), so that it says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_type_hints

from whalescale.cli import commands, common
from whalescale.cli.options import Argument, Group, Option

_NUMBER: Final = {int: re.compile(r"[0-9]{1,9}"), float: re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")}
_KINDS: Final[tuple[type, ...]] = (str, int, float, bool, Path)
_INTERFACE: Final = ("-i", "--interface")


class NotPlain(Exception):
    """typer shall see to it."""


def find(arguments: Sequence[str]) -> Callable[[], object] | None:
    """What these arguments call, or None where typer has to look at them."""
    words = list(arguments)
    interface: str | None = None
    if words and words[0] in _INTERFACE:
        if len(words) < 2 or not _is_value(words[1]):
            return None
        interface, words = words[1], words[2:]
    if words and words[0] not in commands.COMMANDS:
        return None
    try:
        call = _call(words[0], words[1:]) if words else _here
    except NotPlain:
        return None

    def run() -> object:
        common.Chosen.interface = interface
        return call()

    return run


def _here() -> None:
    from whalescale.cli import here

    here.show()


def _call(name: str, words: Sequence[str]) -> Callable[[], object]:
    function, words = chosen(name, words)
    given = given_to(function, words)
    return lambda: function(**given)


def chosen(name: str, words: Sequence[str]) -> tuple[Callable[..., object], Sequence[str]]:
    """The function, in its group if it is in one, and the words for it. NotPlain."""
    found = commands.target(name)
    while isinstance(found, Group):
        if not words or words[0] not in found.commands:
            raise NotPlain
        found, words = found.commands[words[0]], words[1:]
    return found, words


def given_to(function: Any, words: Sequence[str]) -> dict[str, Any]:
    """Its parameters that these words give. NotPlain."""
    if "-h" in words or "--help" in words or "--" in words:
        raise NotPlain
    given = _parsed(get_type_hints(function, include_extras=True), words)
    code, defaults = function.__code__, function.__defaults__ or ()
    required = code.co_varnames[: code.co_argcount - len(defaults)]
    if any(name not in given for name in required):
        raise NotPlain
    return given


def _parsed(hints: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The parameters that are given, by name."""
    options: dict[str, tuple[str, Option, type, bool]] = {}
    places: list[tuple[str, type]] = []
    for name, hint in hints.items():
        for declared in getattr(hint, "__metadata__", ()):
            if isinstance(declared, Argument):
                places.append((name, _kind(hint)))
            elif isinstance(declared, Option):
                options |= _spelled(name, declared, hint)
    found: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            if not places:
                raise NotPlain
            name, kind = places.pop(0)
            found[name] = _value(word, kind)
            continue
        spelling, equals, text = word.partition("=")
        if spelling not in options or (equals and not spelling.startswith("--")):
            raise NotPlain
        name, declared, kind, switch = options[spelling]
        if kind is bool:
            if equals:
                raise NotPlain
            found[name] = switch
        else:
            found[name] = _value(text if equals else next(left, ""), kind, declared)
    return found


def _spelled(name: str, declared: Option, hint: Any) -> dict[str, tuple[str, Option, type, bool]]:
    """By each way to write it; of "--disable/--enable" the second one means no."""
    try:
        kind = _kind(hint)
    except NotPlain:
        return {}  # who uses it is typer's
    found = {}
    for spelling in declared.spellings(name):
        yes, _, no = spelling.partition("/")
        found[yes] = (name, declared, kind, True)
        if no:
            found[no] = (name, declared, kind, False)
    return found


def _kind(hint: Any) -> type:
    """Of Annotated[T, ...] or Annotated[T | None, ...]."""
    inner = hint.__origin__
    kinds = inner.__args__ if isinstance(inner, UnionType) else (inner,)
    for kind in _KINDS:
        if set(kinds) - {NoneType} == {kind}:
            return kind
    raise NotPlain


def _is_value(word: str) -> bool:
    return bool(word) and not word.startswith("-") and word.isprintable()


def _value(word: str, kind: type, declared: Option | None = None) -> Any:
    if not _is_value(word):
        raise NotPlain
    if kind not in _NUMBER:
        return kind(word)
    if _NUMBER[kind].fullmatch(word) is None:
        raise NotPlain
    number = kind(word)
    low = declared.min if declared is not None else None
    high = declared.max if declared is not None else None
    if (low is not None and number < low) or (high is not None and number > high):
        raise NotPlain
    return number
