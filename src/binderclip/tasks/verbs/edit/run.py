"""What `edit` does: each picture through a method, both sizes of what comes of it, a sheet and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, emit, skip, start
from binderclip.tasks.files.inputs import find_images, output_names
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.sampling import (
    JUDGES,
    agreement,
    counted_forwards,
    model_picture,
    opened_denoiser,
    picture_of,
    save_pictures,
    say_how_coarse,
)
from binderclip.tasks.verbs.edit.methods import EDITORS, PictureToEdit
from binderclip.tasks.verbs.edit.request import EditRequest
from binderclip.tasks.verbs.edit.result import COLUMNS, SHEET, TABLE, EditedPicture, EditedPictures

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.generate import LatentDenoiser

ENDINGS = ("", "-small")
"""Of the edit's file at the picture's size, and at the model's side."""
PAIRS = 30
"""Of the sheet."""


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
    rows, skipped, pairs = [], list[tuple[str, str]](), []
    for number, (path, places) in enumerate(zip(inputs.paths, files, strict=True), 1):
        try:
            taken = model_picture(path, denoiser.side)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        if len(inputs.paths) > 1:
            start(f"picture {number} of {len(inputs.paths)}: {path.name}")
        say_how_coarse(taken.box[2] - taken.box[0], denoiser.side, path.name)
        output_folder(folder)
        row, plain, edit = _edited(request, denoiser, taken.pixels.to(request.device))
        save_pictures([taken.restored(edit, plain), picture_of(edit[0])], places)
        pairs.append((picture_of(taken.pixels[0]), picture_of(edit[0])))
        rows.append((str(path), taken.in_words(), places, row))
    skip(skipped)
    if not rows:
        raise DataError(f"nothing was edited: of {number_of(len(inputs.paths), 'picture')} none could be read")
    edited = _judged(request, rows, pairs)
    result = EditedPictures(
        request, Path(request.model).name or request.model, denoiser.side, edited, skipped,
        not inputs.exit_code(skipped),
    )  # fmt: skip
    _sheet(result, pairs)
    write_csv(*result.table(), folder / TABLE)
    emit(Saved(folder / TABLE))
    return result


def _judged(
    request: EditRequest, rows: Sequence[tuple[Any, ...]], pairs: Sequence[tuple[Any, Any]]
) -> list[EditedPicture]:
    """What was made of each picture, with the agreement of both judges before and after."""
    start("comparing the pictures with the text")
    shown = [picture for pair in pairs for picture in pair]
    scores = agreement(shown, [request.target] * len(shown), device=request.device)
    edited = []
    for k, (image, used, (large, small), (error, inversion, forwards)) in enumerate(rows):
        before, after = ({judge: scores[judge][2 * k + late] for judge in JUDGES} for late in (0, 1))
        edited.append(
            EditedPicture(image, used, request.seed, large, small, error, inversion, before, after, forwards)
        )  # fmt: skip
    return edited


def _edited(
    request: EditRequest, denoiser: LatentDenoiser, pixels: Tensor
) -> tuple[tuple[float, float | None, int], Tensor, Tensor]:
    """Errors and forwards; what the model gives of the picture unedited, and of the edit."""
    with torch.no_grad():
        latents = denoiser.encode(pixels)
        plain = denoiser.decode(latents)
        with counted_forwards(denoiser) as count:
            edit, returned = EDITORS[request.method](PictureToEdit(request, denoiser, pixels, latents))
        if not bool(edit.isfinite().all()):
            raise DataError(f"the edit is not finite: lower --guidance {request.guidance:g}")
        after = denoiser.decode(edit)
        before = plain if returned is None else denoiser.decode(returned)
    inversion = None if returned is None else _rms(before, plain)
    return (_rms(plain, pixels), inversion, count.calls), before, after


def _rms(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def _sheet(result: EditedPictures, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Pictures before and after, with the agreement that the second judge gives to each."""
    entries = []
    for (before, after), row in zip(pairs[:PAIRS], result.rows, strict=False):
        figures = [f"{values[JUDGES[-1]]:.2f}" for values in (row.before, row.after)]
        entries += [(before, Path(row.image).name, f"before {figures[0]}"), (after, "", f"after {figures[1]}")]
    contact_sheet(entries, result.sheet, title=result.title, columns=4 if len(pairs) > 1 else 2, most=2 * PAIRS)
    emit(Saved(result.sheet))
