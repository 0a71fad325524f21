"""`segment-head`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment_head.request import SegmentHeadRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment.label_maps import LabelMapReport

__all__ = ["segment_head"]


def _run(request: SegmentHeadRequest) -> LabelMapReport:
    from binderclip.tasks.verbs.segment_head.run import run

    return run(request)


segment_head = VerbTask(SegmentHeadRequest, _run)
