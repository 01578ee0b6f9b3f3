"""`ws up`, `ws down`, `ws reload`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from whalescale import locations
from whalescale.cli import foreground
from whalescale.cli.common import (
    ConfigPath,
    Interface,
    config_path,
    interface_name,
    load_config,
    note,
)
from whalescale.cli.ending import FAILED, UNREACHABLE, CliError, plain
from whalescale.cli.options import Option

START_S: Final = 30.0
STOP_S: Final = 15.0


def up(
    interface: Interface = None,
    config: ConfigPath = None,
    foreground: Annotated[
        bool, Option("--foreground", "-f", help="Stay in the foreground (for systemd).")
    ] = False,
) -> int:
    """Start the tunnel in the background; returns when it is ready, or says why it is not."""
    if foreground:
        return _foreground(interface, config)
    from whalescale.cli import client

    loaded = load_config(interface, config)
    name = loaded.interface.name
    try:
        running = client.status(name)[0]
    except CliError as e:
        if e.exit_code != UNREACHABLE:
            raise
    else:
        theirs, ours = running.agent.config, loaded.path.absolute()
        if theirs and os.path.realpath(theirs) != os.path.realpath(ours):
            raise CliError(
                f"{name} is up already, with {plain(theirs)} and not with {ours}",
                f"`ws down -i {name}` first, or give {ours.name} another [interface] name",
            )
        print(f"{name} is up already (process {running.agent.pid}); `ws reload` takes over changes")
        _warn(running.agent.warnings)
        return 0
    _start(name, loaded.path.absolute())
    print(f"{name} is up")
    with contextlib.suppress(CliError):
        agent = client.status(name)[0].agent
        every = [*agent.addresses, agent.overlay_address]
        addresses = ", ".join(dict.fromkeys(a for a in every if a))
        if agent.node_id:
            print(f"  node ID    {plain(agent.node_id)}")
        else:
            print(f"  WireGuard  {plain(agent.wireguard_public_key)} (no node ID, one path a peer)")
        print(f"  addresses  {plain(addresses)}")
        print(f"  listening  UDP port {agent.listen_port}")
        _warn(agent.warnings)
    return 0


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        note(f"warning: {warning}")


def _foreground(interface: str | None, config: Path | None) -> int:
    """This process becomes the agent, by a program of its own that has none of the command in
    memory."""
    return become(load_config(interface, config).path.absolute())


def become(path: Path) -> int:
    """Execute the agent in this process' place."""
    command = _agent(path)
    os.execv(command[0], command)  # noqa: S606


def _agent(path: Path) -> list[str]:
    # The Debian package's `ws` runs without site, by its own packages alone: so does the agent.
    site = ["-S"] if sys.flags.no_site else []
    return [sys.executable, "-P", *site, "-m", foreground.__name__, str(path)]


def _start(name: str, path: Path) -> None:
    from whalescale import keyfiles

    directory = locations.runtime_dir()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = locations.log_file(name)
    keyfiles.check_folder(log)
    with contextlib.suppress(FileNotFoundError):
        os.replace(log, log.with_suffix(".log.old"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    log_fd = os.open(log, flags, 0o600)
    ready, child_end = os.pipe()
    try:
        child = subprocess.Popen(
            _agent(path),
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            cwd="/",
            start_new_session=True,
            pass_fds=(child_end,),
            env={**os.environ, foreground.READY_FD: str(child_end)},
        )
    finally:
        os.close(log_fd)
        os.close(child_end)
    try:
        answer = _first_bytes(ready, START_S)
        if answer[:1] == b"{":
            # The rest of the report is there when the child has ended.
            answer += _rest(ready)
    except BaseException:
        child.terminate()
        raise
    finally:
        os.close(ready)
    if answer[:1] == b"\n":
        return
    if answer is _NOTHING_YET:
        child.terminate()
        _ended(child)
        fix = f"`ws logs -i {name}` shows how far it came"
        raise CliError(f"{name} was not ready after {START_S:g} s", fix)
    code = _ended(child)
    raise _start_error(name, answer, code, log)


_NOTHING_YET: Final = b"?"


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _first_bytes(fd: int, timeout_s: float) -> bytes:
    if not select.select([fd], [], [], timeout_s)[0]:
        return _NOTHING_YET
    return os.read(fd, 65536)


def _rest(fd: int) -> bytes:
    data = b""
    while select.select([fd], [], [], 2.0)[0] and (chunk := os.read(fd, 65536)):
        data += chunk
    return data


def _start_error(name: str, answer: bytes, code: int, log: Path) -> CliError:
    try:
        error: dict[str, Any] = json.loads(answer)
        exit_code = error["exit_code"]
        return CliError(error["message"], error["fix"], exit_code or FAILED)
    except (ValueError, KeyError, TypeError):
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()
        last = next((plain(line) for line in reversed(lines) if line.strip()), "no word from it")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        fix = f"the whole of it is in {log}"
        last = last.removeprefix("ws: ")
        return CliError(f"{name} did not start ({how}): {last}", fix, code if code > 0 else FAILED)


def down(interface: Interface = None) -> None:
    """Stop the tunnel; returns when the agent is gone."""
    from whalescale.cli import client

    name = interface_name(interface)
    socket = locations.control_socket(name)
    deadline = time.monotonic() + STOP_S
    with client.Connection(name) as connection:
        before = connection.status()[0]
        pid = before.agent.pid
        # An agent that hangs up instead of answering is stopping just the same.
        try:
            connection.call("stop")
        except CliError as e:
            if e.exit_code != UNREACHABLE:
                raise
        connection.wait_closed(max(deadline - time.monotonic(), 0.0))
    while socket.exists() or _alive(pid):
        if time.monotonic() > deadline:
            fix = f"`sudo kill {pid}`, and `ws logs -i {name}` for the cause"
            raise CliError(f"the agent of {name} has not ended in {STOP_S:g} s", fix)
        time.sleep(0.02)
    print(f"{name} is down")
    if before.forwarding.kill_switch:
        note("the kill switch stays: `ws up`, or `ws exit-node off` to go the usual way")


def _alive(pid: int) -> bool:
    if pid <= 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # A process that only waits for its parent to fetch its exit code has ended.
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def reload(
    interface: Interface = None,
    config: ConfigPath = None,
    check: Annotated[bool, Option("--check", help="Only see whether it is right.")] = False,
) -> None:
    """Let the running agent take over the changed configuration."""
    from whalescale.cli import client

    name = interface_name(interface)
    if config is not None:
        name = load_config(interface, config).interface.name
    if check and (config is not None or not _running(name)):
        from whalescale import config_keys

        path = config_path(interface, config)
        config_keys.check(path)
        print(f"{path} is right")
        return
    result = client.call(name, "reload", {"check": check})
    done = "would take over" if check else "has taken over"
    print(f"{name} {done} its configuration")
    changes = result.get("changes")
    for change in changes if isinstance(changes, list) else ():
        note(str(change))


def _running(name: str) -> bool:
    from whalescale.cli import client

    try:
        client.Connection(name).__exit__()
    except CliError as e:
        if e.exit_code != UNREACHABLE:
            raise
        return False
    return True
