"""What `segment` does: label maps by words, by one preset or by several that share the passes of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.errors import BinderclipError
from binderclip.tasks.models import image_text_model
from binderclip.tasks.together import results_or_errors
from binderclip.tasks.verbs.segment.label_maps import LabelMapReport, MapMaker, by_one, segment_pictures
from binderclip.tasks.verbs.segment.map_files import LabelMapSource
from binderclip.tasks.verbs.segment.presets import build_segmenters, chosen_parts, described
from binderclip.tasks.verbs.segment.request import SegmentRequest

if TYPE_CHECKING:
    from binderclip.segment import Parts, Segmentation, Segmenter


def run(request: SegmentRequest) -> LabelMapReport:
    """Segment and save every picture; of a folder that is gone on with only what is not done yet.

    Raises:
        UsageError: an unknown preset, part or setting, a label without descriptions, or as `segment_pictures`.
        DataError: no picture can be read, or a file cannot be written.
    """
    parts = _parts(request)
    sources = [_source(request, preset) for preset in parts]
    if len(sources) > 1:
        every = request.preset is not None and request.preset.strip() == "all"
        return segment_pictures(request, sources, partial(_together, request, parts), strict=not every)
    return segment_pictures(request, sources, by_one(lambda: _alone(request, parts)))


def _source(request: SegmentRequest, preset: str) -> LabelMapSource:
    return LabelMapSource(
        name=preset,
        labels=request.labels,
        background=bool(request.ground),
        title=f"{preset}, model {request.model}",
        model=request.model,
        described={"model": request.model, "preset": preset},
        record={
            "labels": request.labels,
            "background": request.ground,
            "preset": preset,
            "settings": request.set,
            "size": request.size,
            "model": request.model,
            "descriptions": request.descriptions,
        },
    )


def _parts(request: SegmentRequest) -> dict[str, Parts]:
    """The parts of each preset, settings checked before the model is loaded."""
    chosen = chosen_parts(request.presets, request.set)
    return chosen if request.descriptions is None else described(chosen, request.descriptions, request.labels)


def segmenters(request: SegmentRequest, parts: dict[str, Parts] | None = None) -> dict[str, Segmenter]:
    """One segmenter for each preset of the request, settings checked before the model is loaded.

    Args:
        request: what is asked.
        parts: of each preset; None for those of the request.

    Raises:
        UsageError: an unknown preset, part or setting, a label without descriptions.
    """
    parts = _parts(request) if parts is None else parts
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    return build_segmenters(parts, model, background=request.ground, size=request.size)


def _alone(request: SegmentRequest, parts: dict[str, Parts]) -> partial[Segmentation]:
    (segmenter,) = segmenters(request, parts).values()
    return partial(segmenter, labels=request.labels)


def _together(request: SegmentRequest, parts: dict[str, Parts], names: Sequence[str]) -> MapMaker:
    """Presets that share the tower's passes; one that does not fit the model, or fails, costs its own maps alone."""
    from binderclip.data import open_image
    from binderclip.segment import iter_segmentations

    built, unfit = dict[str, "Segmenter"](), dict[str, BinderclipError]()
    # Loaded before the first preset: that it cannot be is no fault of theirs.
    image_text_model(request.model, device=request.device, dtype=request.dtype)
    for name in names:
        try:
            built |= segmenters(request, {name: parts[name]})
        except BinderclipError as error:
            unfit[name] = error

    def maps(path: Path, due: Sequence[str]) -> Iterator[tuple[str, Segmentation | BinderclipError]]:
        picture = open_image(path)
        yield from ((name, unfit[name]) for name in due if name in unfit)
        mine = {name: built[name] for name in due if name in built}
        if mine:
            order = list(mine)
            together = iter_segmentations(list(mine.values()), picture, request.labels)
            alone = {name: partial(each, picture, request.labels) for name, each in mine.items()}
            yield from results_or_errors(((order[place], result) for place, result in together), alone)

    return maps
