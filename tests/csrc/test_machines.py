"""Machines that this is not for are refused when it is built, with a word that says why."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
INCLUDES = ("-iquote", str(ROOT / "csrc"), "-iquote", str(ROOT))


def compiled(header: str, *words: str) -> str:
    command = ("cc", "-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", "-w", *INCLUDES, *words)
    done = subprocess.run(
        (*command, "-include", header, "-x", "c", "/dev/null"),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def test_big_endian_is_refused() -> None:
    assert compiled("shared/wire.h") == ""
    said = compiled("shared/wire.h", "-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__")
    assert "Whalescale is for little-endian machines" in said


def test_the_structures_are_laid_out_as_on_every_64_bit_machine() -> None:
    assert compiled("csrc/whalescale.h") == ""
    said = compiled("csrc/whalescale.h", "-Dlong=int")
    assert "Whalescale is for 64-bit Linux" in said


def test_every_structure_that_others_read_has_its_size_asserted() -> None:
    """Python reads those of api/, eBPF programs those of shared/, on each machine alike."""
    asserted = "".join(
        (ROOT / name).read_text()
        for name in ("csrc/whalescale.h", "shared/maps.h", "shared/ladder.h")
    )
    found = set()
    for path in [*(ROOT / "csrc/api").glob("*.h"), *(ROOT / "shared").glob("*.h")]:
        found |= set(re.findall(r"^struct (\w+) \{", path.read_text(), re.M))
    assert len(found) > 20
    for name in found:
        assert re.search(rf"(WS_IS_BYTES\(|sizeof\(struct ){name}(,|\) ==)", asserted), name


def test_a_structure_of_another_size_is_refused() -> None:
    assert compiled("csrc/whalescale.h", "-Duint16_t=uint32_t") != ""
    assert compiled("shared/maps.h", "-include", "linux/types.h") == ""
