"""pyroute2 without its `__init__`, which imports two hundred modules of which an agent uses half.

Nothing else about it changes: what the package itself is asked for, it imports then. Its parts
import ssl (4 MB), multiprocessing and unittest (2 MB) for what nobody here asks for: servers, other
processes, tests. Those come when they are used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

NAME: Final = "pyroute2"


def prepare() -> None:
    """Import `pyroute2.iproute` and what it needs, a third of all."""
    if _lazily(NAME, parts=True):
        _lazily("ssl")
        with _stand_ins():
            importlib.import_module(f"{NAME}.iproute")


def later(name: str) -> ModuleType:
    """The module, which is executed when something of it is looked at. ImportError: none such."""
    _lazily(name)
    return importlib.import_module(name)


class _Later:
    """In the place of a function or class: the real one, once it is called."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(self._module), self._name)(*args, **named)


class _Mock:
    """In the place of a unittest.mock.Mock, which becomes one when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("unittest.mock").Mock(), name)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """For modules of which names are looked up while pyroute2 is imported, and not used then."""
    stands = {name: ModuleType(name) for name in ("multiprocessing", "unittest")}
    for name in ("Pipe", "Process", "Queue"):
        setattr(stands["multiprocessing"], name, _Later("multiprocessing", name))
    mock = ModuleType("unittest.mock")
    vars(mock)["Mock"] = _Mock
    vars(stands["unittest"])["mock"] = mock
    put = [name for name in stands if name not in sys.modules]
    sys.modules |= {name: stands[name] for name in put}
    try:
        yield
    finally:
        for name in put:
            del sys.modules[name]


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
