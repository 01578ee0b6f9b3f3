"""The entry point of `ws`: finds the subcommand, imports only its module, and ends every error
in one line on stderr with the right exit code (WS_DEBUG=1 shows the traceback).
"""

from __future__ import annotations

import os
import sys

from whalescale.cli import quick
from whalescale.cli.commands import COMPLETE_VARIABLE
from whalescale.cli.ending import (
    FAILED,
    INTERRUPTED,
    failed,
    flush,
    flush_what_can_be,
    no_more_output,
    tolerant_output,
)


def _run(arguments: list[str]) -> object:
    if COMPLETE_VARIABLE not in os.environ:
        command = quick.find(arguments)
        if command is not None:
            return command()
    from whalescale.cli import tree

    return tree.run(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run `ws` and return its exit code; nothing but SystemExit of a completion request escapes."""
    given = sys.argv[1:] if arguments is None else arguments
    tolerant_output()
    try:
        code = _run(given)
        flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`ws status | head`): no message, and none at exit either.
        no_more_output()
        return FAILED
    except Exception as error:
        code = failed(error)
    flush_what_can_be()
    return code if isinstance(code, int) else 0
