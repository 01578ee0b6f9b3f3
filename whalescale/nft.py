"""nftables by its own library, inside this process: the sandbox lets no program be run.

`open_nft` works in the sandbox too: what the library reads of /etc are more names of marks. A table
with the flag `owner` belongs to the library's socket and goes with it, whatever ends this process.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import errno
import json
import os
import re
from typing import Any, Final

from whalescale.locations import exit_table

LIBRARY: Final = "libnftables.so.1"
#: <nftables/libnftables.h>
OUTPUT_JSON: Final = 1 << 4


class Nft:
    """A context of libnftables. Calls are netlink round trips, a millisecond or so."""

    def __init__(self) -> None:
        """OSError: the library is not installed, or the kernel has no nftables."""
        lib = ctypes.CDLL(LIBRARY)
        context, text = ctypes.c_void_p, ctypes.c_char_p
        for name, result, arguments in (
            ("nft_ctx_new", context, [ctypes.c_uint32]),
            ("nft_ctx_free", None, [context]),
            ("nft_ctx_buffer_output", ctypes.c_int, [context]),
            ("nft_ctx_buffer_error", ctypes.c_int, [context]),
            ("nft_ctx_get_output_buffer", text, [context]),
            ("nft_ctx_get_error_buffer", text, [context]),
            ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
            ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self._lib: Any = lib
        self._context = lib.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.EOPNOTSUPP, "nftables cannot be used here")
        lib.nft_ctx_buffer_output(self._context)
        lib.nft_ctx_buffer_error(self._context)
        lib.nft_ctx_output_set_flags(self._context, OUTPUT_JSON)

    def run(self, commands: str) -> None:
        """All of them as one change. OSError: refused, and nothing has changed."""
        if self._lib.nft_run_cmd_from_buffer(self._context, commands.encode()):
            said = self._lib.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            line = said.strip().partition("\n")[0].removeprefix("Error: ")
            raise OSError(errno.EINVAL, f"nftables: {line or os.strerror(errno.EINVAL)}")

    def rules(self, table: str) -> int | None:
        """How many rules a table (family inet) has; None: it is not there."""
        if self._lib.nft_run_cmd_from_buffer(self._context, f"list table inet {table}".encode()):
            self._lib.nft_ctx_get_error_buffer(self._context)
            return None
        said = self._lib.nft_ctx_get_output_buffer(self._context)
        return sum("rule" in entry for entry in json.loads(said)["nftables"])

    def tables(self) -> list[str]:
        """Names, of family inet."""
        if self._lib.nft_run_cmd_from_buffer(self._context, b"list tables inet"):
            self._lib.nft_ctx_get_error_buffer(self._context)
            return []
        said = json.loads(self._lib.nft_ctx_get_output_buffer(self._context))
        return [str(e["table"]["name"]) for e in said["nftables"] if "table" in e]

    def close(self) -> None:
        """Of the library and what it brings nothing stays in memory: 1.4 MB."""
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None
            handle, self._lib = self._lib._handle, None
            _ctypes.dlclose(handle)


def open_nft() -> tuple[Nft | None, str]:
    """None, and why, where there is none."""
    try:
        return Nft(), ""
    except OSError as e:
        missing = "libnftables1 is not installed (apt install nftables)"
        return None, missing if LIBRARY in str(e) else (e.strerror or str(e))


def end_exits(interface: str | None = None) -> None:
    """Take the kill switch of an interface away, of all where none is named: nobody runs who would.

    OSError: one stands and cannot be taken away.
    """
    nft, _ = open_nft()
    if nft is None:
        return
    pattern = exit_table(".+" if interface is None else re.escape(interface))
    with contextlib.closing(nft):
        for table in nft.tables():
            if re.fullmatch(pattern, table) is None:
                continue
            try:
                nft.run(f"delete table inet {table}\n")
            except OSError:
                # an agent that runs takes its own away as well
                if nft.rules(table) is not None:
                    raise
