"""`ws report`: an archive for a bug report, without a secret in it.

Every file that goes in has been searched for the keys of this machine (those of /etc/whalescale and
of the chosen configuration) in every form that programs write keys in, and for whatever else looks
like one. The whole is searched once more before it is written.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

from whalescale import locations
from whalescale.cli.common import ConfigPath, Interface, config_path, interface_name, note
from whalescale.cli.ending import CliError, plain
from whalescale.cli.options import Option

PART_BYTES_MAX: Final = 512 << 10
COMMAND_S: Final = 10.0
LOG_LINES: Final = 2000
#: what is asked of the system; none of these shows a key
COMMANDS: Final = {
    "uname": ("uname", "-a"),
    "ip-address": ("ip", "-details", "address"),
    "ip-route": ("ip", "route", "show", "table", "all"),
    "ip-route6": ("ip", "-6", "route", "show", "table", "all"),
    "ip-rule": ("ip", "rule"),
    "ip-rule6": ("ip", "-6", "rule"),
    "sockets": ("ss", "-anpu"),
    "nft": ("nft", "list", "ruleset"),
    "resolved": ("resolvectl", "--no-pager", "status"),
    "unit": ("systemctl", "--no-pager", "status", "ws@{name}"),
    "journal": ("journalctl", "--no-pager", "-n", str(LOG_LINES), "-u", "ws@{name}"),
}
REMOVED: Final = b"[a key, removed]"
#: runs that may hold 32 bytes in base64, in hex, or in the base32 of `ws keygen`, perhaps grouped;
#: a letter of a JSON escape may stand before them
_LIKE_A_KEY: Final = re.compile(
    rb"[A-Za-z0-9+/_-]{43,}=|[0-9A-Fa-f]{64,}|[a-z2-7-]{56,400}|[A-Z2-7-]{56,400}"
)
#: what lets a machine into a network for an hour (protocol/mesh/invite.py)
_TICKET: Final = re.compile(rb"wsnet1[a-z2-7]{20,}", re.IGNORECASE)
_SEED_LETTERS: Final = 56


def report(
    interface: Interface = None,
    config: ConfigPath = None,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Where to [here].")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Make an archive for a bug report: state, logs, settings, and no private key.

    It names this machine's addresses and its peers: look into it before you send it.
    """
    from whalescale import keyfiles

    name, path = interface_name(interface), config_path(interface, config)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    target = output or Path(f"ws-report-{name}-{stamp}.tar.gz")
    if os.path.lexists(target) and not force:
        raise CliError(f"{target} is there already", "--force replaces it")
    keyfiles.check_folder(target)
    secrets, public = keys_of(path)
    parts = {file: scrub(data, secrets, public) for file, data in collect(name, path)}
    for file, data in parts.items():
        if leaks(data, secrets):
            raise CliError(f"{file} still holds a key; nothing was written", "please report it")
    keyfiles.write(target, archive(f"ws-report-{name}", parts), replace=force)
    print(f"wrote {target}: {len(parts)} files, no private key in them")
    for file, data in sorted(parts.items()):
        print(f"  {file}  {len(data)} bytes")
    note("it names addresses and peers of this machine: look into it before you send it")


def archive(folder: str, parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for file, data in sorted(parts.items()):
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


# what goes in


def collect(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    """(file, content) each; what cannot be had is a line that says why."""
    sources: dict[str, Callable[[], str]] = {
        "versions.txt": _versions,
        "status.json": lambda: _status(name),
        "doctor.json": lambda: _doctor(name, path),
        "logs.txt": lambda: _logs(name),
        "config.toml": lambda: path.read_text(encoding="utf-8", errors="replace"),
    }
    for file, source in sources.items():
        try:
            text = source()
        except Exception as e:  # one part that fails must not cost the others
            text = f"not to be had: {type(e).__name__}: {e}\n"
        yield file, text.encode()[:PART_BYTES_MAX]
    for file, words in COMMANDS.items():
        yield f"system/{file}.txt", _output([w.format(name=name) for w in words])


def _output(words: list[str]) -> bytes:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as e:
        return f"not to be had: {e}\n".encode()
    return done.stdout[-PART_BYTES_MAX:]


def _versions() -> str:
    from importlib import metadata

    from whalescale import __version__

    lines = [f"whalescale {__version__}", f"Python {platform.python_version()}"]
    lines += [f"{platform.system()} {platform.release()} {platform.machine()}"]
    with contextlib.suppress(OSError):
        lines.append(Path("/etc/os-release").read_text(encoding="utf-8", errors="replace"))
    found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    lines += [f"{k} {v}" for k, v in sorted(found.items(), key=lambda kv: str(kv[0]).lower())]
    return "\n".join(lines) + "\n"


def _status(name: str) -> str:
    from whalescale.cli import client

    return json.dumps(client.status(name)[1], indent=1)


def _doctor(name: str, path: Path) -> str:
    from whalescale.cli import checks, hostchecks

    found = [*checks.system(), *checks.configuration(path), *checks.agent(name)]
    found += hostchecks.host(name, checks.own_datagrams(name))
    return json.dumps([c._asdict() for c in found], indent=1)


def _logs(name: str) -> str:
    from whalescale.cli import client
    from whalescale.cli.logs import format_line

    try:
        with client.Connection(name) as connection:
            lines = [format_line(r.get("line")) for r in connection.stream("logs", {})]
    except CliError as e:
        lines = [f"no agent: {e.message}"]
        with contextlib.suppress(OSError), locations.log_file(name).open(errors="replace") as f:
            lines += [plain(line) for line in f]
    return "\n".join(lines[-LOG_LINES:]) + "\n"


# what must not


def keys_of(path: Path) -> tuple[set[bytes], set[bytes]]:
    """(secret, public): the keys of the configuration, and of all others in /etc/whalescale."""
    from whalescale import config as configuration
    from whalescale import config_keys, identity, keyfiles

    secrets: set[bytes] = set()
    public: set[bytes] = set()
    configs = {path, *_files(locations.CONFIG_DIR, "*.toml")}
    for file in configs:
        with contextlib.suppress(configuration.ConfigError):
            loaded = configuration.load(file)
            for peer in loaded.peers:
                public |= {k for k in (peer.node_id, peer.wireguard_public_key) if k is not None}
                with contextlib.suppress(configuration.ConfigError):
                    secrets.add(config_keys.read_preshared_key(loaded, peer))
            own = config_keys.read_identity(loaded)
            secrets.add(bytes(own.static_private))
            secrets |= {bytes(own.seed)} if isinstance(own, identity.Identity) else set()
            public |= {k for k in (own.static_public, own.node_id) if k is not None}
            own.zero()
    for folder in {path.parent, locations.CONFIG_DIR}:
        for file in (
            f for kind in ("key", "network-key", "psk") for f in _files(folder, f"*.{kind}*")
        ):
            with contextlib.suppress(OSError, ValueError):
                text = file.read_text(encoding="ascii").strip()
                with contextlib.suppress(ValueError):
                    secrets.add(keyfiles.decode_wireguard_key(text))
                with contextlib.suppress(identity.IdentityError):
                    seed = identity.Identity.from_seed(identity.decode_seed(text))
                    secrets |= {bytes(seed.seed), bytes(seed.static_private)}
    return {s for s in secrets if any(s)} - public, public


def _files(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return [f for f in folder.glob(pattern) if f.is_file() and f.stat().st_size < 4096]
    return []


def forms(secret: bytes) -> Iterable[bytes]:
    """How programs write 32 bytes: raw, base64 (both alphabets), hex, base32; without padding."""
    texts = [base64.b64encode(secret), base64.urlsafe_b64encode(secret), secret.hex().encode()]
    # The last letter of what `ws keygen` prints also holds the first bit of its check.
    texts.append(base64.b32encode(secret).rstrip(b"=")[:-1])
    texts += [repr(secret)[2:-1].encode()]
    bare = [t.rstrip(b"=") for t in texts]
    return {secret, *bare, *(t.upper() for t in bare[2:4]), *(t.lower() for t in bare[2:4])}


def scrub(data: bytes, secrets: set[bytes], public: set[bytes]) -> bytes:
    for secret in secrets:
        for form in sorted(forms(secret), key=len, reverse=True):
            data = data.replace(form, REMOVED)
    data = _TICKET.sub(REMOVED, data)
    kept = {form for key in public for form in forms(key)}
    return _LIKE_A_KEY.sub(lambda m: _kept_or_removed(m[0], kept), data)


def _kept_or_removed(found: bytes, kept: set[bytes]) -> bytes:
    if found.endswith(b"="):
        return found if found[-44:-1] in kept else REMOVED
    if re.fullmatch(rb"[0-9A-Fa-f]{64,}", found):
        return found if found in kept else REMOVED
    return REMOVED if _has_seed(found) else found


def _has_seed(run: bytes) -> bool:
    """Whether what `ws keygen` prints stands somewhere in it: its check tells."""
    from whalescale import identity

    letters = run.replace(b"-", b"").decode().lower()
    for start in range(len(letters) - _SEED_LETTERS + 1):
        with contextlib.suppress(identity.IdentityError):
            identity.decode_seed(letters[start : start + _SEED_LETTERS])
            return True
    return False


def leaks(data: bytes, secrets: set[bytes]) -> bool:
    return any(form in data for secret in secrets for form in forms(secret))
