"""`quality`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.quality.request import QualityRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.quality.run import QualityResult

__all__ = ["quality"]


def _run(request: QualityRequest) -> QualityResult:
    from binderclip.tasks.verbs.quality.run import run

    return run(request)


quality = VerbTask(QualityRequest, _run)
"""`binderclip quality`: which pictures are bad, by pairs of words; and how far two folders are apart."""
