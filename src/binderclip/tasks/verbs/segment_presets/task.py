"""`segment-presets`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.segment_presets.request import SegmentPresetsRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment_presets.run import PresetList

__all__ = ["segment_presets"]


def _run(request: SegmentPresetsRequest) -> PresetList:
    from binderclip.tasks.verbs.segment_presets.run import run

    return run(request)


segment_presets = VerbTask(SegmentPresetsRequest, _run)
