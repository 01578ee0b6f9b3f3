"""`ws status`, `ws peers`, `ws version`: what the agent says, for people or as JSON."""

from __future__ import annotations

from whalescale.cli.common import Interface, Json, console, interface_name, print_json


def status(interface: Interface = None, json: Json = False) -> None:
    """Show the tunnel and its peers."""
    from whalescale.cli import client

    found, raw = client.status(interface_name(interface))
    if json:
        print_json({"version": 1, **raw})
        return
    from whalescale.cli import troubles
    from whalescale.tui import multipath, render

    out = console()
    out.print(render.summary(found))
    out.print()
    out.print(render.peers_table(found.peers, out.width))
    if (paths := multipath.brief(found.peers, out.width)) is not None:
        out.print()
        out.print(paths)
    told = [f"{name}: {text}" for name, text in troubles.of(found)]
    if text := troubles.refused_sources(found):
        told.append(text)
    for line in told:
        out.print()
        out.print(line, style="yellow")


def peers(interface: Interface = None, json: Json = False) -> None:
    """Show the peers, one a line."""
    from whalescale.cli import client

    found, raw = client.status(interface_name(interface))
    if json:
        print_json({"version": 1, "peers": raw.get("peers", [])})
        return
    from whalescale.tui import render

    out = console()
    out.print(render.peers_table(found.peers, out.width))


def version(interface: Interface = None, json: Json = False) -> None:
    """Show the version of this `ws`, and that of the running agent if there is one."""
    import platform

    from whalescale import __version__
    from whalescale.cli import client
    from whalescale.cli.ending import CliError, plain

    agent: str | None = None
    try:
        answer = client.call(interface_name(interface), "version").get("version")
        agent = plain(answer) if isinstance(answer, str) else None
    except CliError:
        pass  # no agent, or not for us: the answer is our own version then
    if json:
        print_json({"version": 1, "whalescale": __version__, "agent": agent})
        return
    print(f"whalescale {__version__} (Python {platform.python_version()})")
    if agent is not None:
        print(f"agent of {interface_name(interface)}: {agent}")
