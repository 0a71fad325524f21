"""A data set as a model sees it: features, pre-projection features and thumbnails, computed once and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from binderclip.data.cache.features import FeatureCache
from binderclip.errors import BinderclipError, DataError, NotSupported
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel

CHUNK = 256
"""Pictures between two writes to the cache: what a killed run loses at the most."""
BATCH = 16
WORKERS = min(8, os.cpu_count() or 1)
THUMBNAIL = 16


@dataclass(frozen=True)
class Encoded:
    """The readable pictures of a data set.

    Attributes:
        rows: (N,) their positions in the data set.
        features: (N, E) raw.
        pre_projection: (N, D), or None where the model's image side cannot be opened.
        thumbnails: (N, 16, 16) grey.
        skipped: (key, reason) of pictures that could not be read.
        computed: pictures that had to go through the model; the others came from the cache.
    """

    rows: np.ndarray
    features: Float[Tensor, "N E"]
    pre_projection: Float[Tensor, "N D"] | None
    thumbnails: UInt8[np.ndarray, "N 16 16"]
    skipped: list[tuple[str, str]]
    computed: int = 0
    keys: list[str] = field(default_factory=list)


def encode_dataset(
    model: ImageTextModel,
    data: ImageTextDataset,
    *,
    progress: Callable[[int, int], object] | None = None,
    root: str | Path | None = None,
) -> Encoded:
    """Encode every picture once; a second call, or one after a crash, goes on from the cache.

    Args:
        model: its fingerprint is part of the cache's key, so is the data set's background.
        data: pictures; unreadable ones are skipped and named.
        progress: called with (done, of how many) as the pictures that are not cached go through the model.
        root: of the cache, see `data.cache_root`.

    Raises:
        DataError: no picture can be read.
    """
    refuse_bare_module(model, "encode_dataset")
    cache = FeatureCache(model.fingerprint, f"adapt, background {data.background}", root)
    names: dict[int, str] = {}
    skipped: list[tuple[str, str]] = []
    with ThreadPoolExecutor(WORKERS) as threads:
        for row, digest in enumerate(threads.map(lambda i: _hash(data, i), range(len(data)))):
            if isinstance(digest, BinderclipError):
                skipped.append((data.keys[row], str(digest)))
            else:
                names[row] = digest
    columns = _columns(model)
    have = [set(cache.keys(column)) for column in columns]
    missing = [row for row, key in names.items() if not all(key in there for there in have)]
    done: set[str] = set()
    bad: set[int] = set()
    for start in range(0, len(missing), CHUNK):
        fresh = {names[row]: row for row in missing[start : start + CHUNK] if names[row] not in done}
        unreadable = _encode_chunk(model, data, fresh, cache, columns)
        for row, reason in unreadable:
            skipped.append((data.keys[row], reason))
            bad |= {other for other, key in names.items() if key == names[row]}
        done |= set(fresh)
        if progress is not None:
            progress(min(start + CHUNK, len(missing)), len(missing))
    rows = [row for row in names if row not in bad]
    if not rows:
        first = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"none of {len(data)} pictures can be read{first}")
    return _collect(cache, columns, rows, names, skipped, len(missing) - len(bad))


def _collect(
    cache: FeatureCache, columns: list[str], rows: list[int], names: dict[int, str], skipped: list, computed: int
) -> Encoded:
    keys = [names[row] for row in rows]
    tables = {column: cache.get(keys, column) for column in columns}
    stacked = {column: torch.stack([table[key] for key in keys]) for column, table in tables.items()}
    return Encoded(
        np.array(rows),
        stacked["features"].float(),
        stacked["pre_projection"].float() if "pre_projection" in stacked else None,
        stacked["thumbnail"].numpy(),
        skipped,
        computed,
        keys,
    )


def _columns(model: ImageTextModel) -> list[str]:
    try:
        model.image_tower  # noqa: B018 - opening it says whether it can be opened
    except NotSupported:
        return ["features", "thumbnail"]
    return ["features", "pre_projection", "thumbnail"]


def _hash(data: ImageTextDataset, row: int) -> str | BinderclipError:
    try:
        return data.content_hash(row)
    except DataError as error:
        return error


@torch.inference_mode()
def _encode_chunk(
    model: ImageTextModel, data: ImageTextDataset, fresh: dict[str, int], cache: FeatureCache, columns: list[str]
) -> list[tuple[int, str]]:
    """Encode pictures by key and store what was found; those that cannot be read, with the reason."""

    def read(row: int) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            image = data[row].image.convert("RGB")
        except DataError as error:
            return str(error)
        grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        return model.preprocess.pixels(image), np.asarray(grey)

    keys: list[str] = []
    waiting: list[np.ndarray] = []
    thumbnails: list[np.ndarray] = []
    unreadable: list[tuple[int, str]] = []
    columns_of: dict[str, list[Tensor]] = {column: [] for column in columns if column != "thumbnail"}

    def flush() -> None:
        if waiting:
            for column, values in _forward(model, waiting, "pre_projection" in columns).items():
                columns_of[column].append(values)
            waiting.clear()

    # The threads go on opening pictures while the model works on those that are open.
    with ThreadPoolExecutor(WORKERS) as threads:
        for (key, row), result in zip(fresh.items(), threads.map(read, fresh.values()), strict=True):
            if isinstance(result, str):
                unreadable.append((row, result))
                continue
            keys.append(key)
            waiting.append(result[0])
            thumbnails.append(result[1])
            if len(waiting) == BATCH:
                flush()
    flush()
    if keys:
        for column in columns:
            values = torch.from_numpy(np.stack(thumbnails)) if column == "thumbnail" else torch.cat(columns_of[column])
            cache.put(keys, values.clone(), column)
    return unreadable


def _forward(model: ImageTextModel, pixels: list[np.ndarray], opened: bool) -> dict[str, Tensor]:
    x = model.preprocess.normalize_pixels(torch.from_numpy(np.stack(pixels)).to(model.device)).to(model.dtype)
    if not opened:
        return {"features": model.encode_pixels(x).float().cpu()}
    before = model.image_tower.pre_projection(x)
    return {"pre_projection": before.float().cpu(), "features": model.image_tower.project(before).float().cpu()}
