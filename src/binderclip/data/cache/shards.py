"""One column of the feature cache: shards on disk and the index of their rows."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from binderclip.data.storage import write_place
from binderclip.documents import parse_json

_SUFFIX = ".safetensors"
_MANY = 48  # shards of a column from which small ones are merged
_SMALL = 8 * 2**20  # bytes up to which a shard counts as small


def bytes_of(rows: Tensor) -> np.ndarray:
    """The raw bytes of a tensor, along its last axis."""
    return rows.contiguous().view(torch.uint8).numpy()


@dataclass
class Column:
    """The shards of one column and an index of their rows, brought up to date before each use."""

    folder: Path
    index: dict[str, tuple[str, int]] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict)
    damaged: set[tuple[str, int]] = field(default_factory=set)

    def keys(self) -> list[str]:
        self._refresh()
        return list(self.index)

    def put(self, keys: list[str], rows: Tensor) -> None:
        write_place(self.folder / shard_name(time.time_ns()), pack_rows(keys, rows), sync=False)  # each row has its sum
        self._refresh()
        if len(self.known) >= _MANY:
            self._merge()

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        for attempt in range(4):  # another process may merge shards or clear the cache between listing and reading
            self._refresh()
            by_shard: dict[str, list[tuple[str, int]]] = {}
            for key in dict.fromkeys(keys):
                if key in self.index:
                    shard, row = self.index[key]
                    by_shard.setdefault(shard, []).append((key, row))
            try:
                rows: dict[str, Tensor] = {}
                for shard, places in by_shard.items():
                    rows.update(self._rows(shard, places))
                return rows
            except FileNotFoundError:
                time.sleep(0.01 * attempt)
        return {}

    def _rows(self, shard: str, places: list[tuple[str, int]]) -> Iterator[tuple[str, Tensor]]:
        try:
            with _opened(self.folder / shard) as file:
                values, sums = file.get_tensor("values"), file.get_tensor("sums").tolist()
        except SafetensorError as error:
            self._drop(shard, str(error))
            return
        flat = bytes_of(values.reshape(len(values), -1))
        bad = []
        for key, row in places:
            if zlib.crc32(flat[row].tobytes(), zlib.crc32(key.encode())) == sums[row]:
                yield key, values[row].clone()
            else:
                bad.append(key)
                self.damaged.add((shard, row))
                del self.index[key]
        if bad:
            warnings.warn(
                f"{len(bad)} entries of the cache are damaged and will be computed again ({self.folder / shard})",
                RuntimeWarning,
                stacklevel=2,
            )

    def _refresh(self) -> None:
        try:
            present = sorted(name for name in os.listdir(self.folder) if name.endswith(_SUFFIX))
        except FileNotFoundError:
            present = []
        if present == list(self.known):
            return
        newest = next(reversed(self.known), "")
        if present[: len(self.known)] != list(self.known) or any(name < newest for name in present[len(self.known) :]):
            before, self.known, self.index = self.known, {}, {}  # shards went or came in between: index all again
        else:
            before = {}
        for name in present[len(self.known) :]:
            keys = before[name] if name in before else self._shard_keys(name)
            if keys:
                self.known[name] = keys
                fresh = {key: (name, row) for row, key in enumerate(keys) if (name, row) not in self.damaged}
                self.index.update(fresh)

    def _shard_keys(self, name: str) -> list[str]:
        try:
            with _opened(self.folder / name) as file:
                keys = parse_json((file.metadata() or {})["keys"])
                shapes = [file.get_slice(part).get_shape() for part in ("values", "sums")]
                if [shape[0] for shape in shapes] != [len(keys)] * 2:
                    raise ValueError("keys and values differ in number")
                return keys
        except FileNotFoundError:
            return []
        except (SafetensorError, KeyError, ValueError) as error:
            self._drop(name, str(error))
            return []

    def _drop(self, name: str, reason: str) -> None:
        warnings.warn(
            f"{self.folder / name} is damaged and is removed; its entries will be computed again ({reason})",
            RuntimeWarning,
            stacklevel=2,
        )
        with contextlib.suppress(PermissionError):  # a cache that may only be read keeps its damaged shard
            (self.folder / name).unlink(missing_ok=True)
        self.known.pop(name, None)
        self.index = {key: place for key, place in self.index.items() if place[0] != name}

    def _merge(self) -> None:
        """Put many small shards into one for each dtype and shape; the old ones go when the new one is in place.

        Two processes may do this at once: the same rows are then stored twice, which costs space and no truth.
        """
        small = [name for name in self.known if file_bytes(self.folder / name) <= _SMALL]
        groups: dict[tuple, tuple[list[str], list[Tensor]]] = {}
        for name in small:
            places = [(key, row) for row, key in enumerate(self.known[name]) if self.index.get(key) == (name, row)]
            try:
                for key, value in list(self._rows(name, places)):
                    keys, rows = groups.setdefault((value.dtype, tuple(value.shape)), ([], []))
                    keys.append(key)
                    rows.append(value)
            except FileNotFoundError:
                return  # another process is merging them
        if len(small) > len(groups):
            stamp = max(int(name.split("-")[0]) for name in small)
            for keys, rows in groups.values():
                write_place(self.folder / shard_name(stamp), pack_rows(keys, torch.stack(rows)), sync=False)
            for name in small:
                (self.folder / name).unlink(missing_ok=True)
            self._refresh()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a shard; one that another process deletes meanwhile is a FileNotFoundError at whatever step.

    safetensors opens the file a second time through torch, which reports a missing file as a plain RuntimeError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except RuntimeError as error:
        if path.exists():
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error


def shard_name(stamp: int) -> str:
    """Names sort by time: of two values of a key the later shard's is taken."""
    return f"{stamp:020d}-{os.getpid():x}-{uuid.uuid4().hex[:8]}{_SUFFIX}"


def pack_rows(keys: Iterable[str], rows: Tensor) -> bytes:
    """A shard: values, a checksum over key and bytes of each row, and the keys in the header."""
    names = list(keys)
    flat = bytes_of(rows.reshape(len(rows), -1))
    sums = [zlib.crc32(flat[row].tobytes(), zlib.crc32(key.encode())) for row, key in enumerate(names)]
    tensors = {"values": rows.contiguous(), "sums": torch.tensor(sums, dtype=torch.int64)}
    return save(tensors, metadata={"keys": json.dumps(names)})


def file_bytes(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
