"""What `binderclip clean` writes: results, masks of fences, and a sheet of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from binderclip.data import open_image, to_tensor
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.generate import FenceCleaner, ReflectionCleaner, load_cleaner
from binderclip.tasks.events import Saved, counted, emit, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.results import saying_what_is_kept
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.sheet import contact_sheet, save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.clean.request import CleanRequest

if TYPE_CHECKING:
    from jaxtyping import Bool

SHEET, MASK = "before-after.png", "-mask"
SHOWN = 15
"""Pictures on the sheet."""
HARDLY = 0.5
"""Mean change, of 255, below which nobody sees a difference."""
MOST_PAINTED = 0.6
"""Share of a picture from which there is too little left to paint from."""
COLUMNS = ("image", "painted", "mean change")


@dataclass(frozen=True)
class CleanedPicture:
    """A result.

    Attributes:
        image: path of the picture. result: of what was made of it.
        mask: of what was painted; None for a reflection.
        painted: share of the picture that was painted; None for a reflection.
        change: mean absolute change of a value, of 255.
    """

    image: str
    result: str
    mask: str | None
    painted: float | None
    change: float


@dataclass(frozen=True)
class CleanedPictures(VerbResult):
    """What a run made, in the folder `request.out`.

    Attributes:
        card: of the network.
        rows: in the order of the pictures.
        skipped: (path, reason) of what could not be used.
        sheet: of pairs.
        complete: whether there is a result of every picture that was named one by one.
    """

    request: CleanRequest
    card: dict[str, Any]
    rows: list[CleanedPicture]
    skipped: list[tuple[str, str]]
    sheet: Path
    complete: bool = True

    @property
    def title(self) -> str:
        what = "share painted and " if self.request.of == "fence" else ""
        return f"{number_of(len(self.rows), 'picture')} without {self.request.of}: {what}mean change of 255"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        rows = [
            (short_path(row.image), "" if row.painted is None else f"{row.painted:.1%}", f"{row.change:.2f}")
            for row in self.rows
        ]
        return COLUMNS, rows

    def remarks(self) -> list[str]:
        """What nothing was found in, what is mostly guessed, and the limits of the network."""
        lines = []
        if same := sum(row.change < HARDLY for row in self.rows):
            lines.append(
                f"{same} of {number_of(len(self.rows), 'result')} hardly differ from the picture: where there is a "
                f"{self.request.of}, try --shrink 2 or 4"
            )
        if guessed := sum((row.painted or 0) > MOST_PAINTED for row in self.rows):
            lines.append(
                f"more than {MOST_PAINTED:.0%} of {number_of(guessed, 'picture')} was painted: a guess at best"
            )
        return [*lines, *map(str, self.card.get("limits", []))]

    def places(self) -> list[str]:
        """Where the sheet is."""
        return [f"sheet {self.sheet}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": self.request.out,
            "of": self.request.of,
            "network": self.card.get("name") or self.request.model,
            "limits": list(self.card.get("limits", [])),
            "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": str(self.sheet),
            "request": self.request.as_document(),
        }


def run(request: CleanRequest) -> CleanedPictures:
    """Write a PNG without fence or reflection for every picture.

    Raises:
        UsageError: a result would replace one of the pictures or what is none of ours, or no such device.
        CheckpointError: a folder of weights that cannot be read, or is for something else.
        OutputError: a file that cannot be written; those before it stay.
    """
    inputs = find_images(request.images, without=request.out)
    output_folder(request.out, make=False)
    places = places_of_results(inputs.paths, request)
    start("opening the network")
    cleaner, card = load_cleaner(request.model, of=request.of, device=request.device)
    rows: list[CleanedPicture] = []
    skipped: list[tuple[str, str]] = []
    with saying_what_is_kept(rows, "picture", request.out, lambda: _sheet(rows, Path(request.out) / SHEET)):
        _clean_all(cleaner, inputs.paths, places, request, rows, skipped)
    skip_pictures(skipped, left=rows)
    sheet = _sheet(rows, Path(request.out) / SHEET)
    return CleanedPictures(request, card, rows, skipped, sheet, not inputs.exit_code(skipped))


def places_of_results(paths: Sequence[Path], request: CleanRequest) -> list[tuple[Path, Path]]:
    """Where the result and the mask of each picture go; of a reflection there is no mask.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
    """
    folder, first = Path(request.out), Path(request.images[0])
    root = first if len(request.images) == 1 and first.is_dir() else None
    endings = ("", MASK) if request.of == "fence" else ("",)
    names = output_names(paths, root, endings=endings, taken=[Path(SHEET).stem])
    writable_paths([folder / SHEET])
    files = [[folder / f"{name}{ending}.png" for ending in ("", MASK)] for name in names]
    writable_paths([place for row in files for place in row[: len(endings)]], sources=paths)
    return [(result, mask) for result, mask in files]


def _clean_all(
    cleaner: FenceCleaner | ReflectionCleaner, paths: Sequence[Path], places: Sequence[tuple[Path, Path]],
    request: CleanRequest, rows: list[CleanedPicture], skipped: list[tuple[str, str]],
) -> None:  # fmt: skip
    """Write the results, and note each in `rows` as soon as it is there, or its path and why not in `skipped`."""
    output_folder(request.out)
    for path, (result, mask_path) in counted(zip(paths, places, strict=True), "picture", len(paths)):
        try:
            picture = open_image(path, mode="auto")
            made, mask = _clean(cleaner, picture, request.shrink)
        except (DataError, MemoryError) as error:
            skipped.append((str(path), str(error) or "there is not enough memory for it"))
            continue
        save_picture(made, result)
        if mask is not None:
            save_picture(Image.fromarray(255 * mask.astype(np.uint8)), mask_path)
        before, after = (np.asarray(one.convert("RGB"), dtype=np.int16) for one in (picture, made))
        painted = None if mask is None else float(mask.mean())
        change = float(np.abs(after - before).mean())
        rows.append(CleanedPicture(str(path), str(result), None if mask is None else str(mask_path), painted, change))
        for written in (result, mask_path) if mask is not None else (result,):
            emit(Saved(written))


def _clean(
    cleaner: FenceCleaner | ReflectionCleaner, picture: Image.Image, shrink: int | None
) -> tuple[Image.Image, Bool[np.ndarray, "H W"] | None]:
    """The result, grey where the picture is and with its transparency; and what was painted."""
    device = next(cleaner.parameters()).device
    pixels = to_tensor(picture.convert("RGB"))
    cleaned = cleaner.clean(pixels.to(device), shrink=shrink)
    image = cleaned.image.cpu()
    if bool((pixels == pixels[:1]).all()):
        image = image.mean(0, keepdim=True).expand_as(image)
    # A pixel that was not painted keeps its very value; to_tensor and back loses none.
    result = Image.fromarray((255 * image).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    if picture.mode == "RGBA":
        result.putalpha(picture.getchannel("A"))
    return result, None if cleaned.mask is None else cleaned.mask.cpu().numpy()


def _sheet(rows: Sequence[CleanedPicture], path: Path) -> Path:
    """Write the sheet: each picture before, what was painted, and after."""
    cards = []
    for row in rows[:SHOWN]:
        cards.append((row.image, Path(row.image).name, "before"))
        if row.mask is not None:
            cards.append((row.mask, "", "painted"))
        cards.append((row.result, "", "after"))
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    columns = 3 if rows[0].mask is not None else 4
    sheet = contact_sheet(cards, path, title=f"before and after{more}", columns=columns, side=280)
    emit(Saved(sheet))
    return sheet
