"""The agent's own process: `python -m whalescale.cli.foreground CONFIG`.

`ws up` starts it, `ws up --foreground` becomes it. It parses nothing, so what a command has in
memory (typer, the commands) is not in that of an agent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import Final

from whalescale.cli.ending import INTERRUPTED, failed, flush_what_can_be, tolerant_output
from whalescale.lean import without

READY_FD: Final = "WHALESCALE_READY_FD"
#: gc.get_threshold() of a Python that nobody changed it in (whalescale.cli does)
PYTHONS_OWN: Final = (700, 10, 10)


def run(path: Path) -> int:
    """The agent of that configuration, until its end. If `ws up` waits at a pipe, an error goes
    there as JSON too."""
    text = os.environ.get(READY_FD, "")
    report: int | None = None
    if text.isdecimal():
        with contextlib.suppress(OSError):
            # The agent closes its own once it is ready.
            report = os.dup(int(text))
    try:
        # 4 MB: asyncio takes ssl where it can be had, and nobody here speaks TLS.
        with without("ssl"):
            import asyncio  # noqa: F401
        from whalescale import agent

        gc.set_threshold(*PYTHONS_OWN)  # it stays, and works with little memory
        return int(agent.run(path))
    except Exception as e:
        if report is not None:
            error = {
                "message": str(getattr(e, "message", "") or e),
                "fix": str(getattr(e, "fix", "")),
                "exit_code": getattr(e, "exit_code", 4 if isinstance(e, PermissionError) else 1),
            }
            with contextlib.suppress(OSError):
                os.write(report, json.dumps(error).encode())
        raise


def main(path: Path) -> int:
    """The exit code; an error is one line on stderr."""
    tolerant_output()
    try:
        code = run(path)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = failed(error)
    flush_what_can_be()
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
