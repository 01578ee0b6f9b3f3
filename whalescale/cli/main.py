"""The entry point of `ws`: finds the subcommand, imports only its module, and ends every error
in one line on stderr with the right exit code (WS_DEBUG=1 shows the traceback).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from whalescale import __version__
from whalescale.cli import examples
from whalescale.cli.common import Chosen, interfaces
from whalescale.cli.ending import (
    FAILED,
    INTERRUPTED,
    USAGE,
    failed,
    flush,
    flush_what_can_be,
    no_more_output,
    plain,
    say,
    tolerant_output,
    trace,
)

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

COMPLETE_VARIABLE: Final = "_WS_COMPLETE"
SHELLS: Final = ("bash", "zsh", "fish")


class Entry(NamedTuple):
    """Where a subcommand is, and its line in `ws --help`."""

    section: str
    module: str
    attribute: str
    help: str


COMMANDS: Final = {
    "init": Entry("Set up", "init", "init", "Make a configuration and a key."),
    "keygen": Entry("Set up", "keys", "keygen", "Make a private key."),
    "pubkey": Entry("Set up", "keys", "pubkey", "Tell the node ID of a private key."),
    "peer": Entry("Set up", "peer", "app", "Add or remove a peer."),
    "network": Entry("Set up", "network", "app", "Make a network of your machines, or show it."),
    "invite": Entry("Set up", "joining", "invite", "Print a ticket for one machine."),
    "join": Entry("Set up", "joining", "join", "Join a network with a ticket."),
    "revoke": Entry("Set up", "network", "revoke", "Cut a member off."),
    "rename": Entry("Set up", "network", "rename", "Give a member another name."),
    "leave": Entry("Set up", "network", "leave", "Forget the network on this machine."),
    "route": Entry("Set up", "route", "app", "Say which networks are behind this machine."),
    "exit-node": Entry("Set up", "route", "exit_app", "Use an exit, or be one."),
    "import": Entry("Set up", "wg_import", "import_", "Take over a wg-quick file."),
    "export": Entry("Set up", "export", "export", "Write a wg-quick file for a peer."),
    "up": Entry("Run", "lifecycle", "up", "Start the tunnel."),
    "down": Entry("Run", "lifecycle", "down", "Stop the tunnel."),
    "reload": Entry("Run", "lifecycle", "reload", "Take over a changed configuration."),
    "status": Entry("Look", "show", "status", "Show the tunnel and its peers."),
    "peers": Entry("Look", "show", "peers", "Show the peers, one a line."),
    "members": Entry("Look", "members", "members", "List the network's members."),
    "address": Entry("Look", "members", "address", "Show where a member is, and was."),
    "hosts": Entry("Look", "members", "hosts", "Print the members for /etc/hosts."),
    "paths": Entry("Look", "paths", "paths", "Show the paths to a peer, or pin one."),
    "top": Entry("Look", "top", "top", "Watch it live."),
    "logs": Entry("Look", "logs", "logs", "Show what the agent wrote."),
    "ping": Entry("Look", "ping", "ping", "Ping a peer through the tunnel."),
    "bench": Entry("Look", "bench", "bench", "Measure how fast it is."),
    "trace": Entry("Look", "trace", "trace", "Trace TCP beside the reordering buffer."),
    "doctor": Entry("Look", "doctor", "doctor", "Check what this machine lacks."),
    "report": Entry("Look", "report", "report", "Make an archive for a bug report."),
    "version": Entry("Look", "show", "version", "Show the version."),
}


def _load(name: str) -> Command:
    entry = COMMANDS[name]
    target = getattr(import_module(f"whalescale.cli.{entry.module}"), entry.attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, help=target.__doc__)(target)
        target = single
    command = typer.main.get_command(target)
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


def _failed(error: Exception) -> int:
    """One line for the user, with what typer has found wrong in the command line."""
    from typer._click.exceptions import ClickException

    if not isinstance(error, ClickException):
        return failed(error)
    trace(error)
    code, context = getattr(error, "exit_code", None), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help())
        return USAGE
    path = context.command_path if context is not None else "ws"
    say(error.format_message(), f"`{path} --help` shows what there is")
    return code if isinstance(code, int) else USAGE


def main(arguments: list[str] | None = None) -> int:
    """Run `ws` and return its exit code; nothing but SystemExit of a completion request escapes."""
    if COMPLETE_VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    given = sys.argv[1:] if arguments is None else arguments
    tolerant_output()
    try:
        code = app(args=_with_shell(given), prog_name="ws", standalone_mode=False)
        flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`ws status | head`): no message, and none at exit either.
        no_more_output()
        return FAILED
    except Exception as error:
        code = _failed(error)
        flush_what_can_be()
        return code
    flush_what_can_be()
    return code if isinstance(code, int) else 0
