"""The configuration file: TOML -> frozen structs (config_shapes.py).

`load` and `parse` check everything that the text alone can tell; the key files that it names are
config_keys.py's business, and what a single text means (an address, a node ID) config_values.py's.
Every error is a ConfigError that names the file, the key and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from whalescale import identity, keyfiles
from whalescale.config_shapes import (
    BUSY_POLL_US_MAX,
    IPV6_MTU_MIN,
    MTU_MAX,
    MTU_MIN,
    NEIGHBOURS_MAX,
    PEERS_TOLD_MAX,
    RELAY_MEMBERS_MAX,
    RELAY_RATE_MAX,
    REORDER_DEPTH_MAX,
    WORKERS_MAX,
    Accept,
    Config,
    DataplaneConfig,
    ExitConfig,
    ForwardConfig,
    InterfaceConfig,
    MetricsConfig,
    MultipathConfig,
    NatConfig,
    NetworkConfig,
    PeerConfig,
    Raw,
    RawExit,
    RawForward,
    RawInterface,
    RawNetwork,
    RawPeer,
    RelayConfig,
)
from whalescale.config_values import (
    Network,
    is_interface_name,
    is_peer_name,
    parse_address,
    parse_id,
    parse_network,
)
from whalescale.endpoints import parse_endpoint
from whalescale.structs import Struct, msgspec

__all__ = [
    "IPV6_MTU_MIN",
    "MTU_MAX",
    "MTU_MIN",
    "Accept",
    "Config",
    "ConfigError",
    "DataplaneConfig",
    "ExitConfig",
    "ForwardConfig",
    "MetricsConfig",
    "MultipathConfig",
    "NetworkConfig",
    "PeerConfig",
    "load",
    "parse",
]

#: a configuration of 65,536 peers stays well below
FILE_BYTES_MAX: Final = 64 << 20

#: rtnetlink(7)
MAIN_TABLE: Final = 254
LOCAL_TABLE: Final = 255

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


class ConfigError(Exception):
    """A fault in the configuration: `file`, `key` ("" when it is the file itself), problem, fix.

    `exit_code` is 1, or 4 where permission is what lacks.
    """

    def __init__(self, file: Path, key: str, problem: str, fix: str, *, exit_code: int = 1):
        self.file, self.key, self.problem, self.fix = file, key, problem, fix
        self.exit_code = exit_code
        #: what is wrong and where, without the fix
        self.message = f"{file}: {key}: {problem}" if key else f"{file}: {problem}"
        super().__init__(f"{self.message}; {fix}" if fix else self.message)


#: what would be right, by key without indices
_RIGHT: Final = {
    "interface": "write a table [interface] with at least name and private_key_file",
    "interface.name": 'write 1 to 15 of letters, digits and _=+.-, such as "ws0"',
    "interface.private_key_file": 'write a file name, such as "ws0.key"',
    "interface.wireguard_private_key_file": 'write a file name, such as "ws0.key", of a key that '
    "`wg genkey` made",
    "interface.listen_port": "write a UDP port from 0 (any free one) to 65535, such as 51820",
    "interface.addresses": 'write a list of addresses with prefix, such as ["10.77.0.1/24"]',
    "interface.mtu": f"write a number of bytes from {MTU_MIN} to {MTU_MAX}, such as 1420",
    "interface.anchor": "write true or false",
    "interface.fwmark": "write a number from 0 (none) to 4294967295",
    "interface.table": 'write "auto", "off" or the number of a routing table',
    "interface.pq": 'write "auto", "require" or "off"',
    "peers": "write each peer as a table [[peers]]",
    "peers.name": 'write 1 to 63 letters, digits, dots, dashes and underscores, such as "berlin"',
    "peers.id": "write the node ID (56 characters) or the fingerprint (40) "
    "that `ws pubkey` prints on the peer",
    "peers.wireguard_public_key": "write the 44 characters that `wg pubkey` prints on the peer",
    "peers.endpoints": 'write a list of "host:port", such as ["192.0.2.7:51820"]',
    "peers.allowed_ips": 'write a list of networks, such as ["10.77.0.2/32"]',
    "peers.preshared_key_file": 'write a file name, such as "berlin.psk"',
    "peers.persistent_keepalive": "write seconds from 0 (off) to 65535, such as 25",
    "peers.pq": 'write "auto", "require" or "off"',
    "dataplane": "write a table [dataplane]",
    "dataplane.backend": 'write "auto", "io_uring" or "mmsg"',
    "dataplane.cipher": 'write "auto", "ipsec-mb" or "openssl"',
    "dataplane.workers": f"write a number from 1 to {WORKERS_MAX}",
    "dataplane.busy_poll_us": f"write microseconds from 0 (off) to {BUSY_POLL_US_MAX}, such as 50",
    "multipath": "write a table [multipath]",
    "multipath.enabled": "write true or false",
    "multipath.scheduler": 'write "edf", "wrr", "minrtt", "redundant" or "backup"',
    "multipath.reorder_depth": f'write "adaptive", or packets from 1 to {REORDER_DEPTH_MAX}',
    "multipath.late": 'write "deliver" or "drop"',
    "multipath.interfaces": 'write names of interfaces, such as ["eth0", "wwan*"]',
    "multipath.exclude": 'write names of interfaces, such as ["docker*", "wg0"]',
    "multipath.repair": 'write "auto", true or false',
    "multipath.bbr": 'write "auto", true or false',
    "metrics": "write a table [metrics]",
    "metrics.listen": 'write "127.0.0.1:9586", the same with an address of this host inside the '
    'tunnel, "unix", or "" for off',
    "forward": "write a table [forward]",
    "forward.networks": 'write a list of networks, such as ["192.168.7.0/24"]',
    "forward.exit": "write true or false",
    "forward.masquerade": "write true or false",
    "exit": "write a table [exit]",
    "exit.use": "write the name of a peer or member, or leave it out",
    "exit.lan": "write true or false",
    "exit.kill_switch": "write true or false",
    "exit.dns": 'write an IP address, such as "9.9.9.9", or leave it out',
    "nat": "write a table [nat]",
    "nat.portmap": "write true or false",
    "relay": "write a table [relay]",
    "relay.use": 'write "auto", "also" or "never"',
    "relay.serve": "write true or false",
    "relay.kernel": "write true or false",
    "relay.rate": f"write Mbit/s from 0 (no limit) to {RELAY_RATE_MAX}, such as 50",
    "relay.members": f"write a number from 1 to {RELAY_MEMBERS_MAX}, such as 64",
    "network": "write a table [network]",
    "network.role": 'write "member" or "leaf"',
    "network.anchor": 'write true, false or "auto"',
    "network.names": "write true or false",
    "network.accept": 'write a list of "private", "all" or "none" and networks, such as '
    '["private", "203.0.113.0/24"]',
    "network.lan": "write true or false",
    "network.neighbours": f"write a number from 1 to {NEIGHBOURS_MAX}, such as 4",
    "metrics.peers_max": f"write a number from 0 to {PEERS_TOLD_MAX}, such as 1000",
}
#: known to older versions, (table, key): a file that has one is taken, and `doubts` says so
_PAST: Final = (("multipath", "control"),)
_FIELDS: Final = {
    "": Raw.__struct_fields__,
    "interface": RawInterface.__struct_fields__,
    "peers": RawPeer.__struct_fields__,
    "dataplane": DataplaneConfig.__struct_fields__,
    "multipath": MultipathConfig.__struct_fields__,
    "metrics": MetricsConfig.__struct_fields__,
    "network": RawNetwork.__struct_fields__,
    "nat": NatConfig.__struct_fields__,
    "relay": RelayConfig.__struct_fields__,
    "forward": RawForward.__struct_fields__,
    "exit": RawExit.__struct_fields__,
}


def load(path: Path) -> Config:
    """Read and check a configuration file (not the key files that it names). Raises ConfigError."""
    try:
        with path.open("rb") as f:
            data = f.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(path, "", "no such file", "`sudo ws init` makes one") from None
    except PermissionError:
        fix = "run it as root, with `sudo`"
        raise ConfigError(path, "", "you may not read this file", fix, exit_code=4) from None
    except OSError as e:
        fix = "name a readable TOML file with --config"
        raise ConfigError(path, "", f"cannot be read: {e.strerror}", fix) from None
    if len(data) > FILE_BYTES_MAX:
        fix = f"keep it under {FILE_BYTES_MAX >> 20} MiB"
        raise ConfigError(path, "", "the file is too large", fix)
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        fix = "save it as UTF-8 text"
        raise ConfigError(path, "", f"byte {e.start} is not UTF-8", fix) from None
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Check the text of a configuration; `path` names it in errors and is what key files lie by."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        fix = "mend the named line" if "line" in str(e) else "something is left open in it"
        raise ConfigError(path, "", f"not TOML: {e}", fix) from None
    except RecursionError:
        raise ConfigError(path, "", "nested too deeply", "mend the brackets") from None
    past = tuple(f"{name}.{key}" for name, key in _PAST if _taken_out(table, name, key))
    try:
        raw = msgspec.convert(table, Raw)
    except msgspec.ValidationError as e:
        raise _explained(e, path) from None
    except RecursionError:
        raise ConfigError(path, "", "nested too deeply", "mend the brackets") from None
    return _Checker(path).config(raw, past)


def _taken_out(table: dict[str, Any], name: str, key: str) -> bool:
    """Whether it was there."""
    inner = table.get(name)
    return isinstance(inner, dict) and inner.pop(key, None) is not None


def _right(key: str) -> str:
    bare = re.sub(r"\[[^]]*]", "", key)
    if bare.startswith("dataplane.") and bare not in _RIGHT:
        return "write true or false"
    return _RIGHT.get(bare, "see `man ws`")


def _explained(error: msgspec.ValidationError, path: Path) -> ConfigError:
    """msgspec's "Expected `int`, got `str` - at `$.peers[0].x`" in the words of a user."""
    what, _, where = str(error).partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    kinds = {"object": "table", "array": "list", "str": "text", "int": "number", "bool": "boolean"}
    bare = re.sub(r"\[[^]]*]", "", key)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        name = unknown[1]
        fields = _FIELDS.get(bare, ())
        import difflib

        close = difflib.get_close_matches(name, fields, 1)
        fix = f"did you mean {close[0]}?" if close else f"known here: {', '.join(fields)}"
        shown = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else repr(name)
        return ConfigError(path, f"{key}.{shown}".lstrip("."), "there is no such key", fix)
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        key = f"{key}.{missing[1]}".lstrip(".")
        return ConfigError(path, key, "is missing", _right(key))
    what = re.sub(r"`(\w+(?: \| \w+)*)`", lambda m: _in_words(m[1], kinds), what)
    what = what.replace("`", "").replace("Expected", "expected").replace("Invalid enum", "unknown")
    return ConfigError(path, key, what, _right(key))


def _in_words(types: str, kinds: dict[str, str]) -> str:
    """ "int | null" -> "number", "bool | str" -> "boolean or text"."""
    return " or ".join(kinds.get(t, t) for t in types.split(" | ") if t != "null")


def _checked(shape: type[S], raw: Struct, **checked: object) -> S:
    """A `shape` of these fields, and of those of `raw` that are the same in both."""
    same = {f: getattr(raw, f) for f in raw.__struct_fields__ if f in shape.__struct_fields__}
    return shape(**{**same, **checked})


class _Checker:
    """From the raw shapes to the checked ones; finds what the types alone cannot say."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def config(self, raw: Raw, past_keys: tuple[str, ...]) -> Config:
        networks = self._each("forward.networks", raw.forward.networks, parse_network)
        config = _checked(
            Config,
            raw,
            path=self._path,
            interface=self._interface(raw.interface),
            peers=tuple(self._peer(f"peers[{i}]", p) for i, p in enumerate(raw.peers)),
            metrics=self._metrics(raw.metrics),
            network=self._network(raw.network, raw.interface.anchor),
            forward=_checked(ForwardConfig, raw.forward, networks=networks),
            exit=self._exit(raw.exit),
            past_keys=past_keys,
        )
        self._duplicates(config.peers)
        self._exit_fits(config)
        return config

    def _fail(self, key: str, problem: str, fix: str | None = None) -> ConfigError:
        return ConfigError(self._path, key, problem, _right(key) if fix is None else fix)

    def _file(self, key: str, name: str) -> Path:
        if not name or "\0" in name or name.endswith("/"):
            raise self._fail(key, f"{name!r} is no file name")
        return self._path.parent / name

    def _each(self, key: str, texts: Sequence[str], parse: Callable[[str], T]) -> tuple[T, ...]:
        result: dict[T, None] = {}
        for i, text in enumerate(texts):
            try:
                value = parse(text)
            except ValueError as e:
                raise self._fail(f"{key}[{i}]", str(e), "") from None
            if value in result:
                raise self._fail(f"{key}[{i}]", f"{text!r} is here twice", "remove one of them")
            result[value] = None
        return tuple(result)

    def _interface(self, raw: RawInterface) -> InterfaceConfig:
        if not is_interface_name(raw.name):
            raise self._fail("interface.name", f"{raw.name!r} cannot be an interface's name")
        addresses = self._each("interface.addresses", raw.addresses, parse_address)
        if raw.mtu < IPV6_MTU_MIN and (v6 := next((a for a in addresses if a.version == 6), None)):
            problem = f"{raw.mtu} is less than IPv6 needs, and {v6} is among the addresses"
            fix = f"write {IPV6_MTU_MIN} or more, or leave IPv6 addresses out"
            raise self._fail("interface.mtu", problem, fix)
        key, key_file, plain = "private_key_file", raw.private_key_file, False
        if raw.wireguard_private_key_file is not None:
            if key_file is not None:
                problem = "private_key_file and wireguard_private_key_file are both there"
                fix = "keep private_key_file for a node ID, the other one for a key from elsewhere"
                raise self._fail("interface.wireguard_private_key_file", problem, fix)
            key, key_file, plain = (
                "wireguard_private_key_file",
                raw.wireguard_private_key_file,
                True,
            )
        if key_file is None:
            raise self._fail("interface.private_key_file", "is missing")
        if plain and raw.pq == "require":
            problem = "a WireGuard key alone has no post-quantum keys: nothing would be sent"
            raise self._fail("interface.pq", problem, 'write "auto", or use private_key_file')
        if raw.table == LOCAL_TABLE:
            problem = "255 is the kernel's own: what is routed there goes before all rules"
            raise self._fail("interface.table", problem, 'write "auto", "off" or another number')
        return _checked(
            InterfaceConfig,
            raw,
            private_key_file=self._file(f"interface.{key}", key_file),
            plain=plain,
            addresses=addresses,
            table="auto" if raw.table == MAIN_TABLE else raw.table,
        )

    def _network(self, raw: RawNetwork, anchor: bool) -> NetworkConfig:
        """With `anchor` as it is: [interface] had it before there was a [network]."""
        if raw.anchor is False and anchor:
            problem = "is false, and interface.anchor is true"
            raise self._fail("network.anchor", problem, "remove one of the two")
        chosen = anchor if raw.anchor is None else raw.anchor
        if raw.role == "leaf" and chosen:
            problem = "a leaf is no anchor"
            raise self._fail("network.role", problem, 'write "member", or anchor = false')
        return _checked(NetworkConfig, raw, anchor=chosen, accept=self._accept(raw.accept))

    def _accept(self, raw: tuple[str, ...]) -> Accept:
        words = {w for w in raw if w in ("private", "all", "none")}
        if len(words) > 1:
            problem = f"{' and '.join(sorted(words))} say different things"
            raise self._fail("network.accept", problem)
        kind: Literal["private", "all", "none"] = "none"
        if "all" in words:
            kind = "all"
        elif "private" in words:
            kind = "private"
        networks = self._each("network.accept", [w for w in raw if w not in words], parse_network)
        return Accept(kind, networks)

    def _exit(self, raw: RawExit) -> ExitConfig:
        if raw.use and not is_peer_name(raw.use):
            raise self._fail("exit.use", f"{raw.use!r} cannot be a peer's name")
        dns = None
        if raw.dns:
            try:
                dns = ipaddress.ip_address(raw.dns)
            except ValueError:
                raise self._fail("exit.dns", f"{raw.dns!r} is no IP address") from None
        return _checked(ExitConfig, raw, dns=dns)

    def _exit_fits(self, config: Config) -> None:
        if config.exit.use and config.interface.table != "auto":
            problem = f"an exit needs routes of ours, and table is {config.interface.table!r}"
            raise self._fail("exit.use", problem, 'write table = "auto" under [interface]')

    def _metrics(self, raw: MetricsConfig) -> MetricsConfig:
        """Whether an address is one inside the tunnel, the agent sees when it has them all."""
        try:
            if (found := raw.address) is not None and found[0].is_unspecified:
                problem = f"{found[0]} is every address of this host: anybody could ask"
                raise self._fail("metrics.listen", problem)
        except ValueError:
            problem = f"{raw.listen!r} is no IP address with a port"
            raise self._fail("metrics.listen", problem) from None
        return raw

    def _peer(self, key: str, raw: RawPeer) -> PeerConfig:
        if not is_peer_name(raw.name):
            raise self._fail(f"{key}.name", f"{raw.name!r} cannot be a peer's name")
        if raw.id is not None and raw.wireguard_public_key is not None:
            problem = f"{raw.name} has both id and wireguard_public_key"
            fix = "keep id for a Whalescale peer, wireguard_public_key for a plain WireGuard one"
            raise self._fail(f"{key}.wireguard_public_key", problem, fix)
        if raw.id is None and raw.wireguard_public_key is None:
            raise self._fail(f"{key}.id", f"{raw.name} has neither id nor wireguard_public_key")
        node_id, fingerprint = self._id(f"{key}.id", raw.id)
        public: bytes | None = None
        if raw.wireguard_public_key is not None:
            try:
                public = keyfiles.decode_wireguard_key(raw.wireguard_public_key)
            except ValueError as e:
                raise self._fail(f"{key}.wireguard_public_key", str(e)) from None
            if identity.is_low_order(public):
                problem = "no handshake can be made with this key (low order, such as all zeros)"
                raise self._fail(f"{key}.wireguard_public_key", problem)
        if public is not None and raw.pq == "require":
            problem = f"{raw.name} is a plain WireGuard peer: nothing would be sent to it"
            raise self._fail(f"{key}.pq", problem, 'write "off"')
        psk = raw.preshared_key_file
        return _checked(
            PeerConfig,
            raw,
            node_id=node_id,
            fingerprint=fingerprint,
            wireguard_public_key=public,
            endpoints=self._each(f"{key}.endpoints", raw.endpoints, parse_endpoint),
            allowed_ips=self._each(f"{key}.allowed_ips", raw.allowed_ips, parse_network),
            preshared_key_file=None
            if psk is None
            else self._file(f"{key}.preshared_key_file", psk),
        )

    def _id(self, key: str, text: str | None) -> tuple[bytes | None, bytes | None]:
        if text is None:
            return None, None
        try:
            return parse_id(text)
        except ValueError as e:
            raise self._fail(key, str(e)) from None

    def _duplicates(self, peers: Sequence[PeerConfig]) -> None:
        names: dict[str, int] = {}
        keys: dict[tuple[str, bytes], int] = {}
        networks: dict[Network, int] = {}
        for i, peer in enumerate(peers):
            if (other := names.setdefault(peer.name, i)) != i:
                problem = f"{peer.name!r} is also the name of peers[{other}]"
                raise self._fail(f"peers[{i}].name", problem, "give each peer a name of its own")
            for known in _key_forms(peer):
                if (other := keys.setdefault(known, i)) != i:
                    field = "wireguard_public_key" if peer.wireguard_public_key else "id"
                    problem = f"the key of {peer.name} is that of {peers[other].name} too"
                    raise self._fail(f"peers[{i}].{field}", problem, "remove one of the two")
            for j, network in enumerate(peer.allowed_ips):
                if (other := networks.setdefault(network, i)) != i:
                    problem = f"{network} belongs to {peers[other].name} already"
                    fix = "a network can be reached by one peer only; remove it from the other"
                    raise self._fail(f"peers[{i}].allowed_ips[{j}]", problem, fix)


def _key_forms(peer: PeerConfig) -> list[tuple[str, bytes]]:
    """Every form that the peer's key is known by, so that one node cannot stand here twice."""
    forms: list[tuple[str, bytes]] = []
    if peer.node_id is not None:
        forms.append(("fingerprint", identity.fingerprint_of(peer.node_id)))
        forms.append(("x25519", identity.node_id_to_x25519(peer.node_id)))
    if peer.fingerprint is not None:
        forms.append(("fingerprint", peer.fingerprint))
    if peer.wireguard_public_key is not None:
        forms.append(("x25519", peer.wireguard_public_key))
    return forms
