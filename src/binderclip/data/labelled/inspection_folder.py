"""A folder of pictures to inspect, with what is known of them: good or damaged, and where (the layout of MVTec AD)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from binderclip.data.images import list_images, open_header
from binderclip.errors import DataError, UsageError
from binderclip.files import why_no_folder

GOOD = ("good", "normal", "nominal", "ok")
"""Names of the folder that holds sound pictures."""
_MASKS = ("{}_mask.png", "{}.png", "{}_mask.bmp", "{}.bmp")


@dataclass(frozen=True)
class Inspected:
    """One picture.

    Attributes:
        path: of the picture.
        damaged: whether it is known to be, or None.
        kind: name of its folder below the root, such as `good` or `scratch`; empty where there is none.
        mask: file of the damaged pixels, or None.
    """

    path: Path
    damaged: bool | None
    kind: str
    mask: Path | None


class InspectionFolder:
    """Pictures of a folder; labels and masks where the folder's layout gives them.

    A folder beside others that is called `good` (`normal`, `nominal`, `ok`) makes its pictures sound and those of the
    others damaged. Where the root holds `test/`, the pictures are those below it, `train/good/` holds the normal ones,
    and `ground_truth/KIND/NAME_mask.png` the masks, as in MVTec AD; `test/` itself may be named too. Without such a
    folder nothing is known and all pictures below the root are listed.

    Args:
        root: the folder.
        without: a folder below it that is left out, such as that of the results.

    Attributes:
        pictures, normal: what is there.
        labelled: whether it is known which pictures are damaged.
        skipped: (path, reason) of what is called a picture and cannot be one: a named pipe, a name that is not UTF-8.

    Raises:
        UsageError: no such folder.
        DataError: no pictures.
    """

    def __init__(self, root: str | Path, *, without: str | Path | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UsageError(why_no_folder(self.root))
        inner = self.root / "test"
        tested, whole = (inner, self.root) if inner.is_dir() else (self.root, self.root)
        if self.root.name == "test" and (self.root.parent / "train").is_dir():
            whole = self.root.parent
        self._truth = whole / "ground_truth"
        self.skipped: list[tuple[str, str]] = []
        images = list_images(tested, without=without, skipped=self.skipped)
        if tested == whole:
            # Masks and learning pictures beside the pictures are not to be inspected.
            aside = [self._truth, whole / "train"]
            images = [path for path in images if not any(folder in path.parents for folder in aside)]
        if not images:
            raise DataError(f"no images in {tested}: looked for PNG, JPEG, WebP, GIF, BMP and TIFF files, also below")
        good = next((name for name in GOOD if (tested / name).is_dir()), None)
        self.labelled = good is not None
        self.normal: list[Path] = []
        for name in GOOD:
            if (folder := whole / "train" / name).is_dir():
                self.normal = list_images(folder, without=without)
                break
        self.pictures = [self._inspected(path, path.relative_to(tested), good) for path in images]

    def __len__(self) -> int:
        return len(self.pictures)

    def leave_out(self, paths: Iterable[Path]) -> int:
        """Inspect these pictures no longer; how many they were."""
        out = {path.resolve() for path in paths}
        before = len(self.pictures)
        self.pictures = [entry for entry in self.pictures if entry.path.resolve() not in out]
        return before - len(self.pictures)

    def _inspected(self, path: Path, below: Path, good: str | None) -> Inspected:
        kind = below.parts[0] if len(below.parts) > 1 else ""
        if good is None or not kind:
            return Inspected(path, None, kind, None)
        if kind == good:
            return Inspected(path, False, kind, None)
        places = [self._truth / below.parent / form.format(path.stem) for form in _MASKS]
        return Inspected(path, True, kind, next((place for place in places if place.is_file()), None))


def read_mask(path: str | Path, size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """Damaged pixels from a picture: those brighter than half of its brightest one.

    Args:
        path: of the mask.
        size: (h, w) that it must have.

    Raises:
        DataError: unreadable, or of another size.
    """
    try:
        with open_header(path) as opened:
            values = np.asarray(opened.convert("I") if opened.mode.startswith("I") else opened.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no readable mask: {error}") from error
    if values.shape != tuple(size):
        raise DataError(f"{path}: {values.shape[1]} x {values.shape[0]} pixels, its picture has {size[1]} x {size[0]}")
    return torch.from_numpy((values > values.max() / 2) & (values > 0))


def spread_choice(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, spread evenly over their order."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, most).round().astype(int).tolist()]
