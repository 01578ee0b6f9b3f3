"""`ws keygen` and `ws pubkey`: filters, as `wg genkey` and `wg pubkey` are."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from whalescale.cli.common import note, note_loose_output
from whalescale.cli.ending import USAGE, CliError
from whalescale.cli.options import Option


def keygen() -> None:
    """Make a new private key and print it.

    Keep it secret: (umask 077; ws keygen > ws0.key)
    """
    from whalescale.identity import Identity, encode_seed

    note_loose_output()
    print(encode_seed(Identity.generate(os.urandom).seed))


def pubkey(
    fingerprint: Annotated[
        bool, Option("--fingerprint", help="Print its shorter fingerprint.")
    ] = False,
    wireguard: Annotated[
        bool, Option("--wireguard", help="Print its WireGuard public key (base64).")
    ] = False,
) -> None:
    """Read a private key on standard input and print its node ID: ws pubkey < ws0.key"""
    from whalescale import identity
    from whalescale.keyfiles import KEY_FILE_BYTES_MAX, encode_wireguard_key

    if fingerprint and wireguard:
        fix = "take one of them"
        raise CliError("--fingerprint and --wireguard exclude each other", fix, USAGE)
    if sys.stdin.isatty():
        note("type or paste the private key, or run it as `ws pubkey < ws0.key`")
    try:
        text = sys.stdin.buffer.read(KEY_FILE_BYTES_MAX).decode("ascii")
        own = identity.Identity.from_seed(identity.decode_seed(text))
    except UnicodeDecodeError:
        fix = "give the file that `ws keygen` wrote: `ws pubkey < ws0.key`"
        raise CliError("standard input: this is no private key", fix) from None
    except identity.IdentityError as e:
        fix = "give the file that `ws keygen` wrote: `ws pubkey < ws0.key`"
        raise CliError(f"standard input: {e}", fix) from None
    if wireguard:
        print(encode_wireguard_key(own.static_public))
    elif fingerprint:
        print(identity.encode_fingerprint(own.fingerprint))
    else:
        print(identity.encode_node_id(own.node_id))
    own.zero()
