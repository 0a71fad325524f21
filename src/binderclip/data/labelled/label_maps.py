"""Pictures with a label for every pixel: folders as VOC and ADE have them, or made scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from binderclip.data.files import irregular
from binderclip.data.images import list_images, open_header, open_image
from binderclip.errors import DataError, UsageError
from binderclip.settings import check_choice

#: Names of a split's folders: ADE's, and plain ones.
SPLITS = {"val": ("validation", "val"), "train": ("training", "train")}
#: (folder of images, folder of label maps) below the root, in the order they are looked for, after those of a split.
LAYOUTS = (
    ("JPEGImages", "SegmentationClass"),
    ("images", "labels"),
    ("images", "masks"),
    ("images", "annotations"),
)


@dataclass(frozen=True)
class Labelled:
    """One picture with its truth.

    Attributes:
        image: RGB picture.
        labels: (H, W) int, index into the classes, -1 = ignored.
        key: its name.
    """

    image: Image.Image
    labels: Int[Tensor, "H W"]
    key: str


class LabelFolder:
    """A folder of images beside a folder of label maps (indexed or grey PNG) of the same names.

    Layouts: `JPEGImages/` with `SegmentationClass/` (VOC; `ImageSets/Segmentation/val.txt` chooses, where it is there),
    `images/validation` with `annotations/validation` (ADE), `images/` with `labels/`, `masks/` or `annotations/`. The
    classes stand one a line in `classes.txt`; line i names the value i in the maps.

    Args:
        root: the folder.
        split: `val`, or `train`: `train.txt` of VOC, the folders `training` of ADE. A folder without splits is taken
            whole by both.
        classes: instead of `classes.txt`.
        ignore: value that is left out (255 in 8 bit, 65535 in 16 bit).
        zero_ignored: value 0 means "no label" and line 1 of `classes.txt` names the value 1 (ADE).

    Raises:
        UsageError: no such folder, layout or classes.
        DataError: no picture has a label map.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        *,
        split: str = "val",
        ignore: int | None = None,
        zero_ignored: bool = False,
    ) -> None:
        check_choice("split", split, SPLITS)
        self.split = split
        self.root, self.ignore, self.zero_ignored = Path(root), ignore, zero_ignored
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root} is a file: give the folder that holds pictures and label maps")
        if not self.root.is_dir():
            raise UsageError(f"there is no folder {self.root}")
        places = [*((f"images/{name}", f"annotations/{name}") for name in SPLITS[split]), *LAYOUTS]
        roots = [(self.root / a, self.root / b) for a, b in places]
        pair = next(((a, b) for a, b in roots if a.is_dir() and b.is_dir()), None)
        if pair is None:
            layouts = "; ".join(f"{a}/ with {b}/" for a, b in places)
            raise UsageError(f"{self.root} holds no pictures with label maps; looked for {layouts}")
        self.classes = list(classes) if classes is not None else self._classes()
        chosen = self._split()
        maps = {path.stem: path for path in sorted(pair[1].glob("*.png"))}
        self.pairs = [
            (image, maps[image.stem])
            for image in list_images(pair[0])
            if image.stem in maps and (chosen is None or image.stem in chosen)
        ]
        if not self.pairs:
            raise DataError(f"no picture of {pair[0]} has a label map NAME.png in {pair[1]}")
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Labelled]:
        """Pictures in order of their names; what cannot be read is left out, and named in `skipped`."""
        self.skipped = []
        for image, path in self.pairs:
            try:
                picture = open_image(image).convert("RGB")
                labels = self._labels(path)
                if labels.shape != (picture.height, picture.width):
                    raise DataError(f"{path}: {labels.shape[::-1]} pixels, its picture has {picture.size}")
            except DataError as error:
                self.skipped.append((image.name, str(error)))
                continue
            yield Labelled(picture, torch.from_numpy(labels), image.stem)

    def _labels(self, path: Path) -> np.ndarray:
        if (kind := irregular(path)) is not None:
            raise DataError(f"{path}: is {kind}, not a label map")
        try:
            with open_header(path) as opened:
                values = np.asarray(opened)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: no readable label map: {error}") from error
        if values.ndim != 2:
            raise DataError(f"{path}: a label map has one number a pixel; this has {values.shape[2]} channels")
        left_out = self.ignore if self.ignore is not None else (255 if values.dtype == np.uint8 else 65535)
        labels = values.astype(np.int64)
        ignored = labels == left_out
        if self.zero_ignored:
            labels = labels - 1
        unknown = ~ignored & (labels >= len(self.classes))
        if unknown.any():
            value = int(labels[unknown].min()) + int(self.zero_ignored)
            first = int(self.zero_ignored)
            raise DataError(
                f"{path}: value {value} is no class; there are {len(self.classes)} classes ({first} to "
                f"{len(self.classes) - 1 + first}) and {left_out} for what is left out: name it in the list of classes"
            )
        return np.where(ignored | (labels < 0), -1, labels)

    def _classes(self) -> list[str]:
        path = self.root / "classes.txt"
        if not path.is_file():
            raise UsageError(f"{self.root} says no class names: write them to {path}, one a line, line i for value i")
        names = [line.strip() for line in _text(path).splitlines() if line.strip()]
        if not names:
            raise UsageError(f"{path} is empty: write the class names to it, one a line, line i for value i")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"{path} names {', '.join(map(repr, twice))} more than once; each value needs its own name"
            )
        return names

    def _split(self) -> set[str] | None:
        path = self.root / "ImageSets" / "Segmentation" / f"{self.split}.txt"
        return set(_text(path).split()) if path.is_file() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


SCENES: dict[str, dict[str, Any]] = {
    "scenes": {"objects": (1, 3), "area": (0.06, 0.25), "background": ["plain", "gradient"]},
    "scenes-hard": {"objects": (2, 4), "area": (0.03, 0.15), "background": ["noise", "texture"], "occlusion": 0.4},
    "scenes-cluttered": {"objects": (4, 7), "area": (0.02, 0.1), "background": ["texture", "photo"], "occlusion": 0.4},
    "scenes-photographs": {"objects": (1, 3), "area": (0.06, 0.25), "background": "photo"},
}
"""Options of the made sets; the classes are those of `scenes15`, their drawings held out from training."""


class LabelledScenes:
    """Composite scenes with exact labels, as `LabelFolder` gives its pictures.

    Args:
        name: of `SCENES`.
        n: number of scenes.
        seed: of the scenes.
        size: side in pixels.
        split: of the drawings: `val`, `test`, or `train`, which models of the packs have seen.
        background: whether the ground is class 0, named background; otherwise its pixels are ignored.

    Raises:
        UsageError: an unknown name.
    """

    def __init__(
        self,
        name: str = "scenes",
        n: int = 60,
        *,
        seed: int = 0,
        size: int = 256,
        split: str = "val",
        background: bool = False,
    ):
        if name not in SCENES:
            raise UsageError(f"no made set {name!r}; there are {', '.join(SCENES)}")
        from binderclip.data.synthetic_scenes.stream import scenes
        from binderclip.data.synthetic_scenes.vocabulary import vocabulary

        words = vocabulary("scenes15", split=split)
        self.batch = scenes(seed, n, size, vocabulary=words, **SCENES[name])
        self.shift = 0 if background else 1
        self.classes = list(self.batch.classes)[self.shift :]
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.batch.images)

    def __iter__(self) -> Iterator[Labelled]:
        """Scenes in order."""
        for index, image in enumerate(self.batch.images):
            yield Labelled(open_image(image), self.batch.semantic[index].long() - self.shift, f"scene {index}")


def label_maps(source: str | Path, **options: Any) -> LabelFolder | LabelledScenes:
    """A made set by name, or a folder.

    Raises:
        UsageError, DataError: see `LabelFolder` and `LabelledScenes`.
    """
    if str(source) in SCENES:
        return LabelledScenes(str(source), **options)
    if not Path(source).exists():
        raise UsageError(f"there is no folder {source}, nor a made set of this name: those are {', '.join(SCENES)}")
    return LabelFolder(source, **options)
