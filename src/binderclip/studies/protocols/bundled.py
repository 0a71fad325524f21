"""The bundled models that studies share, each loaded once in a process."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["bundled"]


@cache
def bundled(name: str = "small") -> Any:
    """A bundled model, loaded once.

    Args:
        name: as `load` takes it.
    """
    from binderclip.models import load

    return load(name)
