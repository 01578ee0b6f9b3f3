"""pyroute2 without its `__init__`, which imports two hundred modules of which an agent uses half.

Nothing else about it changes: what the package itself is asked for, it imports then. One of its
parts imports ssl, 4 MB, for a check of servers that nobody here asks for: that comes when used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any, Final

NAME: Final = "pyroute2"


def prepare() -> None:
    """From now on `import pyroute2.iproute` runs that module and what it needs, a third of all."""
    if _lazily(NAME, parts=True):
        _lazily("ssl")


def _lazily(name: str, *, parts: bool = False) -> bool:
    """It is executed when something of it is looked at, and not before. (importlib's LazyLoader
    of Python 3.11 does that at the next `import` already.) `parts`: not for a module in it either.
    False: it is here already, or not to be had, and whoever imports it is told so."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return False
    loader, module = spec.loader, importlib.util.module_from_spec(spec)

    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if parts and importlib.util.find_spec(f"{name}.{attribute}") is not None:
            return importlib.import_module(f"{name}.{attribute}")
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = missing
    sys.modules[name] = module
    return True
