"""`geometry`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.geometry.request import GeometryRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.geometry.result import Geometry

__all__ = ["geometry"]


def _run(request: GeometryRequest) -> Geometry:
    from binderclip.tasks.verbs.geometry.run import run

    return run(request)


geometry = VerbTask(GeometryRequest, _run)
"""`binderclip geometry`: where a model's pictures and texts lie in its space."""
