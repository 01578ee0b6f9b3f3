"""linkemu.c, compiled and driven: the emulator of a link where the kernel has no netem."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from tools.netlab import LabError, Process, Shape, run, wait_until

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = SOURCE.parent.parent / "build/netlab/linkemu"
#: "in 7 out 6 lost 1 dropped 0", for each direction
COUNTERS = ("in", "out", "lost", "dropped")


@functools.cache
def program() -> Path | None:
    """The emulator, compiled when its source is newer; None without a C compiler."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return PROGRAM
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    # Beside it and then renamed: another process may be running the old one, or compiling too.
    fresh = PROGRAM.with_name(f"linkemu.{os.getpid()}")
    run(compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", fresh, SOURCE)
    fresh.replace(PROGRAM)
    return PROGRAM


class LinkEmu:
    """A running linkemu."""

    def __init__(self, process: Process) -> None:
        """Returns when the devices are there. LabError: they could not be made."""
        self._process = process
        self._serial = 0
        wait_until("linkemu's devices", lambda: self._find("ready\n"), interval=0.005)

    def set(self, shape: Shape) -> dict[str, tuple[int, int]]:
        """Give the link the shape. Returns frames by `COUNTERS`, each for both directions.

        LabError: refused, or it has ended.
        """
        return self._tell(
            "set",
            f"{shape.rate_mbit * 1e6:.0f} {shape.delay_ms * 1e6:.0f} "
            f"{shape.jitter_ms * 1e6:.0f} {shape.loss_percent * 1e4:.0f} {shape.queue_bytes}",
        )

    def record(self, recording: Path | None, *, back: bool = False) -> None:
        """Bytes that may leave in each millisecond (one a line, not compressed), from now on, in
        place of the shape's rate; `back`: from B to A. None: the rate again.

        LabError: it cannot be read, or its path has blanks or more than 255 bytes.
        """
        self._tell("record", f"{int(back)} {recording or '-'}")

    def police(self, rate_mbit: float, burst_bytes: int = 30_000) -> None:
        """Drop UDP above the rate, each way; 0: no longer."""
        self._tell("police", f"{rate_mbit * 1e6:.0f} {burst_bytes}")

    def _tell(self, what: str, fields: str) -> dict[str, tuple[int, int]]:
        self._serial += 1
        line = f"{what} {self._serial} {fields}\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise LabError(f"linkemu is gone: {self._process.log()[-500:]}") from error

        def answer() -> str:
            if self._find(f"bad {line}"):
                raise LabError(f"linkemu refused `{line.strip()}`")
            return self._find(f"ok {self._serial} ")

        words = str(wait_until("linkemu's answer", answer, 5, interval=0.002)).split()
        half = 2 * len(COUNTERS)
        one, two = words[2 : 2 + half], words[2 + half :]
        return {k: (int(one[2 * i + 1]), int(two[2 * i + 1])) for i, k in enumerate(COUNTERS)}

    def _find(self, begin: str) -> str:
        """The whole line that begins so, "" if it has not come yet."""
        if self._process.poll() is not None:
            raise LabError(f"linkemu ended: {self._process.log()[-500:]}")
        for said in reversed(self._process.log().splitlines(keepends=True)):
            if said.startswith(begin) and said.endswith("\n"):
                return said
        return ""
