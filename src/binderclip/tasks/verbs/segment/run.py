"""What `segment` does: label maps by words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.segment.label_maps import LabelMapReport, LabelMapSource, segment_pictures
from binderclip.tasks.verbs.segment.presets import build_segmenters, chosen_parts, described
from binderclip.tasks.verbs.segment.request import SegmentRequest

if TYPE_CHECKING:
    from binderclip.segment import Segmenter


def run(request: SegmentRequest) -> LabelMapReport:
    """Segment and save every picture; of a folder that is gone on with only what is not done yet.

    Raises:
        UsageError: an unknown preset, part or setting, or as `segment_pictures`.
        DataError: no picture can be read, or a file cannot be written.
    """
    (preset,) = request.presets
    record = {
        "labels": request.labels,
        "background": request.ground,
        "preset": preset,
        "settings": request.set,
        "size": request.size,
        "model": request.model,
        "descriptions": request.descriptions,
    }
    source = LabelMapSource(
        labels=request.labels,
        background=bool(request.ground),
        title=f"{preset}, model {request.model}",
        model=request.model,
        described={"model": request.model, "preset": preset},
        record=record,
        build=lambda: _segmenter(request),
    )
    return segment_pictures(request, source)


def _segmenter(request: SegmentRequest) -> Segmenter:
    (segmenter,) = segmenters(request).values()
    return segmenter


def segmenters(request: SegmentRequest) -> dict[str, Segmenter]:
    """One segmenter for each preset of the request, settings checked before the model is loaded.

    Raises:
        UsageError: an unknown preset, part or setting, a label without descriptions.
    """
    chosen = chosen_parts(request.presets, request.set)
    if request.descriptions is not None:
        chosen = described(chosen, request.descriptions, request.labels)
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    return build_segmenters(chosen, model, background=request.ground, size=request.size)
