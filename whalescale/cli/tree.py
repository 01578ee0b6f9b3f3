"""`ws` as typer has it: help, completion, groups, and whatever `cli/quick.py` leaves alone."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from whalescale import __version__
from whalescale.cli import examples
from whalescale.cli.commands import COMMANDS, COMPLETE_VARIABLE, target
from whalescale.cli.common import Chosen, interfaces
from whalescale.cli.ending import INTERRUPTED, USAGE, plain, say, trace
from whalescale.cli.options import Argument, Group, Option

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

SHELLS: Final = ("bash", "zsh", "fish")


def _completed(wanted: Callable[..., list[str]] | None) -> Callable[..., list[str]] | None:
    """As typer wants it: it goes by the types of the parameters."""
    if wanted is None:
        return None
    if wanted.__code__.co_argcount == 1:

        def complete(incomplete: str) -> list[str]:
            return wanted(incomplete)

        return complete

    def complete_in(context: typer.Context, incomplete: str) -> list[str]:
        return wanted(context, incomplete)

    return complete_in


def _as_typer(hint: Any) -> Any:
    """Annotated[T, Option or Argument of ours] -> with typer's."""
    for declared in getattr(hint, "__metadata__", ()):
        if isinstance(declared, Option | Argument):
            told = declared.settings()
            told["autocompletion"] = _completed(told["autocompletion"])
            made = (
                typer.Option(*declared.names, **told)
                if isinstance(declared, Option)
                else typer.Argument(**told)
            )
            return Annotated[hint.__origin__, made]
    return hint


def _declared(function: Callable[..., object]) -> Callable[..., object]:
    """The same with typer's declarations; the function keeps ours."""

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> object:
        return function(*given, **named)

    shape = inspect.signature(function, eval_str=True)
    found = [p.replace(annotation=_as_typer(p.annotation)) for p in shape.parameters.values()]
    call.__signature__ = shape.replace(parameters=found)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in found}
    return call


def _made(found: Group, *words: str) -> typer.Typer:
    group = typer.Typer(
        add_completion=False, rich_markup_mode=None, no_args_is_help=True, help=found.help
    )
    for name, one in found.commands.items():
        if isinstance(one, Group):
            group.add_typer(_made(one, *words, name), name=name)
        else:
            group.command(name, epilog=examples.epilog(*words, name))(_declared(one))
    return group


def _load(name: str) -> Command:
    found = target(name)
    if isinstance(found, Group):
        made = _made(found, name)
    else:
        made = typer.Typer(add_completion=False, rich_markup_mode=None)
        made.command(name, help=found.__doc__)(_declared(found))
    command = typer.main.get_command(made)
    command.name = name
    command.epilog = examples.epilog(name)
    return command


class _Commands(MutableMapping[str, Any]):
    """Subcommands by name, imported when asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            if name not in COMMANDS:
                raise KeyError(name)
            self._loaded[name] = _load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """Lists the subcommands without importing them."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = _Commands()

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        for section in dict.fromkeys(e.section for e in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(n, e.help) for n, e in COMMANDS.items() if e.section == section],
                    col_max=10,
                )


app = typer.Typer(
    name="ws",
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Whalescale: a peer-to-peer VPN that is WireGuard on the wire.",
    epilog="Without a command: the state of this machine, and the next step. "
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 no agent, 4 permission. See `man ws`.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"whalescale {__version__}")
        raise typer.Exit(0)


def _show_completion(shell: str | None) -> None:
    if shell is None:
        return
    if shell not in SHELLS:
        raise typer.BadParameter(f"{plain(shell)!r}: there is one for {', '.join(SHELLS)}")
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="ws", complete_var=COMPLETE_VARIABLE, shell=shell))
    raise typer.Exit(0)


@app.callback()
def _root(
    context: typer.Context,
    interface: Annotated[
        str | None,
        typer.Option(
            "--interface",
            "-i",
            metavar="NAME",
            help="Which interface [ws0].",
            autocompletion=interfaces,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="bash|zsh|fish",
            help="Print the completion script of a shell [yours].",
            is_eager=True,
            callback=_show_completion,
        ),
    ] = None,
) -> None:
    Chosen.interface = interface
    if context.invoked_subcommand is None:
        from whalescale.cli import here

        here.show()


def _with_shell(arguments: list[str]) -> list[str]:
    """`--show-completion` alone means the user's own shell."""
    if arguments[-1:] != ["--show-completion"]:
        return arguments
    shell = os.path.basename(os.environ.get("SHELL", ""))
    return [*arguments, shell if shell in SHELLS else "bash"]


#: what typer says in words of its own code
_PLAINER: Final = {
    "is not a valid float range": "is no number",
    "is not a valid int range": "is no whole number",
    "is not a valid integer range": "is no whole number",
    "is not a valid integer": "is no whole number",
    "Got unexpected extra argument(s)": "Too many words",
}


def _refused(error: ClickException, arguments: list[str]) -> int:
    """One line for what typer has found wrong in the command line."""
    trace(error)
    code, context = getattr(error, "exit_code", None), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help())
        return USAGE
    if context is not None:
        path = context.command_path
    else:  # it says so of an option's value alone
        path = " ".join(["ws", *(word for word in arguments[:1] if word in COMMANDS)])
    message = error.format_message()
    for theirs, ours in _PLAINER.items():
        message = message.replace(theirs, ours)
    say(message, f"`{path} --help` shows what there is")
    return code if isinstance(code, int) else USAGE


def run(arguments: list[str]) -> object:
    """What the command returns, an exit code if it is a number. Errors of commands escape."""
    if COMPLETE_VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        return app(args=_with_shell(arguments), prog_name="ws", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except ClickException as error:
        return _refused(error, arguments)
