"""`ws` under a kernel that refuses some system calls (seccomp, this process alone).

python refusing.py '[[NUMBER, ARGUMENT, VALUE, ERRNO], ...]' WORD...
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
#: struct seccomp_data: int nr; u32 arch; u64 instruction_pointer, args[6]
NUMBER, ARGUMENTS = 0, 16


class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse(rules: list[tuple[int, int, int, int]]) -> None:
    code: list[tuple[int, int, int, int]] = []
    for number, argument, value, error in rules:
        code += [
            (LOAD_WORD, 0, 0, NUMBER),
            (JUMP_EQUAL, 0, 3, number),
            (LOAD_WORD, 0, 0, ARGUMENTS + 8 * argument),
            (JUMP_EQUAL, 0, 1, value),
            (RETURN, 0, 0, RET_ERRNO | error),
        ]
    code.append((RETURN, 0, 0, RET_ALLOW))
    raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = Program(len(code), ctypes.addressof(raw))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    refuse([tuple(rule) for rule in json.loads(sys.argv[1])])
    from whalescale.cli.main import main

    sys.exit(main(sys.argv[2:]))
