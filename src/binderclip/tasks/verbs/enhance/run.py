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
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.quality import IlluminationNet
from binderclip.tasks.events import batches
from binderclip.tasks.files.inputs import file_stamp, output_names
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.report.sheet import contact_sheet, save_picture

SHEET, RECORD = "before-after.png", "enhanced.json"
PAIRS = 15
STAMP = "binderclip:made-of"
"""Text in a result's PNG: size and time of the picture's file."""
WHITE = 250
"""Value of 255 from which all three channels count as white."""


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
class EnhancedPictures:
    """What a run made.

    Attributes:
        rows: in the order of the pictures.
        skipped: (path, reason) of what could not be used.
        kept: results that were there from an earlier run.
        sheet: of pairs; None where there is no result.
    """

    rows: list[EnhancedPicture]
    skipped: list[tuple[str, str]]
    kept: int
    sheet: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "kept": self.kept,
            "sheet": None if self.sheet is None else str(self.sheet),
        }


def identity(network: IlluminationNet, longest: int) -> str:
    """Sixteen hexadecimal digits of the weights and of what else decides a result."""
    digest = hashlib.sha256(f"{network.most}/{longest}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def places_of_results(paths: Sequence[Path], arguments: Sequence[str], folder: Path) -> list[Path]:
    """Where the result of each picture goes.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
    """
    above = Path(arguments[0]) if len(arguments) == 1 and Path(arguments[0]).is_dir() else None
    names = output_names(paths, above, taken=[Path(SHEET).stem])
    writable_paths([folder / RECORD, folder / SHEET])
    return writable_paths([folder / f"{name}.png" for name in names], sources=paths)


def enhanced(
    network: IlluminationNet, paths: Sequence[Path], arguments: Sequence[str], folder: Path, *, longest: int,
    device: str,
) -> EnhancedPictures:  # fmt: skip
    """Write a PNG for every picture, but for those that an equal run has made of the same file already.

    Raises:
        UsageError: the folder holds results of another enhancer, or a result would replace one of the pictures.
        DataError: a file cannot be written.
    """
    results = places_of_results(paths, arguments, folder)
    network = network.to(resolve_device(device)).eval()
    own = identity(network, longest)
    record = folder / RECORD
    if record.exists() and _before(record) != own:
        raise UsageError(f"{folder} holds results of another enhancer or --max-side: take another --out")
    output_folder(folder)
    write_json({"enhancer": own}, record)
    step = batches("picture")
    rows, skipped, kept = [], [], 0
    for number, (path, result) in enumerate(zip(paths, results, strict=True), 1):
        try:
            picture = open_image(path, mode="RGB")
            if min(picture.size) < 2:
                raise DataError(f"{path}: {picture.height} x {picture.width} pixels are too small")
            stamp = json.dumps(file_stamp(path))
            if _stamp_in(result) == stamp:
                made = open_image(result, mode="RGB")
                kept += 1
            else:
                made = _made(network, picture, longest)
                told = PngInfo()
                told.add_text(STAMP, stamp)
                draft = save_picture(made, folder / f".{result.name}", pnginfo=told)
                os.replace(draft, result)
        except DataError as error:
            skipped.append((str(path), str(error)))
        else:
            rows.append(EnhancedPicture(str(path), str(result), *_tones(picture, made)))
        step(number, len(paths))
    sheet = None
    if rows:
        cards = [card for row in rows[:PAIRS]
                 for card in ((row.image, Path(row.image).name, "before"), (row.result, "", "after"))]  # fmt: skip
        more = f" (the first {PAIRS} of {len(rows)})" if len(rows) > PAIRS else ""
        sheet = contact_sheet(cards, folder / SHEET, title=f"before and after{more}")
    return EnhancedPictures(rows, skipped, kept, sheet)


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
