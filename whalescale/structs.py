"""msgspec without `typing_extensions`: 10 ms and 1.4 MB of every process that checks what it reads.

Nothing here is annotated with what only that has.
"""

from __future__ import annotations

from whalescale.lean import without

with without("typing_extensions"):
    import msgspec

from msgspec import Meta, Struct

__all__ = ["Meta", "Struct", "msgspec"]
