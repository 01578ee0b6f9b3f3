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
    if NAME in sys.modules:
        return
    spec = importlib.util.find_spec(NAME)
    if spec is None or spec.loader is None:
        return  # whoever imports it is told what is missing
    _lazily("ssl")
    loader, module = spec.loader, importlib.util.module_from_spec(spec)

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if importlib.util.find_spec(f"{NAME}.{name}") is not None:
            return importlib.import_module(f"{NAME}.{name}")
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = missing
    sys.modules[NAME] = module


def _lazily(name: str) -> None:
    """It is executed when something of it is looked at, and not before. (importlib's LazyLoader
    of Python 3.11 does that at the next `import` already.)"""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader, module = spec.loader, importlib.util.module_from_spec(spec)

    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = missing
    sys.modules[name] = module
