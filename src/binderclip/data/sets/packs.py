"""The picture packs inside the package: clip art, emoji and icons with captions, as data sets.

Every picture is 64 x 64 with alpha; splits are fixed by concept. What is in them, and under which licences, stands in
`packs/README.md`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from binderclip.data.images import WHITE
from binderclip.data.sets.dataset import ImageTextDataset, Mode, join
from binderclip.errors import DataError, UsageError

PACKS: dict[str, str] = {
    "openclipart": "openclipart-64.parquet",
    "noto-emoji": "noto-emoji-64.parquet",
    "icons": "icons-64.parquet",
    "openmoji": "openmoji-64.parquet",
}
TRAINING_PACKS = ("openclipart", "noto-emoji", "icons")
"""What "packs" stands for: all but `openmoji`, the style that training never sees."""

SPLITS = ("train", "val", "test", "shift")
_NO_LABEL = ("key", "image", "caption", "top_category")


def pack_folder() -> Path:
    """Where the packs lie inside the installed package."""
    return Path(__file__).parents[1] / "packs"


def load_packs(
    names: str | Sequence[str] = "packs",
    split: str | None = None,
    *,
    mode: Mode = "RGB",
    background: tuple[int, int, int] = WHITE,
) -> ImageTextDataset:
    """The bundled packs as one data set, decoded lazily.

    Labels are the top-level category of `openclipart` and Unicode's emoji group elsewhere (-1 for icons that are no
    emoji). Attributes are the pack's own columns: `category`, `group`, `subgroup`, `style`, `concept`, `series`,
    `mono`, `keywords`, `names`, ... and `split`; `openclipart`'s own `group` (a file series) is called `series`.

    Args:
        names: pack names, or "packs" for the three that may be trained on.
        split: "train", "val" or "test"; "shift" for `openmoji`; None for all pictures.
        mode: "RGB" (composited on `background`) or "RGBA".
        background: colour under transparent parts, 0..255.
    """
    chosen: list[str] = []
    for name in [names] if isinstance(names, str) else list(names):
        chosen += TRAINING_PACKS if name == "packs" else [name]
    unknown = [name for name in chosen if name not in PACKS]
    if unknown:
        raise UsageError(f"no pack {unknown[0]!r}; there are {', '.join(PACKS)}, and packs for the first three")
    return join([_one(name, split, mode, background) for name in dict.fromkeys(chosen)])


def pack_hash(name: str) -> str:
    """16 hex digits of a pack file's content: stands beside whatever was trained on it."""
    if name not in PACKS:
        raise UsageError(f"no pack {name!r}; there are {', '.join(PACKS)}")
    path = pack_folder() / PACKS[name]
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; reinstall binderclip") from error


class PackImages(Sequence[bytes]):
    """The encoded pictures of one pack: an Arrow column, so that a row costs a slice and workers share the memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._column: Any = None

    def _load(self) -> Any:
        if self._column is None:
            self._column = _read(self.path, ["image"]).column("image").combine_chunks()
        return self._column

    def __len__(self) -> int:
        return len(self._load())

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self._load()[index].as_py()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_column": None}  # a spawned worker reads its own copy


def _one(name: str, split: str | None, mode: Mode, background: tuple[int, int, int]) -> ImageTextDataset:
    columns, images = _pack(name)
    if split is not None and split not in columns["split"]:
        have = ", ".join(s for s in SPLITS if s in columns["split"])
        if split not in SPLITS:
            raise UsageError(f"no split {split!r}: {name} has {have}")
        why = "is kept out of training: it" if have == "shift" else ""
        raise UsageError(f"{name} {why} has no split {split!r}, only {have}".replace("  ", " "))
    label_of = columns["top_category"] if name == "openclipart" else columns["group"]
    classes = sorted({label for label in label_of if label})
    position = {label: index for index, label in enumerate(classes)}
    attributes = {column: values for column, values in columns.items() if column not in _NO_LABEL}
    if name == "openclipart":
        attributes["series"] = attributes.pop("group")
    whole = ImageTextDataset(
        images,
        columns["caption"],
        columns["key"],
        labels=np.array([position.get(label, -1) for label in label_of]),
        classes=classes,
        attributes=attributes,
        source=name,
        mode=mode,
        background=background,
    )
    return whole if split is None else whole.subset(np.array([s == split for s in columns["split"]]))


@lru_cache(maxsize=len(PACKS))
def _pack(name: str) -> tuple[dict[str, list[Any]], PackImages]:
    path = pack_folder() / PACKS[name]
    table = _read(path, None)
    images = PackImages(path)
    images._column = table.column("image").combine_chunks()
    columns = {column: table.column(column).to_pylist() for column in table.column_names if column != "image"}
    if name == "openclipart":
        columns["top_category"] = [category.split("/")[0].replace("_", " ") for category in columns["category"]]
    return columns, images


def _read(path: Path, columns: list[str] | None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not os.path.exists(path):
        raise DataError(f"{path}: no such file; reinstall binderclip")
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
