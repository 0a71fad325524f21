"""`binderclip quality A --reference B`: how far each picture is from its original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import Any

import torch

from binderclip.data.images import list_images, open_image, to_tensor
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.quality import LPIPS, create_metric
from binderclip.quality.score.native_files import reduced_picture
from binderclip.tasks.events import Saved, batches, emit, start
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import picture_path, writable_path
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.quality.request import QualityRequest

COLUMNS = ("distance", "PSNR (dB)")
ON_SHEET = 30
"""Pictures of the sheet, each beside its original."""


@dataclass(frozen=True)
class ReferenceComparison(VerbResult):
    """Pictures from the one farthest from its original to the nearest.

    Attributes:
        rows: (path, reference, distance, PSNR in dB; infinite for equal pictures).
        skipped: (path, reason) of what could not be compared.
        reduced: pairs that were reduced before they were compared.
        complete: whether there is a row, and every picture that was named one by one could be compared.
    """

    request: QualityRequest
    rows: list[tuple[str, str, float, float]]
    skipped: list[tuple[str, str]]
    reduced: int
    complete: bool = True

    @property
    def distance(self) -> str:
        """What the distance is by."""
        return "the weights given" if self.request.weights else self.request.distance

    @property
    def title(self) -> str:
        """How many pictures, in which order."""
        return f"{number_of(len(self.rows), 'picture')}, farthest from the original first by {self.distance}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return ("image", *COLUMNS), [(short_path(key), distance, psnr) for key, _, distance, psnr in self.rows]

    def remarks(self) -> list[str]:
        """What to know of the distances, a sentence each."""
        pairs, side = number_of(self.reduced, "pair"), self.request.max_side
        return [f"{pairs} reduced to {side} px before the comparison: --max-side"] if self.reduced and self.rows else []

    def places(self) -> list[str]:
        """Where the sheet is."""
        return [f"sheet {self.request.sheet}"] if self.request.sheet and self.rows else []

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of equal pictures the PSNR is None."""
        return {
            "distance": self.distance,
            "reduced": self.reduced,
            "images": [
                {"image": a, "reference": b, "distance": d, "psnr": None if isinf(p) else p} for a, b, d, p in self.rows
            ],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def partners(images: Sequence[Path], arguments: Sequence[str], reference: Path) -> list[tuple[Path, Path | None]]:
    """Each picture with its original: the one file, or the file of the same place below the folder, or of its name.

    Suffixes may differ: `a/1.jpg` is compared with `b/1.png`. None where there is no original.

    Raises:
        UsageError: `reference` is neither a file nor a folder.
        DataError: two originals differ by their suffix alone.
    """
    if reference.is_file():
        return [(image, reference) for image in images]
    if not reference.is_dir():
        raise UsageError(f"--reference {reference}: there is no file or folder {reference}")
    originals: dict[Path, Path] = {}
    for path in list_images(reference):
        key = path.relative_to(reference).with_suffix("")
        if key in originals:
            raise DataError(f"--reference {reference}: {originals[key].name} and {path.name} go by one name")
        originals[key] = path
    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]

    def key_of(image: Path) -> Path:
        above = next((folder for folder in folders if folder in image.parents), image.parent)
        return image.relative_to(above).with_suffix("")

    return [(image, originals.get(key_of(image))) for image in images]


@torch.no_grad()
def compared(request: QualityRequest) -> ReferenceComparison:
    """Measure how far the pictures of a request are from their originals, and write the table and the sheet.

    Raises:
        UsageError: no such originals, or a result that would replace what is none of ours.
        DataError: two originals differ by their suffix alone.
    """
    assert request.reference is not None
    longest = request.max_side
    inputs = find_images(request.images)
    sheet = picture_path(request.sheet) if request.sheet else None
    table = writable_path(request.csv, columns=("image", "reference", *COLUMNS)) if request.csv else None
    pairs = partners(inputs.paths, request.images, request.reference)
    start("loading lite0")
    step = batches("picture")
    where = resolve_device(request.device)
    metric: LPIPS = LPIPS.from_weights(request.weights) if request.weights else create_metric(request.distance)
    metric.to(where)
    rows, skipped, smaller = [], [], 0
    for number, (image, original) in enumerate(pairs, 1):
        try:
            if original is None:
                raise DataError(f"{image}: no picture of this name below --reference")
            one, other = (open_image(path, mode="RGB") for path in (image, original))
            if one.size != other.size:
                sizes = " and ".join(f"{each.width} x {each.height}" for each in (one, other))
                raise DataError(f"{image}: it and its original must be of one size, they have {sizes} pixels")
            if max(one.size) > longest:
                smaller += 1
                one, other = reduced_picture(one, longest), reduced_picture(other, longest)
            x, y = (to_tensor(picture)[None].to(where) for picture in (one, other))
            error = float((x - y).square().mean())
            psnr = float("inf") if error == 0 else -10 * float(torch.tensor(error).log10())
            rows.append((str(image), str(original), float(metric(x, y)), psnr))
        except (DataError, UsageError) as problem:  # too small for the network
            skipped.append((str(image), str(problem)))
        step(number, len(pairs))
    rows.sort(key=lambda row: -row[2])
    skip_pictures(skipped, left=rows)
    complete = not inputs.exit_code(skipped)
    comparison = ReferenceComparison(request, rows, skipped, smaller, complete=complete)
    if table is not None:
        write_csv(("image", "reference", *COLUMNS), rows, table)
        emit(Saved(table))
    if sheet is not None:
        cards = [
            card for a, b, d, _ in rows[:ON_SHEET] for card in ((b, "original", ""), (a, Path(a).name, f"{d:.3f}"))
        ]
        contact_sheet(cards, sheet, title=f"farthest from the original first, by {comparison.distance}")
        emit(Saved(sheet))
    return comparison
