"""Each retransmission when it happens: runs `bcc_retransmits.py` and reads what it says.

The tracepoint is the whole machine's, other network namespaces included; flows are told apart by
their addresses and ports alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from whalescale.trace.flows import Flow, address_of

#: where Debian's python3-bpfcc is; a venv's Python does not see it
PYTHON: Final = "/usr/bin/python3"
PROGRAM: Final = Path(__file__).with_name("bcc_retransmits.py")
#: bcc compiles the program, 0.5 s on an idle machine
READY_S: Final = 15.0
KEPT_MAX: Final = 65536
LINE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Retransmission:
    """`at_s`: CLOCK_MONOTONIC."""

    at_s: float
    flow: Flow


def parse(line: dict[str, Any]) -> Retransmission:
    """ValueError, KeyError, TypeError: it is no retransmission."""
    flow = Flow(
        address_of(line["source"]),
        int(line["source_port"]),
        address_of(line["destination"]),
        int(line["destination_port"]),
    )
    return Retransmission(int(line["t_ns"]) / 1e9, flow)


class Retransmissions:
    """The helper and what it said. Use it as a context manager; `missing`: why there is none."""

    def __init__(self, command: tuple[str, ...] = (PYTHON, "-I", str(PROGRAM))) -> None:
        self.missing = ""
        #: events that were too many to be told
        self.lost = 0
        self._kept: deque[Retransmission] = deque()
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() != 0:
            self.missing = "the kernel lets only root see each retransmission: use `sudo`"
            return
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as e:
            self.missing = f"{command[0]}: {e.strerror}"
            return
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_ready(self, timeout_s: float = READY_S) -> bool:
        """Whether events come; else `missing` says why not."""
        if self._process is not None and not self._answered.wait(timeout_s):
            self._fail(f"bcc was not ready in {timeout_s:g} s")
        return not self.missing

    def take(self) -> list[Retransmission] | None:
        """Those that came since the last time; None: nobody watches."""
        with self._lock:
            if self.missing:
                return None
            taken = list(self._kept)
            self._kept.clear()
        return taken

    def _fail(self, why: str) -> None:
        with self._lock:
            self.missing = self.missing or why
        self._answered.set()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as out:
            while line := out.readline(LINE_BYTES_MAX):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._heard(json.loads(line))
        self._fail("the bcc program ended")

    def _heard(self, line: Any) -> None:
        if not isinstance(line, dict):
            return
        if "error" in line:
            self._fail(str(line["error"]))
        elif "ready" in line:
            self._answered.set()
        elif "lost" in line:
            with self._lock:
                self.lost += int(line["lost"])
        else:
            one = parse(line)
            with self._lock:
                if len(self._kept) >= KEPT_MAX:
                    self.lost += 1
                else:
                    self._kept.append(one)
