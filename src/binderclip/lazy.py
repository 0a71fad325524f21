"""Rooms whose public names are imported when they are first used.

A room's `__init__.py` writes its imports under `TYPE_CHECKING`, where type checkers and editors read them, each `as`
its own name, by which they know that it is exported, and calls `lazy_exports` with its own name. That reads the same
lines and makes `__all__` of them, as the site does for its pages (`docs/generate/exports.py`):

    if TYPE_CHECKING:
        from binderclip.vision.edges.derivatives import sobel as sobel

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

    They become its `__all__`, in alphabetical order. The package's sub-packages and modules are attributes as well.

    Args:
        package: name of the package, as it calls this at the end of its `__init__.py`.

    Raises:
        ImportError: the package's source is not at hand, or it imports nothing under `TYPE_CHECKING`.
    """
    module = sys.modules[package]
    homes = _homes(package)
    if not homes:
        raise ImportError(f"{package} imports nothing under TYPE_CHECKING that lazy_exports could export")
    module.__class__ = _Lazy
    vars(module).update(_homes=homes, __all__=sorted(homes))


class _Lazy(ModuleType):
    """A package whose names are looked up in `_homes`: name -> (module that defines it, its name there)."""

    _homes: dict[str, tuple[str, str]]
    __all__: list[str]

    def __getattr__(self, name: str) -> Any:
        package = self.__name__
        home, own_name = self._homes.get(name, (package, name)) if name != "_homes" else (package, name)
        if home != package:
            value = getattr(import_module(home), own_name)
        # A single file, whose names are lazy as well, has no modules in it.
        elif not name.startswith("_") and "__path__" in vars(self) and find_spec(f"{package}.{name}") is not None:
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
