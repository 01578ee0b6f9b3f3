"""How the compiled data plane is hardened, read from its ELF file (elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from whalescale.dataplane import _lib

PT_LOAD, PT_DYNAMIC, PT_GNU_STACK, PT_GNU_RELRO = 1, 2, 0x6474E551, 0x6474E552
DT_STRTAB, DT_STRSZ, DT_TEXTREL, DT_FLAGS, DT_FLAGS_1 = 5, 10, 22, 30, 0x6FFFFFFB
DF_BIND_NOW, DF_1_NOW = 0x8, 0x1
PF_X, PF_W = 1, 2


class Elf:
    """Of a 64-bit little-endian shared object."""

    def __init__(self, data: bytes) -> None:
        assert data[:6] == b"\x7fELF\x02\x01"
        self.data = data
        offset, size, count = struct.unpack_from("<Q14xHH", data, 32)
        #: (type, flags, offset, address, bytes in the file)
        self.segments = [
            struct.unpack_from("<IIQQ8xQ", data, offset + i * size) for i in range(count)
        ]
        self.dynamic = dict(self._dynamic())

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        _, _, offset, _, size = next(s for s in self.segments if s[0] == PT_DYNAMIC)
        for at in range(offset, offset + size, 16):
            tag, value = struct.unpack_from("<QQ", self.data, at)
            if not tag:
                return
            yield tag, value

    def names(self) -> set[bytes]:
        """Of the dynamic string table: symbols among them."""
        address, size = self.dynamic[DT_STRTAB], self.dynamic[DT_STRSZ]
        at = next(
            offset + address - start
            for kind, _, offset, start, length in self.segments
            if kind == PT_LOAD and start <= address < start + length
        )
        return set(self.data[at : at + size].split(b"\0"))


@pytest.fixture(scope="module")
def elf() -> Elf:
    data = Path(_lib.__file__).read_bytes()
    if b"__asan_init" in data:
        pytest.skip("built with sanitizers, without the hardening of a release")
    return Elf(data)


def test_relocations_are_made_at_start_and_then_read_only(elf: Elf) -> None:
    assert elf.dynamic.get(DT_FLAGS, 0) & DF_BIND_NOW or elf.dynamic.get(DT_FLAGS_1, 0) & DF_1_NOW
    assert any(kind == PT_GNU_RELRO for kind, *_ in elf.segments)
    assert DT_TEXTREL not in elf.dynamic


def test_no_memory_is_both_written_and_run(elf: Elf) -> None:
    stack = [flags for kind, flags, *_ in elf.segments if kind == PT_GNU_STACK]
    assert stack
    assert not any(flags & PF_X for flags in stack)
    loaded = [flags for kind, flags, *_ in elf.segments if kind == PT_LOAD]
    assert not any(flags & PF_X and flags & PF_W for flags in loaded)


def test_overflows_are_found(elf: Elf) -> None:
    names = elf.names()
    assert b"__stack_chk_fail" in names
    assert {n for n in names if n.startswith(b"__") and n.endswith(b"_chk")}
