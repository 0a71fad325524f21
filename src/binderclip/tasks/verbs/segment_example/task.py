"""`segment-example`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment_example.request import SegmentExampleRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment.label_maps import LabelMapReport

__all__ = ["segment_example"]


def _run(request: SegmentExampleRequest) -> LabelMapReport:
    from binderclip.tasks.verbs.segment_example.run import run

    return run(request)


segment_example = VerbTask(SegmentExampleRequest, _run)
