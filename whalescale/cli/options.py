"""Options, arguments and groups of commands, declared once and without typer.

`cli/tree.py` makes typer's of them where help, completion or a mistake asks for it; what is typed
every day is taken from them by `cli/quick.py`, in half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

Command = TypeVar("Command", bound=Callable[..., object])


class Option:
    """`names`: "--json", "-i", "--disable/--enable"; none: after the parameter."""

    __slots__ = ("autocompletion", "help", "max", "metavar", "min", "names")

    def __init__(
        self,
        *names: str,
        metavar: str | None = None,
        help: str | None = None,
        min: float | None = None,
        max: float | None = None,
        autocompletion: Callable[..., list[str]] | None = None,
    ) -> None:
        self.names: Final = names
        self.metavar: Final = metavar
        self.help: Final = help
        self.min: Final = min
        self.max: Final = max
        self.autocompletion: Final = autocompletion

    def spellings(self, parameter: str) -> tuple[str, ...]:
        return self.names or (f"--{parameter.replace('_', '-')}",)

    def settings(self) -> dict[str, Any]:
        """As typer names them."""
        return {
            "metavar": self.metavar,
            "help": self.help,
            "min": self.min,
            "max": self.max,
            "autocompletion": self.autocompletion,
        }


class Argument:
    __slots__ = ("autocompletion", "help", "metavar")

    def __init__(
        self,
        metavar: str | None = None,
        help: str | None = None,
        autocompletion: Callable[..., list[str]] | None = None,
    ) -> None:
        self.metavar: Final = metavar
        self.help: Final = help
        self.autocompletion: Final = autocompletion

    def settings(self) -> dict[str, Any]:
        return {
            "metavar": self.metavar,
            "help": self.help,
            "autocompletion": self.autocompletion,
        }


class Group:
    """Commands under one word: `ws route show`."""

    def __init__(self, help: str) -> None:
        self.help: Final = help
        self.commands: Final[dict[str, Callable[..., object] | Group]] = {}

    def command(self, name: str | None = None) -> Callable[[Command], Command]:
        """A decorator: the function by its own name, or another."""

        def add(function: Command) -> Command:
            self.commands[name or function.__name__] = function
            return function

        return add
