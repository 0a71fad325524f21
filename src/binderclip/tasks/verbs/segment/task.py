"""What `segment` does of what it can do: each way is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.verbs.functions import segment as segment

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment.comparison import PresetComparison
    from binderclip.tasks.verbs.segment.label_maps import LabelMapReport
    from binderclip.tasks.verbs.segment.request import SegmentRequest


def run(request: SegmentRequest) -> LabelMapReport | PresetComparison:
    if request.compare is not None:
        from binderclip.tasks.verbs.segment.comparison import compare_presets

        return compare_presets(request)
    from binderclip.tasks.verbs.segment.run import run

    return run(request)
