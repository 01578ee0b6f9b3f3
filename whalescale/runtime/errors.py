"""An error that a user can mend: what is wrong, what would put it right, the exit code."""

from __future__ import annotations

from typing import Final

EXIT_FAILED: Final = 1
EXIT_PERMISSION: Final = 4


class AgentError(Exception):
    """Shown as two short lines, never as a traceback."""

    def __init__(self, message: str, fix: str = "", exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.exit_code = exit_code
