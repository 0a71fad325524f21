"""`segment-evaluate`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment_evaluate.request import SegmentEvaluateRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment_evaluate.run import PresetMeasures

__all__ = ["segment_evaluate"]


def _run(request: SegmentEvaluateRequest) -> PresetMeasures:
    from binderclip.tasks.verbs.segment_evaluate.run import run

    return run(request)


segment_evaluate = VerbTask(SegmentEvaluateRequest, _run)
