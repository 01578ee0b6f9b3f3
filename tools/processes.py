"""Commands that are run and processes that are ended, for the lab, the benches and the tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.netlab import Host
    from tools.nursery import Child, Nursery


class LabError(RuntimeError):
    """A command of the lab failed; the message holds the command and what it said."""


def run(
    *command: str | Path,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 60.0,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, output captured as text. LabError when it fails or takes too long."""
    words = [str(w) for w in command]
    try:
        done = subprocess.run(
            words,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else {**os.environ, **env},
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(words)}` took more than {timeout:g} s") from error
    except FileNotFoundError as error:
        raise LabError(f"`{words[0]}` is not installed; `make setup` installs it") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabError(f"`{' '.join(words)}` failed ({done.returncode}): {said}")
    return done


def wait_until(
    what: str, true: Callable[[], object], timeout: float = 10.0, interval: float = 0.05
) -> Any:
    """Poll until `true()` gives something true, and return that. LabError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time: several test processes want the same thing built."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM wait while the block cleans up."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def terminate_as_exception() -> None:
    """Make SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that `with` blocks clean up.

    Ctrl-C too where it was ignored (background jobs of a shell).
    """

    def raise_exit(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, raise_exit)
    signal.signal(signal.SIGHUP, raise_exit)


class Process:
    """A process in a host, ended with the lab. Its output goes to a file of the lab's folder."""

    def __init__(
        self,
        host: Host,
        command: Sequence[str],
        log: Path,
        env: dict[str, str],
        nursery: Nursery | None = None,
    ) -> None:
        self.log_path = log
        self.command = command
        self._popen: subprocess.Popen[bytes] | Child
        with log.open("wb") as out:
            if nursery is not None:
                self._popen = nursery.begin(
                    command, host.netns, out.fileno(), {**os.environ, **env}
                )
                return
            # The pipe stays open: some of these programs take the end of stdin as an order to stop.
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *host.prefix, *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        return self._popen.poll()

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait(self, timeout: float = 60.0) -> int:
        """The exit status, negative for a signal. LabError: still running after `timeout` s."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"`{' '.join(self.command)}` still runs after {timeout:g} s") from error

    def finish(self, timeout: float = 60.0) -> str:
        """Wait for it and return its output. LabError when it failed."""
        status = self.wait(timeout)
        if status != 0:
            raise LabError(f"`{' '.join(self.command)}` failed ({status}): {self.log()[-2000:]}")
        return self.log()

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        self._close_pipe()

    def stop(self, timeout: float = 5.0) -> int:
        """SIGTERM, after `timeout` s SIGKILL. Returns the exit status."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        status = self._popen.wait()
        self._close_pipe()
        return status

    def _close_pipe(self) -> None:
        with contextlib.suppress(OSError):
            self.stdin.close()
