"""`segment`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment.request import SegmentRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment.comparison import PresetComparison
    from binderclip.tasks.verbs.segment.label_maps import LabelMapReport

__all__ = ["segment"]


def _run(request: SegmentRequest) -> LabelMapReport | PresetComparison:
    if request.compare is not None:
        from binderclip.tasks.verbs.segment.comparison import compare_presets

        return compare_presets(request)
    from binderclip.tasks.verbs.segment.run import run

    return run(request)


segment = VerbTask(SegmentRequest, _run)
