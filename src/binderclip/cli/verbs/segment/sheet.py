"""`binderclip segment --compare`: several presets side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from binderclip.cli.shared.output import note, print_json, warn_skipped
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.inputs import ImageArguments
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.segment.presets import SegmentRequest, build_segmenters

MOST = 40


def compare_presets(request: SegmentRequest, found: ImageArguments, names: Sequence[str], out: str) -> int:
    """Segment by every preset, passes shared, and draw one sheet; the exit code.

    Raises:
        UsageError: a sheet that is no PNG.
        DataError: no picture could be read, or the sheet cannot be written.
    """
    from binderclip.segment import segment_all, segmentation_sheet
    from binderclip.tasks.report.sheet import save_picture

    path = writable_path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--compare {path}: the sheet is a PNG")
    paths = found.paths[:MOST]
    if len(paths) < len(found.paths):
        note(f"the first {MOST} of {number_of(len(found.paths), 'image')} are compared")
    segmenters = build_segmenters(request, names)
    rows, skipped, shares = [], [], []
    for image in paths:
        try:
            results = segment_all(list(segmenters.values()), image, list(names))
        except DataError as error:
            skipped.append((str(image), str(error)))
            continue
        rows.append(dict(zip(segmenters, results, strict=True)))
        shares.append({"image": image, "share": {name: each.shares() for name, each in rows[-1].items()}})
    if not rows:
        raise DataError(
            f"of {number_of(len(paths), 'picture')} none could be segmented: {skipped[0][0]}: {skipped[0][1]}"
        )
    save_picture(segmentation_sheet(rows), path)
    if request.json:
        left_out = [{"image": key, "reason": reason} for key, reason in skipped]
        print_json({"model": request.model, "sheet": path, "images": shares, "skipped": left_out})
    else:
        typer.echo(
            f"{number_of(len(rows), 'image')} by {number_of(len(segmenters), 'preset')}, model {request.model}\n"
            f"sheet {path}"
        )
        note_weak_on_photographs(request.model, paths)
    warn_skipped(skipped)
    return found.exit_code(skipped)
