"""What the verifier has to follow of each program: it does so at every start of an agent.

Ways through a program multiply where one branch comes behind another, so a small change may cost
each start a second.
"""

from __future__ import annotations

import ctypes
import os
import re

import pytest

from tools.peers import ROOT

pytestmark = pytest.mark.netns

FOLDER = ROOT / "whalescale/dataplane/bpf"
#: 20,000 are some 0.05 s
INSTRUCTIONS_MAX = 20_000
STATISTICS = 4
LOG_BYTES = 1 << 16


class Libbpf:
    """The few functions of libbpf that tell of a program's verification."""

    def __init__(self) -> None:
        lib = ctypes.CDLL("libbpf.so.1")
        pointer, number = ctypes.c_void_p, ctypes.c_uint
        self.lib = lib
        lib.bpf_object__open_file.restype = pointer
        lib.bpf_object__open_file.argtypes = [ctypes.c_char_p, pointer]
        lib.bpf_object__load.argtypes = [pointer]
        lib.bpf_object__close.argtypes = [pointer]
        lib.bpf_object__next_program.restype = pointer
        lib.bpf_object__next_program.argtypes = [pointer, pointer]
        lib.bpf_program__name.restype = ctypes.c_char_p
        lib.bpf_program__name.argtypes = [pointer]
        lib.bpf_program__set_log_level.argtypes = [pointer, number]
        lib.bpf_program__set_log_buf.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t]

    def followed(self, path: str) -> dict[str, int]:
        """Instructions that the verifier went through, by program. Loads them, for a moment."""
        whole = self.lib.bpf_object__open_file(path.encode(), None)
        assert whole, path
        logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        program = None
        while program := self.lib.bpf_object__next_program(whole, program):
            log = ctypes.create_string_buffer(LOG_BYTES)
            logs[self.lib.bpf_program__name(program).decode()] = log
            self.lib.bpf_program__set_log_level(program, STATISTICS)
            self.lib.bpf_program__set_log_buf(program, log, LOG_BYTES)
        loaded = self.lib.bpf_object__load(whole)
        self.lib.bpf_object__close(whole)
        assert loaded == 0, [log.value for log in logs.values()]
        found = {
            name: re.search(rb"processed (\d+) insns", log.value) for name, log in logs.items()
        }
        return {name: int(match[1]) for name, match in found.items() if match}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: loads programs")
def test_a_start_is_not_spent_on_verification() -> None:
    libbpf = Libbpf()
    followed: dict[str, int] = {}
    for path in sorted(FOLDER.glob("*.bpf.o")):
        followed |= libbpf.followed(str(path))
    assert {"shield_tc", "shield_xdp", "relay_tc", "steer"} <= set(followed)
    assert {name: n for name, n in followed.items() if n > INSTRUCTIONS_MAX} == {}
