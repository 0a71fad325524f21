"""Features on disk: what a model said about a picture is computed once, keyed by the picture's content.

One folder a (model fingerprint, view), one sub-folder a column, in it safetensors shards. A `put` writes one new shard
under a temporary name and renames it, so that any number of processes may read and write at once and a killed one
leaves nothing half-written. Every row carries a checksum over its key and bytes: damage is noticed, warned about and
computed again, never returned.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from binderclip.data.cache.shards import Column, bytes_of, file_bytes
from binderclip.data.storage import write_place
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError

FEATURES = "features"
_MARK = "cache.json"


def cache_root(root: str | Path | None = None) -> Path:
    """`root`, else the environment's BINDERCLIP_CACHE, else ~/.cache/binderclip."""
    chosen = root if root is not None else os.environ.get("BINDERCLIP_CACHE") or Path.home() / ".cache" / "binderclip"
    return Path(chosen).expanduser()


def content_hash(content: bytes | str | Path | np.ndarray | Tensor) -> str:
    """32 hex digits that name a content: bytes, a file's bytes (from its path), or an array with its dtype and shape.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(content, (str, Path)):
        try:
            digest.update(Path(content).read_bytes())
        except OSError as error:
            raise DataError(f"{content}: {error.strerror or error}") from error
    elif isinstance(content, bytes):
        digest.update(content)
    else:
        tensor = torch.as_tensor(content).detach().cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor.reshape(-1)).tobytes())
    return digest.hexdigest()


def _folder_name(text: str) -> str:
    """Readable and safe for a file system, and unique for the text."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60]
    return f"{short}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


class FeatureCache:
    """Arrays keyed by content hash, for one model and one view of its input.

    Args:
        fingerprint: names model, weights and preprocessing; another model has another cache.
        view: what was computed from which view ("image", "image@flip", "patches@256", ...).
        root: folder of all caches; default $BINDERCLIP_CACHE, else ~/.cache/binderclip.

    Columns are named signals of the same keys: "features" by default, or an embedding set, a caption score, a cluster
    number of a curation method. Rows of one column may differ in shape between calls of `put`.

    Examples:
        >>> cache = FeatureCache(model.fingerprint, "image")                          # doctest: +SKIP
        >>> features = cache.fetch(keys, lambda rows: model.encode_image(images[rows]))  # doctest: +SKIP
    """

    def __init__(self, fingerprint: str, view: str, root: str | Path | None = None) -> None:
        if not fingerprint or not view:
            raise UsageError("a FeatureCache needs a fingerprint and a view that are not empty")
        self.fingerprint, self.view = fingerprint, view
        self.folder = cache_root(root) / FEATURES / _folder_name(fingerprint) / _folder_name(view)
        self._columns: dict[str, Column] = {}

    def __repr__(self) -> str:
        return f"FeatureCache({self.fingerprint!r}, {self.view!r}, {str(self.folder)!r})"

    def _column(self, name: str) -> Column:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name):
            raise UsageError(f"column {name!r} must consist of letters, digits, '.', '_' and '-'")
        if name not in self._columns:
            self._columns[name] = Column(self.folder / name)
        return self._columns[name]

    def columns(self) -> list[str]:
        """Names of the columns on disk."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())

    def keys(self, column: str = FEATURES) -> list[str]:
        """Keys that have a value in the column."""
        return self._column(column).keys()

    def get(self, keys: Sequence[str], column: str = FEATURES) -> dict[str, Tensor]:
        """The values of those `keys` that are there; absent and damaged ones are left out.

        Args:
            keys: content hashes.
            column: name of the signal.

        Returns:
            key -> tensor on the CPU, of the dtype and shape that was put.
        """
        return self._column(column).get(keys)

    def put(self, keys: Sequence[str], values: Tensor | np.ndarray, column: str = FEATURES) -> None:
        """Store one value a key, all or none of them; a later value of a key replaces the earlier.

        Args:
            keys: N content hashes, not empty.
            values: (N, ...) tensor or array of any dtype.
            column: name of the signal.

        Raises:
            UsageError: keys and values differ in number.
            DataError: the disk is full or cannot be written; what was stored before is still there.
        """
        rows = torch.as_tensor(values).detach().cpu()
        if rows.ndim == 0 or len(rows) != len(keys):
            raise UsageError(f"put got {len(keys)} keys and values of shape {tuple(rows.shape)}; one value a key")
        if any(not isinstance(key, str) or not key for key in keys):
            raise UsageError("keys of a cache are strings that are not empty, such as content_hash(...)")
        if len(keys):
            self._sign()
            self._column(column).put(list(keys), rows)

    def fetch(
        self, keys: Sequence[str], compute: Callable[[list[int]], Tensor | np.ndarray], column: str = FEATURES
    ) -> Tensor:
        """The values of all `keys`, computing and storing those that are not there.

        Args:
            keys: N content hashes; a key that occurs twice is computed once.
            compute: gets the positions in `keys` that are missing, returns their values in that order.
            column: name of the signal.

        Returns:
            (N, ...) tensor on the CPU. Where the computed values cannot be stored (a full disk), they are returned all
            the same, with a warning.
        """
        rows = self.get(keys, column)
        missing = list({key: place for place, key in reversed(list(enumerate(keys))) if key not in rows}.values())
        missing.sort()
        if missing:
            values = torch.as_tensor(compute(missing)).detach().cpu()
            names = [keys[place] for place in missing]
            try:
                self.put(names, values, column)
            except DataError as error:
                warnings.warn(f"features were computed but not cached: {error}", RuntimeWarning, stacklevel=2)
            rows.update(zip(names, values, strict=True))
        return torch.stack([rows[key] for key in keys]) if len(keys) else torch.empty(0)

    def _sign(self) -> None:
        mark = self.folder / _MARK
        if not mark.exists():
            note = json.dumps({"fingerprint": self.fingerprint, "view": self.view})
            write_place(mark, note.encode(), sync=False)


@dataclass(frozen=True)
class CacheEntry:
    """One model and view: its columns, number of distinct keys, and bytes on disk."""

    fingerprint: str
    view: str
    columns: tuple[str, ...]
    entries: int
    size: int


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds."""

    root: str
    entries: tuple[CacheEntry, ...]

    @property
    def megabytes(self) -> float:
        """Size of all entries, in 10^6 bytes."""
        return sum(entry.size for entry in self.entries) / 1e6

    def rows(self) -> list[tuple[str, str, str]]:
        """(model and view, entries, MB) for a table."""
        return [(f"{e.fingerprint} {e.view}", f"{e.entries:,}", f"{e.size / 1e6:.1f}") for e in self.entries]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        views = [{**vars(entry), "columns": list(entry.columns)} for entry in self.entries]
        return {"root": self.root, "megabytes": self.megabytes, "views": views}


def _views(base: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    for mark in sorted(base.glob(f"*/*/{_MARK}")):
        try:
            note = parse_json(mark.read_text())
            yield mark.parent, {"fingerprint": str(note["fingerprint"]), "view": str(note["view"])}
        except (OSError, ValueError, KeyError, TypeError):
            yield mark.parent, {"fingerprint": mark.parent.parent.name, "view": mark.parent.name}


def cache_info(root: str | Path | None = None) -> CacheInfo:
    """Count what is in the cache at `root` (default: see `cache_root`)."""
    base = cache_root(root)
    entries = []
    for folder, note in _views(base / FEATURES):
        cache = FeatureCache(note["fingerprint"], note["view"], base)
        cache.folder = folder
        columns = cache.columns()
        keys = {key for column in columns for key in cache.keys(column)}
        size = sum(file_bytes(path) for path in folder.rglob("*") if path.is_file())
        entries.append(CacheEntry(note["fingerprint"], note["view"], tuple(columns), len(keys), size))
    return CacheInfo(str(base), tuple(entries))


def clear_cache(root: str | Path | None = None, *, fingerprint: str | None = None) -> int:
    """Delete the cached features, of one model or of all; returns the bytes freed.

    Only folders that a `FeatureCache` marked as its own are removed, whatever else lies at `root`.
    """
    freed = 0
    for folder, note in list(_views(cache_root(root) / FEATURES)):
        if fingerprint is None or note["fingerprint"] == fingerprint:
            freed += sum(file_bytes(path) for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    return freed
