"""`segment --compare`: several presets side by side on one sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks.events import Saved, counted, emit, start, warn
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.segment.request import SegmentRequest
from binderclip.tasks.verbs.segment.run import segmenters

MOST = 40
COLUMNS = ("image", "preset", "largest", "share")


@dataclass(frozen=True)
class PresetComparison(VerbResult):
    """Pictures by presets.

    Attributes:
        request: what was asked.
        shares: (picture, preset -> label -> share of the picture) of each that could be read.
        skipped: (path, reason) of the others.
        sheet: the file.
        complete: whether every picture that was named one by one could be read.
    """

    request: SegmentRequest
    shares: list[tuple[Path, dict[str, dict[str, float]]]]
    skipped: list[tuple[str, str]]
    sheet: Path
    complete: bool = True

    @property
    def title(self) -> str:
        """How many pictures and presets, and the model."""
        images, presets = number_of(len(self.shares), "image"), number_of(len(self.request.presets), "preset")
        return f"{images} by {presets}, model {self.request.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """No rows: the sheet shows it."""
        return COLUMNS, []

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        return weak_on_photographs(self.request.model, [path for path, _ in self.shares])

    def conclusion(self) -> list[str]:
        """What was compared, and the sheet."""
        return [self.title, f"sheet {self.sheet}"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.request.model,
            "sheet": self.sheet,
            "images": [{"image": path, "share": share} for path, share in self.shares],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def compare_presets(request: SegmentRequest) -> PresetComparison:
    """Segment by every preset, passes shared, and draw one sheet.

    Raises:
        UsageError: an unknown preset, part or setting, or a sheet that would replace what is none of ours.
        DataError: no picture could be read, or the sheet cannot be written.
    """
    from binderclip.segment import segment_all, segmentation_sheet
    from binderclip.tasks.report.sheet import save_picture

    inputs = find_images(request.images, without=request.out)
    sheet = writable_path(request.compare or "")
    paths = inputs.paths[:MOST]
    if len(paths) < len(inputs.paths):
        warn(f"the first {MOST} of {number_of(len(inputs.paths), 'image')} are compared")
    start("loading the model")
    built = segmenters(request)
    rows, skipped, shares = [], list[tuple[str, str]](), []
    for image in counted(paths, "picture", len(paths)):
        try:
            results = segment_all(list(built.values()), image, request.labels)
        except DataError as error:
            skipped.append((str(image), str(error)))
            continue
        rows.append(dict(zip(built, results, strict=True)))
        shares.append((image, {name: each.shares() for name, each in rows[-1].items()}))
    skip_pictures(skipped, left=rows)
    save_picture(segmentation_sheet(rows), sheet)
    emit(Saved(sheet))
    return PresetComparison(request, shares, skipped, sheet, complete=not inputs.exit_code(skipped))
