"""The options of `ws export`; what it does is in wg_export.py, which `--help` need not import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from whalescale.cli.common import ConfigPath, Interface, PeerArgument
from whalescale.cli.ending import USAGE, CliError
from whalescale.cli.options import Option


def export(
    peer: PeerArgument,
    wireguard: Annotated[
        bool, Option("--wireguard", help="The form of the file (the only one).")
    ] = False,
    new_key: Annotated[
        bool,
        Option("--new-key", help="Make its private key, note its public key here."),
    ] = False,
    endpoint: Annotated[
        str | None, Option("--endpoint", metavar="HOST:PORT", help="Where this host is.")
    ] = None,
    address: Annotated[
        list[str] | None,
        Option(
            "--address", "--allowed-ip", "-a", metavar="IP", help="With a new peer: its address."
        ),
    ] = None,
    allowed_ips: Annotated[
        list[str] | None,
        Option(
            "--allowed-ips",
            metavar="NETWORKS",
            help="What it sends here, with commas [this host's addresses].",
        ),
    ] = None,
    full_tunnel: Annotated[
        bool, Option("--full-tunnel", help="It sends everything here, IPv4 and IPv6.")
    ] = False,
    dns: Annotated[
        list[str] | None,
        Option("--dns", metavar="SERVERS", help="Name servers and search domains it takes."),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Not to stdout; mode 600.")
    ] = None,
    qr_code: Annotated[
        bool, Option("--qr", help="Show it as a QR code, for WireGuard's app.")
    ] = False,
    qr_file: Annotated[
        Path | None,
        Option("--qr-file", metavar="FILE", help="QR code as .png or .svg; mode 600."),
    ] = None,
    interface: Interface = None,
    config: ConfigPath = None,
    force: Annotated[
        bool, Option("--force", help="Let --new-key replace its key, -o replace a file.")
    ] = False,
) -> None:
    """Write a wg-quick file for a plain WireGuard peer."""
    if not wireguard:
        raise CliError("the form is missing", "say `ws export --wireguard PEER`", USAGE)
    from whalescale.cli import wg_export

    wg_export.export(
        peer,
        new_key=new_key,
        endpoint=endpoint,
        addresses=address or [],
        allowed_ips=allowed_ips or [],
        full_tunnel=full_tunnel,
        dns=dns or [],
        output=output,
        qr_code=qr_code,
        qr_file=qr_file,
        interface=interface,
        config=config,
        force=force,
    )
