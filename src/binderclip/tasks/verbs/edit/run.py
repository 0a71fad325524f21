"""What `edit` does: each picture through a method, both sizes of what comes of it, a sheet and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from binderclip.data import to_tensor
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.generate import changed_share, detail_ratio, moved_edges
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, emit, start, warn
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.sampling import (
    COARSE,
    JUDGES,
    ModelPicture,
    agreement,
    counted_forwards,
    model_picture,
    opened_denoiser,
    picture_of,
    save_pictures,
)
from binderclip.tasks.verbs.edit.methods import EDITORS, PictureToEdit
from binderclip.tasks.verbs.edit.request import EditRequest
from binderclip.tasks.verbs.edit.result import COLUMNS, SHEET, TABLE, EditedPicture, EditedPictures

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from binderclip.generate import LatentDenoiser

ENDINGS = ("", "-small")
"""Of the edit's file at the picture's size, and at the model's side."""
PAIRS, SHOWN = 30, 256
"""Of the sheet, and pixels of each of its pictures."""
MOVED = 0.08
"""Share of the edges up to which the picture keeps its detail: chosen on 119 edits, some 60 of them looked at."""


@dataclass(frozen=True)
class BeforeAfter:
    """A picture before and after.

    Attributes:
        small, small_edit: at the model's side, which are judged.
        shown, shown_edit: on the sheet; the edit at the picture's size where there is one.
    """

    small: Image.Image
    small_edit: Image.Image
    shown: Image.Image
    shown_edit: Image.Image


def run(request: EditRequest) -> EditedPictures:
    """Edit every picture, write each as it is made, then a sheet of before and after and a table.

    Raises:
        UsageError: no such denoiser, a word that a text does not have, or a result that would replace a picture or what
            is none of ours.
        CheckpointError: a denoiser's folder that lacks weights or has damaged ones.
        NotSupported: one of another layout.
        DataError: no picture can be read, or an edit whose numbers are not finite.
        OutputError: a file cannot be written.
    """
    resolve_device(request.device)
    folder = output_folder(request.out, make=False)
    inputs = find_images(request.images, without=request.out)
    names = output_names(inputs.paths, endings=ENDINGS, taken=[Path(SHEET).stem])
    files = [[folder / f"{name}{ending}.png" for ending in ENDINGS] for name in names]
    writable_paths([*(file for pair in files for file in pair), folder / SHEET], sources=inputs.paths)
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    denoiser = opened_denoiser(request.model, request.device)
    for pair in (request.words, request.places):
        for text, word in zip((request.source, request.target), pair, strict=True):
            if word:
                denoiser.text.positions(
                    text, word
                )  # refuses a word that the text lacks, or that is beyond what is read
    rows, skipped, pairs = list[EditedPicture](), list[tuple[str, str]](), list[BeforeAfter]()
    model = Path(request.model).name or request.model
    try:
        for number, (path, places) in enumerate(zip(inputs.paths, files, strict=True), 1):
            try:
                taken = model_picture(path, denoiser.side)
            except DataError as error:
                skipped.append((str(path), str(error)))
                continue
            if len(inputs.paths) > 1:
                start(f"picture {number} of {len(inputs.paths)}: {path.name}")
            output_folder(folder)
            row, edited = _edited(request, denoiser, taken, path, places)
            rows.append(row)
            pairs.append(edited)
    except KeyboardInterrupt:
        if rows:
            so_far = EditedPictures(request, model, denoiser.side, rows, skipped, complete=False)
            _write_sheet(so_far, pairs)
            write_csv(*so_far.table(), folder / TABLE)
            warn(f"interrupted: {number_of(len(rows), 'picture')} done, in {short_path(folder)}")
        raise
    skip_pictures(skipped, left=rows)
    judged = _judged(request, rows, pairs)
    result = EditedPictures(request, model, denoiser.side, judged, skipped, not inputs.exit_code(skipped))
    _write_sheet(result, pairs)
    emit(Saved(result.sheet))
    write_csv(*result.table(), folder / TABLE)
    emit(Saved(folder / TABLE))
    return result


def _judged(request: EditRequest, rows: Sequence[EditedPicture], pairs: Sequence[BeforeAfter]) -> list[EditedPicture]:
    """The same with the agreement of both judges before and after."""
    start("comparing the pictures with the text")
    pictures = [picture for pair in pairs for picture in (pair.small, pair.small_edit)]
    scores = agreement(pictures, [request.target] * len(pictures), device=request.device)
    judged = []
    for k, row in enumerate(rows):
        before, after = ({judge: scores[judge][2 * k + late] for judge in JUDGES} for late in (0, 1))
        judged.append(replace(row, before=before, after=after))
    return judged


def _edited(
    request: EditRequest, denoiser: LatentDenoiser, taken: ModelPicture, path: Path, places: Sequence[Path]
) -> tuple[EditedPicture, BeforeAfter]:
    """Edit one picture and write both sizes; what became of it, not judged yet."""
    pixels = taken.pixels.to(request.device)
    with torch.no_grad():
        latents = denoiser.encode(pixels)
        plain = denoiser.decode(latents)
        with counted_forwards(denoiser) as count:
            edit, returned = EDITORS[request.method](PictureToEdit(request, denoiser, pixels, latents))
        if not bool(edit.isfinite().all()):
            raise DataError(f"the edit is not finite: lower --guidance {request.guidance:g}")
        after = denoiser.decode(edit)
        before = plain if returned is None else denoiser.decode(returned)
    large, small = places
    edited = picture_of(after[0])
    save_pictures([edited], [small])
    moved = float(moved_edges(before, after))
    shown, detail = edited, None
    if whole := _at_its_size(request, taken, before, after, moved):
        save_pictures([whole], [large])
        shown = whole.crop(taken.box)
        ratio = float(detail_ratio(taken.square, to_tensor(shown)[None], changed_share(before, after).cpu()))
        detail = ratio if math.isfinite(ratio) else None
    else:
        large.unlink(missing_ok=True)  # of an earlier run, which may be replaced
    row = EditedPicture(
        str(path), taken.in_words(), request.seed, large if whole else None, small, moved, detail, _rms(plain, pixels),
        None if returned is None else _rms(before, plain), {}, {}, count.calls,
    )  # fmt: skip
    return row, BeforeAfter(
        picture_of(taken.pixels[0]), edited, _reduced(taken.original.crop(taken.box)), _reduced(shown)
    )


def _at_its_size(
    request: EditRequest, taken: ModelPicture, before: Tensor, after: Tensor, moved: float
) -> Image.Image | None:
    """The edit at the picture's size: with the picture's detail where that fits, blown up, or not at all."""
    if taken.scale >= COARSE and moved <= MOVED:
        return taken.recoloured(after, before)
    if taken.scale < COARSE or request.coarse:
        return taken.restored(after, before)
    return None


def _reduced(picture: Image.Image) -> Image.Image:
    """As large as the sheet shows it."""
    picture.thumbnail((SHOWN, SHOWN))
    return picture


def _rms(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def _write_sheet(result: EditedPictures, pairs: Sequence[BeforeAfter]) -> None:
    """Pictures before and after, with the agreement that the second judge gives to each."""
    entries = []
    for pair, row in zip(pairs[:PAIRS], result.rows, strict=False):
        figures = [f"{values[JUDGES[-1]]:.2f}" if values else "" for values in (row.before, row.after)]
        names = Path(row.image).name, "" if row.result else f"at {result.side} px"
        entries += [(pair.shown, names[0], f"before {figures[0]}"), (pair.shown_edit, names[1], f"after {figures[1]}")]
    contact_sheet(entries, result.sheet, title=result.title, columns=4 if len(pairs) > 1 else 2, most=2 * PAIRS)
