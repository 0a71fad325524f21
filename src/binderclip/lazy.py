"""Rooms whose public names are imported when they are first used.

A room's `__init__.py` writes its imports as any package would, under `TYPE_CHECKING`, where mypy and editors read them,
and calls `lazy_exports` with its own name. That reads the same lines, so every name is written once:

    if TYPE_CHECKING:
        from binderclip.vision.edges import sobel

    __all__ = ["sobel"]
    lazy_exports(__name__)
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str) -> None:
    """Make the names that a package imports under `TYPE_CHECKING` its attributes, each imported at its first use.

    The package's sub-packages and modules are attributes as well. `dir()` lists the names of `__all__`.

    Args:
        package: name of the package, as it calls this at the end of its `__init__.py`.

    Raises:
        ImportError: the package's source is not at hand, or its `__all__` names what it does not import.
    """
    module = sys.modules[package]
    homes = _homes(package)
    missing = [name for name in module.__all__ if name not in homes and name not in vars(module)]
    if missing:
        raise ImportError(f"{package}.__all__ has {missing[0]!r}, which is not imported under TYPE_CHECKING")
    module.__class__ = _Lazy
    vars(module)["_homes"] = homes


class _Lazy(ModuleType):
    """A package whose names are looked up in `_homes`: name -> (module that defines it, its name there)."""

    _homes: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        package = self.__name__
        home, own_name = self._homes.get(name, (package, name)) if name != "_homes" else (package, name)
        if home != package:
            value = getattr(import_module(home), own_name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        vars(self)[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self.__all__})


def _homes(package: str) -> dict[str, tuple[str, str]]:
    """Name -> (module, name there) of every `from module import name` under `if TYPE_CHECKING:`."""
    loader: Any = getattr(sys.modules[package].__spec__, "loader", None)
    source = loader.get_source(package) if hasattr(loader, "get_source") else None
    if source is None:
        raise ImportError(f"{package} has no source here, which its list of names is read from")
    return {
        (name.asname or name.name): (statement.module, name.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for name in statement.names
    }
