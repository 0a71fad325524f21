"""Named sets of real pictures that come with packages, never with a download at run time."""

from __future__ import annotations

import gzip
import importlib.util
import os
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.data.images import WHITE
from binderclip.data.sets.dataset import ImageTextDataset, Mode
from binderclip.errors import DataError, MissingDependency, UsageError

FASHION_MNIST_VARIABLE = "BINDERCLIP_FASHION_MNIST"
FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"


def fashion_mnist(
    split: str | None = None, *, mode: Mode = "RGB", background: tuple[int, int, int] = WHITE
) -> ImageTextDataset:
    """Fashion-MNIST: 60,000 + 10,000 grey 28 x 28 pictures of ten kinds of clothing, white on black.

    Read from Debian's package `dataset-fashion-mnist`, or from the folder that $BINDERCLIP_FASHION_MNIST names.
    Paper: Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747.

    Args:
        split: "train", "test", or None for both.
        mode, background: as everywhere.
    """
    folder = Path(os.environ.get(FASHION_MNIST_VARIABLE) or FASHION_MNIST_FOLDER)
    parts = [("train", "train"), ("test", "t10k")]
    _known_split("fashion-mnist", split, [name for name, _ in parts])
    if not folder.is_dir():
        raise DataError(
            f"fashion-mnist is not on this machine ({folder} does not exist): apt-get install dataset-fashion-mnist, "
            f"or set {FASHION_MNIST_VARIABLE} to a folder with its four .gz files"
        )
    images, labels, keys, splits = [], [], [], []
    for name, prefix in parts:
        if split in (None, name):
            images.append(read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"))
            labels.append(read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz"))
            if images[-1].ndim != 3 or labels[-1].shape != images[-1].shape[:1]:
                raise DataError(f"{folder}: {images[-1].shape} pictures do not go with {labels[-1].shape} labels")
            keys += [f"{name}-{number:05d}" for number in range(len(labels[-1]))]
            splits += [name] * len(labels[-1])
    label = np.concatenate(labels)
    if label.max() >= len(_CLOTHING):
        raise DataError(f"{folder}: label {label.max()}, but Fashion-MNIST has {len(_CLOTHING)} classes")
    return ImageTextDataset(
        np.concatenate(images),
        [_CLOTHING[i][1] for i in label],
        keys,
        labels=label,
        classes=[name for name, _ in _CLOTHING],
        attributes={"split": splits},
        source="fashion-mnist",
        mode=mode,
        background=background,
    )


_CLOTHING = (
    ("t-shirt", "a t-shirt"),
    ("trousers", "a pair of trousers"),
    ("pullover", "a pullover"),
    ("dress", "a dress"),
    ("coat", "a coat"),
    ("sandal", "a sandal"),
    ("shirt", "a shirt"),
    ("sneaker", "a sneaker"),
    ("bag", "a bag"),
    ("ankle boot", "an ankle boot"),
)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes (the format of MNIST) as an array.

    Raises:
        DataError: missing, damaged, or not such a file.
    """
    try:
        data = gzip.decompress(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(shape) != data[3] or len(data) - start != int(np.prod(shape)):
        raise DataError(f"{path}: truncated: {len(data) - start} bytes where {shape} values should be")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def digits(
    split: str | None = None, *, mode: Mode = "RGB", background: tuple[int, int, int] = WHITE
) -> ImageTextDataset:
    """scikit-learn's handwritten digits: 1,797 grey 8 x 8 pictures, white on black.

    "test" is the last fifth (360), which other writers wrote than the first four ("train").

    Args:
        split: "train", "test", or None for both.
        mode, background: as everywhere.
    """
    _known_split("digits", split, ["train", "test"])
    from sklearn.datasets import load_digits

    values, label = load_digits(return_X_y=True)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    start = len(label) - len(label) // 5 - 1
    whole = ImageTextDataset(
        np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8),
        [f"the handwritten digit {names[i]}" for i in label],
        [f"digit-{number:04d}" for number in range(len(label))],
        labels=label,
        classes=names,
        attributes={"split": ["train" if number < start else "test" for number in range(len(label))]},
        source="digits",
        mode=mode,
        background=background,
    )
    return whole if split is None else whole.where(split=split)


# file, class (None where one word does not say it), caption
_PHOTOGRAPHS: tuple[tuple[str, str, str | None, str], ...] = (
    ("skimage", "astronaut.png", "astronaut", "an astronaut in an orange suit, with a helmet and a space shuttle"),
    ("skimage", "brick.png", "brick wall", "a wall of bricks"),
    ("skimage", "camera.png", "photographer", "a man with a camera on a tripod"),
    ("skimage", "cell.png", None, "a cell under a microscope"),
    ("skimage", "chelsea.png", "cat", "the face of a tabby cat"),
    ("skimage", "clock_motion.png", None, "a clock blurred by motion"),
    ("skimage", "coffee.png", "coffee", "a cup of coffee with a spoon on a saucer"),
    ("skimage", "coins.png", "coins", "ancient coins in rows"),
    ("skimage", "grass.png", "grass", "grass from above"),
    ("skimage", "gravel.png", "gravel", "gravel stones"),
    ("skimage", "hubble_deep_field.jpg", "galaxies", "galaxies in the dark of space"),
    ("skimage", "ihc.png", None, "stained tissue under a microscope"),
    ("skimage", "moon.png", "moon", "craters on the surface of the moon"),
    ("skimage", "motorcycle_left.png", "motorcycle", "a red motorcycle in a garage"),
    ("skimage", "page.png", "printed page", "a printed page of text"),
    ("skimage", "retina.jpg", "retina", "the blood vessels of a retina"),
    ("skimage", "rocket.jpg", "rocket", "a rocket on its launch pad at night"),
    ("skimage", "text.png", "handwriting", "handwritten formulas on paper"),
    ("sklearn", "china.jpg", "palace", "a Chinese palace with a tiled roof"),
    ("sklearn", "flower.jpg", "flower", "a flower, close up"),
)


def photographs(
    split: str | None = None, *, mode: Mode = "RGB", background: tuple[int, int, int] = WHITE
) -> ImageTextDataset:
    """Twenty real photographs that lie inside the wheels of scikit-image and scikit-learn, captioned by hand.

    Seventeen have a class; three (cell, blurred clock, stained tissue) only a caption. Too few to train on.

    Args:
        split: "test" or None, which are the same.
        mode, background: as everywhere.
    """
    _known_split("photographs", split, ["test"])
    folders = {
        "skimage": _package_folder("skimage", "photographs", "scikit-image") / "data",
        "sklearn": _package_folder("sklearn", "photographs", "scikit-learn") / "datasets" / "images",
    }
    rows = [(folders[package] / name, label, caption) for package, name, label, caption in _PHOTOGRAPHS]
    missing = [(path.name, "not shipped by the installed scikit-image") for path, _, _ in rows if not path.exists()]
    rows = [row for row in rows if row[0].exists()]
    if not rows:
        raise DataError(f"photographs: none of the pictures lies in {folders['skimage']}")
    classes = [label for _, _, label, _ in _PHOTOGRAPHS if label is not None]
    return ImageTextDataset(
        [path for path, _, _ in rows],
        [caption for _, _, caption in rows],
        [path.name for path, _, _ in rows],
        labels=[-1 if label is None else classes.index(label) for _, label, _ in rows],
        classes=classes,
        attributes={"split": ["test"] * len(rows)},
        source="photographs",
        skipped=missing,
        mode=mode,
        background=background,
    )


_TEXTILE = (
    ("nominal", "good", "a regular textile without a defect"),
    ("local", "defect", "a textile with a small damaged spot"),
    ("global", "defect", "a textile whose whole texture is disturbed"),
)


def textile(
    split: str | None = None, *, mode: Mode = "RGB", background: tuple[int, int, int] = WHITE
) -> ImageTextDataset:
    """Simulated textile inspection: 1,000 good pictures, 500 with a local and 500 with a global defect, 250 x 250.

    From the package `conformal-clip-data` (MIT). The attribute `kind` is nominal, local or global; of each kind the
    first 60% are "train", the next 20% "val", the rest "test". Paper: Megahed et al., arXiv 2501.12596.

    Args:
        split: "train", "val", "test", or None for all.
        mode, background: as everywhere.
    """
    _known_split("textile", split, ["train", "val", "test"])
    root = _package_folder("conformal_clip_data", "textile", "conformal-clip-data")
    root = root / "data" / "textile_images" / "simulated"
    images: list[Path] = []
    columns: dict[str, list[str]] = {"kind": [], "split": []}
    captions, labels = [], []
    for kind, label, caption in _TEXTILE:
        files = sorted((root / kind).glob("*.jpg"))
        if not files:
            raise DataError(f"{root / kind}: no pictures; pip install --force-reinstall conformal-clip-data")
        for number, file in enumerate(files):
            fraction = number / len(files)
            columns["split"].append("train" if fraction < 0.6 else "val" if fraction < 0.8 else "test")
            columns["kind"].append(kind)
            images.append(file)
            captions.append(caption)
            labels.append(0 if label == "good" else 1)
    whole = ImageTextDataset(
        images,
        captions,
        [f"{file.parent.name}/{file.name}" for file in images],
        labels=labels,
        classes=("good", "defect"),
        attributes=columns,
        source="textile",
        mode=mode,
        background=background,
    )
    return whole if split is None else whole.where(split=split)


SETS: dict[str, Callable[..., ImageTextDataset]] = {
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "photographs": photographs,
    "textile": textile,
}


def _known_split(name: str, split: str | None, have: Sequence[str]) -> None:
    if split is not None and split not in have:
        raise UsageError(f"{name} has no split {split!r}, only {', '.join(have)}")


@lru_cache
def _package_folder(module: str, extra: str, package: str) -> Path:
    """Where a package lies, without importing it."""
    spec: Any = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            f"the data set {extra} comes with the package {package}, which is not installed: pip install "
            f'"binderclip[{extra}]"'
        )
    return Path(next(iter(spec.submodule_search_locations)))
