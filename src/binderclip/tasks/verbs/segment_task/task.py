"""`segment-task`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment_task.request import SegmentTaskRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment_task.run import TaskReport

__all__ = ["segment_task"]


def _run(request: SegmentTaskRequest) -> TaskReport:
    from binderclip.tasks.verbs.segment_task.run import run

    return run(request)


segment_task = VerbTask(SegmentTaskRequest, _run)
