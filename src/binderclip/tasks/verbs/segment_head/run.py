"""What `segment-head` does: label maps by a head that was trained and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.errors import UsageError
from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.segment.label_maps import LabelMapReport, by_one, segment_pictures
from binderclip.tasks.verbs.segment.map_files import LabelMapSource
from binderclip.tasks.verbs.segment_head.request import SegmentHeadRequest

if TYPE_CHECKING:
    from binderclip.segment import Segmentation


def run(request: SegmentHeadRequest) -> LabelMapReport:
    """Segment and save every picture.

    Raises:
        UsageError: a label that the head was not trained for, or none where it takes any.
        CheckpointError: another kind of folder, or damaged weights.
        DataError: no picture can be read, or a file cannot be written.
    """
    from binderclip.models.files.folders import CONFIG

    labels, described = _labels(request), {"head": request.head}
    # With its time, as the folder may be trained anew.
    stamp = (Path(request.head) / CONFIG).stat().st_mtime_ns
    source = LabelMapSource(
        name="head",
        labels=labels,
        background=False,
        title=f"head {request.head}",
        model=request.model,
        described=described,
        record={"labels": labels, **described, "head_file": stamp},
    )
    return segment_pictures(request, [source], by_one(lambda: _built(request, labels)))


def _labels(request: SegmentHeadRequest) -> list[str]:
    """Those given, else the classes the head was trained for."""
    from binderclip.models.files.folders import folder_config

    if request.labels is not None:
        return request.labels
    classes = folder_config(request.head).get("classes")
    if not isinstance(classes, list):
        raise UsageError(f"--head {request.head} takes any labels: give --labels, such as --labels car,tree")
    return [str(name) for name in classes]


def _built(request: SegmentHeadRequest, labels: list[str]) -> Callable[[Path], Segmentation]:
    """The head, opened."""
    from binderclip.models.files.folders import folder_config
    from binderclip.segment import open_head

    own = folder_config(request.head).get("model", request.model)
    # --model says no other than its default: the head's own.
    name = own if request.model == "small" else request.model
    head = open_head(request.head, image_text_model(name, device=request.device))
    return lambda path: head.segment(path, labels)
