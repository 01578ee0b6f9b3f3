"""`ws bench`: how fast the tunnel is, on this machine or to another one."""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Final

from whalescale.cli.common import Interface, Json, console, interface_name, peer_names, print_json
from whalescale.cli.ending import FAILED, OK, USAGE, CliError, plain
from whalescale.cli.options import Argument, Option
from whalescale.endpoints import is_host

#: seconds of a sample, so that a whole run stays well under two minutes
PEER_S: Final = 3.0
BARE_S: Final = 1.5
HERE_S: Final = 1.0
#: what is measured over IPv6 outside as well
IPV6_FIGURES: Final = ("ping", "tcp1", "udp64")

if TYPE_CHECKING:
    from whalescale.bench.session import Row, Session


def bench(
    host: Annotated[
        str | None,
        Argument(
            metavar="[PEER]",
            help="A peer's name, or its address in the tunnel. None: two hosts here.",
            autocompletion=peer_names,
        ),
    ] = None,
    bare: Annotated[
        str | None,
        Option("--bare", metavar="ADDRESS", help="The same host outside the tunnel."),
    ] = None,
    serve: Annotated[bool, Option("--serve", help="Be the other end, until Ctrl-C.")] = False,
    listen: Annotated[
        list[str] | None,
        Option("--listen", metavar="ADDRESS", help="With --serve [the tunnel's addresses]."),
    ] = None,
    port: Annotated[int, Option("--port", min=1, max=65535, help="TCP, of --serve.")] = 5299,
    rounds: Annotated[int, Option("--rounds", min=1, max=100, help="How many.")] = 3,
    seconds: Annotated[
        float | None,
        Option(
            "--seconds",
            min=1,
            max=60,
            help="How long each sample takes [3 to a PEER, 1.5 with --bare, 1 between two here].",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        Option("--only", metavar="FIGURE", help="Of the figures of --json, this one."),
    ] = None,
    interface: Interface = None,
    json: Json = False,
) -> int:
    """Measure the tunnel: `ws bench --serve` there, `ws bench PEER` here; or `sudo ws bench`."""
    if serve and (host is not None or bare is not None):
        raise CliError("--serve is one end, PEER and --bare are the other", "use one", USAGE)
    if listen and not serve:
        raise CliError("--listen belongs to --serve", "add --serve", USAGE)
    from whalescale.bench.session import FIGURES

    for name in only or ():
        if name not in FIGURES:
            raise CliError(f"there is no figure {name}", f"one of {', '.join(FIGURES)}", USAGE)
    if serve:
        return _serve(listen or _tunnel_addresses(interface_name(interface)), port)
    if host is None:
        if bare is not None:
            raise CliError("--bare belongs to a PEER", "name the peer", USAGE)
        return _here(rounds, seconds or HERE_S, only or [], json)
    ways = {"tunnel": _address(host, interface), **({"bare": bare} if bare else {})}
    default = BARE_S if bare else PEER_S
    return _measure(ways, port, rounds, seconds or default, only or [], json)


def _tunnel_addresses(name: str) -> list[str]:
    """Where only peers come in."""
    from whalescale.cli import client

    agent = client.status(name)[0].agent
    found = [a.partition("/")[0] for a in (*agent.addresses, agent.overlay_address) if a]
    return list(dict.fromkeys(found))


def _address(host: str, interface: str | None) -> str:
    """An address as it is, else that of the peer of this name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    from whalescale.cli import client
    from whalescale.cli.common import find
    from whalescale.cli.ping import address_of

    name = interface_name(interface)
    status = client.status(name)[0]
    peer = find(status, host, name)
    # The address that was written down is what its owner listens on as well.
    for network in peer.allowed_ips:
        with contextlib.suppress(ValueError):
            single = ipaddress.ip_network(network, strict=False)
            if is_host(single):
                return str(single.network_address)
    return address_of(peer)


def _serve(addresses: list[str], port: int) -> int:
    from whalescale.bench.remote import Server

    with Server(addresses, port) as server:
        where = ", ".join(addresses)
        print(f"serving on {where}, port {server.port}; Ctrl-C ends it", flush=True)
        server.serve(lambda text: print(plain(text), flush=True))
    return OK


def _here(rounds: int, seconds: float, only: list[str], json: bool) -> int:
    """Two hosts as namespaces: all figures over IPv4 outside, then some over IPv6."""
    from whalescale.bench.session import FIGURES

    words = ["--rounds", str(rounds), "--seconds", f"{seconds:g}"]
    rows = _between(4, [*words, *_only(only)])
    over_ipv6 = [name for name in FIGURES if name in IPV6_FIGURES and (not only or name in only)]
    if over_ipv6:
        rows += _over_ipv6(over_ipv6, words)
    return _report(rows, dict.fromkeys(("tunnel", "bare"), ""), rounds, seconds, json)


def _over_ipv6(names: list[str], words: list[str]) -> list[Row]:
    """What keeps it from being measured is told in its rows: the others were measured already."""
    from whalescale.bench import local
    from whalescale.bench.remote import BenchError
    from whalescale.bench.session import make_row

    rows = [make_row(name) for name in names]
    lacks = local.lacks_ipv6()
    if not lacks:
        try:
            rows = _between(6, [*words, *_only(names)])
        except BenchError as error:
            lacks = error.message
    for row in rows:
        row.name, row.title = f"{row.name}-ipv6", f"{row.title}, IPv6 outside"
        row.skipped = row.skipped or lacks
    return rows


def _only(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def _between(family: int, words: list[str]) -> list[Row]:
    """This command once more in each of two namespaces: --serve in one, PEER in the other."""
    from json import loads

    from whalescale.bench import local
    from whalescale.bench.remote import BenchError
    from whalescale.bench.session import Row

    inside, outside = local.INSIDE["b"], local.OUTSIDE[family]["b"]
    with local.two_hosts(family=family) as (a, b):
        server = subprocess.Popen(
            b.command("bench", "--serve", "--listen", inside, "--listen", outside),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=b.environment,
            start_new_session=True,
        )
        try:
            assert server.stdout is not None
            if not server.stdout.readline().startswith(b"serving"):
                raise BenchError("the other end does not start")
            # Its progress goes to our stderr.
            done = subprocess.run(
                a.command("bench", inside, "--bare", outside, "--json", *words),
                env=a.environment,
                stdout=subprocess.PIPE,
                check=False,
            )
        finally:
            local.end(server)
    try:
        return [Row.from_json(table) for table in loads(done.stdout)["figures"]]
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"the run over IPv{family} gave no figures") from None


def _measure(
    ways: dict[str, str], port: int, rounds: int, seconds: float, only: list[str], json: bool
) -> int:
    from whalescale.bench.remote import Remote
    from whalescale.bench.session import Session

    with Remote(ways["tunnel"], port) as remote:
        session = Session(remote, ways, rounds, seconds, only)
        _watch(session)
    return _report(session.rows, ways, rounds, seconds, json)


def _report(rows: list[Row], ways: dict[str, str], rounds: int, seconds: float, json: bool) -> int:
    from whalescale.bench.session import document

    if json:
        print_json(document(rows, rounds, seconds))
    else:
        _show(rows, ways)
    return FAILED if any(row.errors for row in rows) else OK


def _watch(session: Session) -> None:
    """Progress on stderr: a moving line in a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        session.run(lambda _: None)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"about {session.estimate:.0f} s")
        session.run(lambda text: progress.update(task, description=text))


def _show(rows: list[Row], ways: dict[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for way, address in ways.items():
        table.add_column(f"{way} ({address})" if address else way, justify="right")
    if "bare" in ways:
        table.add_column("tunnel / bare", justify="right")
    for row in rows:
        cells = [_cell(row, way) for way in ways]
        if "bare" in ways:
            cells.append("-" if row.ratio is None else f"{row.ratio:.2f}x")
        table.add_row(row.title, *cells)
    console().print(table)
    for row in rows:
        if row.skipped:
            print(f"{row.title}: skipped, {plain(row.skipped)}")
        for way, text in [*row.errors.items(), *row.notes.items()]:
            print(f"{row.title}, {way}: {plain(text)}")


def _cell(row: Row, way: str) -> str:
    value = row.median(way)
    if value is None:
        return "skipped" if row.skipped else "failed"
    return f"{value:,.{row.digits}f} {row.unit}"
