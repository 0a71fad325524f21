"""What `binderclip enhance` writes: results, what became of their tones, and a sheet of pairs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from binderclip.data import open_header, open_image, to_tensor
from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.quality import IlluminationNet, load_enhancer
from binderclip.tasks.events import Saved, counted, emit, skip, start
from binderclip.tasks.files.inputs import file_stamp, find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import note_record, output_folder, writable_paths
from binderclip.tasks.files.writing import short_path, write_json
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.report.sheet import contact_sheet, save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.enhance.request import EnhanceRequest
from binderclip.tasks.verbs.enhance.train import trained

SHEET, RECORD = "before-after.png", "enhanced.json"
PAIRS = 15
STAMP = "binderclip:made-of"
"""Text in a result's PNG: size and time of the picture's file."""
WHITE = 250
"""Value of 255 from which all three channels count as white."""
HARDLY = 0.01
"""Mean change of brightness below which nobody sees a difference."""
WEAKNESS = "judges the light of photographs badly"
COLUMNS = ("image", "mean", "after", "white", "white after")


@dataclass(frozen=True)
class EnhancedPicture:
    """A result and what became of its tones.

    Attributes:
        image: path of the picture. result: of what was made of it.
        mean, mean_after: of all values, 0 to 1. white, white_after: share of white pixels.
    """

    image: str
    result: str
    mean: float
    mean_after: float
    white: float
    white_after: float


@dataclass(frozen=True)
class EnhancedPictures(VerbResult):
    """What a run made, in the folder `request.out`.

    Attributes:
        card: what the enhancer learned from, and how.
        rows: in the order of the pictures.
        skipped: (path, reason) of what could not be used.
        kept: results that were there from an earlier run.
        sheet: of pairs.
        weak: the sentence that the model is weak on photographs, where it is.
        complete: whether there is a result of every picture that was named one by one.
    """

    request: EnhanceRequest
    card: dict[str, Any]
    rows: list[EnhancedPicture]
    skipped: list[tuple[str, str]]
    kept: int
    sheet: Path
    weak: list[str]
    complete: bool = True

    @property
    def title(self) -> str:
        return f"{number_of(len(self.rows), 'picture')}: mean brightness and share of white pixels, before and after"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        rows = [(short_path(row.image), row.mean, row.mean_after, row.white, row.white_after) for row in self.rows]
        return COLUMNS, rows

    def remarks(self) -> list[str]:
        """What was there before, and whether anybody would see a difference."""
        change = sum(abs(row.mean_after - row.mean) for row in self.rows) / len(self.rows)
        lines = [f"{self.kept} of them were there from an earlier run"] if self.kept else []
        if change < HARDLY:
            lines.append(
                f"results hardly differ from their pictures ({change:.3f} of the range of brightness): train with more "
                "--steps or less --content"
            )
        return [*lines, *self.weak]

    def places(self) -> list[str]:
        """Where the sheet is."""
        return [f"sheet {self.sheet}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": self.request.out,
            "training": self.card,
            "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "kept": self.kept,
            "sheet": str(self.sheet),
            "request": self.request.as_document(),
        }


def run(request: EnhanceRequest) -> EnhancedPictures:
    """Train an enhancer or open one, and write a PNG for every picture.

    Raises:
        UsageError: the folder holds results of another enhancer, or a result would replace one of the pictures.
        DataError: a folder to learn from without a picture that can be read, or a file that cannot be written.
        OutputError: the enhancer's file has no room.
    """
    inputs = find_images(request.images, without=request.out)
    output_folder(request.out, make=False)
    places_of_results(inputs.paths, request)  # before a training, not after it
    left_out: list[tuple[str, str]] = []
    if request.enhancer is not None:
        start("opening the enhancer")
        network, card = load_enhancer(request.enhancer, device=request.device)
    else:
        network, card, left_out = trained(request)
    rows, skipped, kept = _enhanced(network, inputs.paths, request)
    skip(left_out)
    skip_pictures(skipped, left=rows)
    sheet = _sheet(rows, Path(request.out) / SHEET)
    weak = [] if request.enhancer else weak_on_photographs(request.model, inputs.paths, weakness=WEAKNESS)
    complete = not inputs.exit_code(skipped)
    return EnhancedPictures(request, card, rows, skipped, kept, sheet, weak, complete)


def identity(network: IlluminationNet, longest: int) -> str:
    """Sixteen hexadecimal digits of the weights and of what else decides a result."""
    digest = hashlib.sha256(f"{network.most}/{longest}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def places_of_results(paths: Sequence[Path], request: EnhanceRequest) -> list[Path]:
    """Where the result of each picture goes.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
    """
    folder, first = Path(request.out), Path(request.images[0])
    root = first if len(request.images) == 1 and first.is_dir() else None
    names = output_names(paths, root, taken=[Path(SHEET).stem])
    writable_paths([folder / RECORD, folder / SHEET])
    return writable_paths([folder / f"{name}.png" for name in names], sources=paths)


def _enhanced(
    network: IlluminationNet, paths: Sequence[Path], request: EnhanceRequest
) -> tuple[list[EnhancedPicture], list[tuple[str, str]], int]:
    """Write the results, but for those that an equal run has made of the same file already.

    Returns:
        A row a result, (path, reason) of what could not be used, and how many results were there.
    """
    results = places_of_results(paths, request)
    folder = Path(request.out)
    network = network.to(resolve_device(request.device)).eval()
    own = identity(network, request.max_side)
    record = folder / RECORD
    if record.exists() and _before(record) != own:
        raise UsageError(f"{folder} holds results of another enhancer or --max-side: take another --out")
    output_folder(folder)
    write_json({"enhancer": own}, record)
    note_record(record)
    rows, skipped, kept = [], [], 0
    for path, result in counted(zip(paths, results, strict=True), "picture", len(paths)):
        try:
            picture = open_image(path, mode="RGB")
            if min(picture.size) < 2:
                raise DataError(f"{path}: {picture.height} x {picture.width} pixels are too small")
            stamp = json.dumps(file_stamp(path))
            if _stamp_in(result) == stamp:
                made = open_image(result, mode="RGB")
                kept += 1
            else:
                made = _made(network, picture, request.max_side)
                text = PngInfo()
                text.add_text(STAMP, stamp)
                draft = save_picture(made, folder / f".{result.name}", pnginfo=text)
                os.replace(draft, result)
                emit(Saved(result))
        except DataError as error:
            skipped.append((str(path), str(error)))
        else:
            rows.append(EnhancedPicture(str(path), str(result), *_tones(picture, made)))
    return rows, skipped, kept


def _sheet(rows: Sequence[EnhancedPicture], path: Path) -> Path:
    """Write the sheet of pairs."""
    cards = [
        card
        for row in rows[:PAIRS]
        for card in ((row.image, Path(row.image).name, "before"), (row.result, "", "after"))
    ]
    more = f" (the first {PAIRS} of {len(rows)})" if len(rows) > PAIRS else ""
    sheet = contact_sheet(cards, path, title=f"before and after{more}")
    emit(Saved(sheet))
    return sheet


def _stamp_in(result: Path) -> str | None:
    """The stamp of the picture that a result was made of; None where there is no whole result."""
    try:
        with open_header(result) as image:
            return getattr(image, "text", {}).get(STAMP)
    except (OSError, ValueError, SyntaxError):
        return None


@torch.no_grad()
def _made(network: IlluminationNet, picture: Image.Image, longest: int) -> Image.Image:
    device = next(network.parameters()).device
    result = network.enhance(to_tensor(picture)[None].to(device), longest=longest)[0]
    return Image.fromarray((255 * result).round().byte().permute(1, 2, 0).cpu().numpy())


def _tones(picture: Image.Image, made: Image.Image) -> tuple[float, float, float, float]:
    values = [np.asarray(one) for one in (picture, made)]
    means = [float(x.mean()) / 255 for x in values]
    white = [float((x.min(axis=2) >= WHITE).mean()) for x in values]
    return means[0], means[1], white[0], white[1]


def _before(record: Path) -> str:
    if not record.is_file():
        return ""
    try:
        return str(parse_json(record.read_text(encoding="utf-8"))["enhancer"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
