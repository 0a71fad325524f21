"""What `segment-example` does: what a picture shows with its mask, found in others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.boxes import mask_values
from binderclip.tasks.files.inputs import file_stamp, one_image
from binderclip.tasks.verbs.segment.label_maps import LabelMapReport, by_one, segment_pictures
from binderclip.tasks.verbs.segment.map_files import LabelMapSource
from binderclip.tasks.verbs.segment_example.request import UNTRAINED, SegmentExampleRequest

if TYPE_CHECKING:
    import numpy as np

    from binderclip.segment import FewShotSegmenter, Segmentation


def run(request: SegmentExampleRequest) -> LabelMapReport:
    """Find the thing in every picture, and save the maps.

    Raises:
        UsageError: a file that is not there, a head that is unknown or stands on another model.
        DataError: an example that cannot be read, a mask of another size, without a pixel or without the value.
    """
    masks = [_mask(request, place) for place in range(len(request.mask))]
    count, untrained = len(request.example), request.head in UNTRAINED
    described = {"examples": request.example, "masks": request.mask, "head": request.head}
    if untrained:
        described["model"] = request.model
    # With the files' times, as a mask may be drawn anew.
    stamps = [file_stamp(Path(each)) for each in (*request.example, *request.mask)]
    source = LabelMapSource(
        name="example",
        labels=[request.label],
        background=True,
        title=f"{count} example{'s' * (count > 1)}, head {request.head}{f', model {request.model}' * untrained}",
        model=request.model,
        described=described,
        record={
            "labels": [request.label], **described, "mask_value": request.mask_value, "example_files": stamps,
        },
    )  # fmt: skip
    return segment_pictures(request, [source], by_one(lambda: _built(request, masks)))


def _mask(request: SegmentExampleRequest, place: int) -> np.ndarray:
    """The pixels of one example's thing, (H, W) of bool."""
    from binderclip.data import open_image

    picture, path = one_image(request.example[place]), one_image(request.mask[place])
    values, indexed = mask_values(path)
    width, height = open_image(picture).size
    if values.shape != (height, width):
        raise DataError(
            f"--mask {path} is {values.shape[1]} x {values.shape[0]} pixels, its --example {picture} {width} x "
            f"{height}: one pixel of the mask for each of the picture"
        )
    return chosen_pixels(values, request.mask_value, indexed, path)


def _built(request: SegmentExampleRequest, masks: list[np.ndarray]) -> Callable[[Path], Segmentation]:
    """A segmenter that knows the examples."""
    segmenter = _segmenter(request)
    known = segmenter.examples([one_image(each) for each in request.example], masks)
    return lambda path: segmenter(path, known, label=request.label)


def _segmenter(request: SegmentExampleRequest) -> FewShotSegmenter:
    from binderclip.segment import FewShotSegmenter, PriorMask, PrototypeMatch, load_few_shot
    from binderclip.segment.few_shot.saving import open_backbone

    if request.head in UNTRAINED:
        backbone = open_backbone(request.model, device=request.device)
        return FewShotSegmenter(backbone, PriorMask() if request.head == "prior" else PrototypeMatch())
    segmenter = load_few_shot(request.head, device=request.device)
    # --model says no other than its default: the head's own.
    if request.model not in ("small", segmenter.backbone.name):
        raise UsageError(
            f"--head {request.head} was trained on {segmenter.backbone.name}: leave out --model, or take --head "
            f"{' or '.join(UNTRAINED)}"
        )
    return segmenter


def chosen_pixels(values: np.ndarray, value: int | None, indexed: bool, path: Path) -> np.ndarray:
    """Pixels of the target in a mask: those of one number, else what is bright where white occurs, else what is not 0.

    Args:
        values: (H, W) numbers of the file.
        value: of --mask-value, or None.
        indexed: whether they are indices of a palette.
        path: for the errors.

    Raises:
        DataError: none of the value, an empty mask, or several classes and no value.
    """
    import numpy as np

    there = [int(each) for each in np.unique(values) if each not in (0, 255)]
    if value is not None:
        if not (values == value).any():
            raise DataError(
                f"--mask {path} has no pixel of the value {value}; it has "
                f"{', '.join(map(str, np.unique(values)[:20].tolist()))}"
            )
        return values == value
    if indexed and len(there) > 1:
        raise DataError(f"--mask {path} is a label map of {', '.join(map(str, there[:20]))}: say which by --mask-value")
    if indexed and there:
        return values == there[0]  # beside one class, 255 is what VOC leaves out
    target = values >= 128 if values.max(initial=0) == 255 else values != 0
    if not target.any():
        raise DataError(f"--mask {path} is empty, every pixel is 0: mark the pixels of what is to be found")
    return target
