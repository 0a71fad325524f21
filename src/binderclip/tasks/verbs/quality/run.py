"""What `quality` does with pictures."""

from __future__ import annotations

from typing import TypeAlias

from binderclip.tasks.verbs.quality.distances import SetDistances, distances
from binderclip.tasks.verbs.quality.ranking import Ranking, ranked
from binderclip.tasks.verbs.quality.reference import ReferenceComparison, compared
from binderclip.tasks.verbs.quality.request import QualityRequest

QualityResult: TypeAlias = Ranking | SetDistances | ReferenceComparison


def run(request: QualityRequest) -> QualityResult:
    """Compare with another folder or with originals, where there are some, else rank; the errors are those of each."""
    if request.against is not None:
        return distances(request)
    return compared(request) if request.reference is not None else ranked(request)
