"""What rich prints, as text."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def picture_of(what: RenderableType, width: int, height: int, color: bool = False) -> str:
    out = io.StringIO()
    Console(
        file=out,
        width=width,
        height=height,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
    ).print(what)
    return out.getvalue()
