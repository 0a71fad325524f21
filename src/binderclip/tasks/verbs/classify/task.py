"""`classify`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.classify.request import ClassifyRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.classify.run import Classified

__all__ = ["classify"]


def _run(request: ClassifyRequest) -> Classified:
    from binderclip.tasks.verbs.classify.run import run

    return run(request)


classify = VerbTask(ClassifyRequest, _run)
"""`binderclip classify`: which label fits each image."""
