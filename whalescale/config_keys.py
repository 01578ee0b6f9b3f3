"""The key files that a configuration names: read, refused where others may read them, compared.

Every error is a ConfigError, as of the file itself.
"""

from __future__ import annotations

from pathlib import Path

from whalescale import identity, keyfiles
from whalescale.config import Config, ConfigError, PeerConfig, load


def check(path: Path) -> Config:
    """`load`, and read every key file that it names, as an agent would at start."""
    config = load(path)
    for peer in config.peers:
        read_preshared_key(config, peer)
    refuse_own_key(config)
    return config


def refuse_own_key(config: Config) -> None:
    """ConfigError: a peer has the key of this host itself, or the private key cannot be read."""
    own = read_identity(config)
    own.zero()
    for number, peer in enumerate(config.peers):
        if (
            (own.node_id is not None and own.node_id == peer.node_id)
            or (own.fingerprint is not None and own.fingerprint == peer.fingerprint)
            or own.static_public == peer.wireguard_public_key
        ):
            key = "wireguard_public_key" if peer.wireguard_public_key else "id"
            fix = "write the key of the peer, `ws pubkey` prints it there"
            problem = "this is the key of this host itself"
            raise ConfigError(config.path, f"peers[{number}].{key}", problem, fix)


def read_identity(config: Config) -> identity.PlainIdentity:
    """This host's own keys, an `Identity` unless the file says wireguard_private_key_file; zero it
    after use. Raises ConfigError, exit code 4 for EACCES.

    Refused: a file that others may read, that is not a regular one or belongs to another user.
    """
    if config.interface.plain:
        key = "interface.wireguard_private_key_file"
        file = config.interface.private_key_file
        make = f"`wg genkey > {file}` in a shell with `umask 077` makes one"
        text = _secret(config.path, key, file, make)
        try:
            return identity.PlainIdentity(keyfiles.decode_wireguard_key(text))
        except ValueError as e:
            raise ConfigError(config.path, key, f"{file}: {e}", make) from None
    seed = read_private_key(config)
    try:
        return identity.Identity.from_seed(seed)
    finally:
        seed[:] = bytes(len(seed))


def read_private_key(config: Config) -> bytearray:
    """The Ed25519 seed (32 bytes; zero it after use), of private_key_file. Raises ConfigError."""
    key = "interface.private_key_file"
    file = config.interface.private_key_file
    missing = f"`ws keygen > {file}` in a shell with `umask 077` makes one, or `sudo ws init`"
    text = _secret(config.path, key, file, missing)
    try:
        return bytearray(identity.decode_seed(text))
    except identity.IdentityError as e:
        fix = "put back the key as `ws keygen` printed it, or make a new one with `ws keygen`"
        if _is_wireguard_key(text):
            fix = "name it as wireguard_private_key_file (no node ID, no several paths)"
            problem = f"{file}: this is a WireGuard key"
            raise ConfigError(config.path, key, problem, fix) from None
        raise ConfigError(config.path, key, f"{file}: {e}", fix) from None


def _is_wireguard_key(text: str) -> bool:
    try:
        keyfiles.decode_wireguard_key(text)
    except ValueError:
        return False
    return True


def read_preshared_key(config: Config, peer: PeerConfig) -> bytes:
    """The preshared key (32 bytes), zeros where the peer has none. Raises ConfigError."""
    file = peer.preshared_key_file
    if file is None:
        return bytes(32)
    number = config.peers.index(peer)
    key = f"peers[{number}].preshared_key_file"
    make = f"`wg genpsk > {file}` in a shell with `umask 077` makes one"
    text = _secret(config.path, key, file, f"{make}; copy it to the peer too")
    try:
        return keyfiles.decode_wireguard_key(text)
    except ValueError as e:
        raise ConfigError(config.path, key, f"{file}: {e}", make) from None


def _secret(path: Path, key: str, file: Path, missing: str) -> str:
    try:
        return keyfiles.read(file)
    except keyfiles.SecretError as e:
        fix = missing if e.missing else e.fix
        raise ConfigError(path, key, str(e), fix, exit_code=4 if e.denied else 1) from None
