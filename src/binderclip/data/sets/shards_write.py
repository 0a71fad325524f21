"""Writing data sets as WebDataset shards."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from binderclip.data.formats.tables import read_json
from binderclip.data.images import composite, open_header
from binderclip.data.sets.dataset import ImageTextDataset
from binderclip.data.sets.sample import Sample
from binderclip.data.sets.shards import SIZES, EncodedSample, read_groups
from binderclip.errors import DataError, UsageError, require
from binderclip.files import make_folder, write_whole


def write_shards(
    samples: Iterable[Sample],
    pattern: str | os.PathLike[str],
    *,
    per_shard: int = 1000,
    encode: Literal["keep", "png", "jpg"] = "keep",
) -> list[Path]:
    """Write samples as WebDataset shards, and `sizes.json` beside them.

    Each shard is written under a temporary name and renamed when it is whole; equal samples give equal bytes.

    Args:
        samples: an `ImageTextDataset`, or any iterable of samples. What cannot be read is left out and stands in the
            data set's `skipped`.
        pattern: path of the shards with a number in it: `out/packs-%05d.tar`.
        per_shard: samples in a shard.
        encode: "keep" copies the encoded pictures of a data set as they are (PNG where there are none), "png" or "jpg"
            (quality 95, on white) encode anew.

    Returns:
        The shards' paths.
    """
    text = os.fspath(pattern)
    try:
        distinct = text % 0 != text % 1
    except (TypeError, ValueError):
        distinct = False
    if not distinct:
        raise UsageError(f"write_shards: {text!r} needs a place for the shard's number: 'name-%05d.tar'")
    if per_shard < 1 or encode not in ("keep", "png", "jpg"):
        raise UsageError(f"write_shards: per_shard {per_shard} is at least 1, encode {encode!r} is keep, png or jpg")
    writer: Any = require("webdataset.writer", "train")
    paths: list[Path] = []
    sizes: dict[str, int] = {}
    entries = _entries(samples, encode)
    entry = next(entries, None)
    while entry is not None:
        path = Path(text % len(paths))
        make_folder(path.parent)
        taken = itertools.chain([entry], itertools.islice(entries, per_shard - 1))
        sizes[path.name] = _write_tar(writer.TarWriter, taken, path)
        paths.append(path)
        entry = next(entries, None)
    if not paths:
        raise DataError("write_shards: there is no readable sample to write")
    write_whole(paths[0].parent / SIZES, json.dumps(sizes, indent=1) + "\n")
    return paths


def copy_shard(url: str, rows: Collection[int], path: str | os.PathLike[str]) -> Path:
    """Write a shard again with some of its samples, all their parts as they are.

    Args:
        url: of the shard.
        rows: which of the samples that `read_encoded` gives, counted from 0.
        path: of the new shard; it is there only when it is whole, and `sizes.json` beside it knows it.

    Raises:
        OutputError: the disk cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        number = -1
        with tarfile.open(draft, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for group, sample in read_groups(url):
                number += isinstance(sample, EncodedSample)
                if isinstance(sample, EncodedSample) and number in rows:
                    count += 1
                    for suffix, data in group.parts.items():
                        member = tarfile.TarInfo(f"{group.key}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))

    write_whole(path, write)
    _note_size(path, count)
    return path


def _write_tar(tar_writer: Any, entries: Iterable[dict[str, Any]], path: Path) -> int:
    """Write a shard, and give the number of its samples."""
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        options = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}  # ustar has no room for long names
        with draft.open("wb") as stream, tar_writer(stream, **options) as tar:
            for entry in entries:
                tar.write(entry)
                count += 1

    write_whole(path, write)
    return count


def _note_size(path: Path, count: int) -> None:
    place = path.parent / SIZES
    try:
        sizes = dict(read_json(place.read_bytes()))
    except (OSError, ValueError, TypeError, DataError):
        sizes = {}  # there is none yet, or it tells nothing
    write_whole(place, json.dumps({**sizes, path.name: count}, indent=1) + "\n")


def _entries(samples: Iterable[Sample], encode: str) -> Iterator[dict[str, Any]]:
    rows = {key: row for row, key in enumerate(samples.keys)} if isinstance(samples, ImageTextDataset) else {}
    used: set[str] = set()
    for sample in samples:
        raw = samples.encoded(rows[sample.key]) if isinstance(samples, ImageTextDataset) and encode == "keep" else None
        suffix, data = (_suffix(raw), raw) if raw is not None else _encoded(sample, encode)
        folder, slash, base = sample.key.rpartition("/")
        name = folder + slash + base.replace(".", "_")  # what follows the first dot is the suffix of a part
        while name in used:
            name += "_"
        used.add(name)
        record: dict[str, Any] = {"key": sample.key, **sample.attributes, "source": sample.source}
        if sample.label is not None:
            record["label"] = sample.label
            if isinstance(samples, ImageTextDataset):
                record["class"] = samples.classes[sample.label]
        yield {
            "__key__": name,
            suffix: data,
            **(
                {"txt": sample.caption.encode()} if sample.caption.strip() else {}
            ),  # an empty one is refused by readers
            "json": json.dumps(record, ensure_ascii=False, sort_keys=True, default=str).encode(),
        }


def _suffix(data: bytes) -> str:
    with open_header(io.BytesIO(data)) as image:
        return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(image.format or "PNG", (image.format or "PNG").lower())


def _encoded(sample: Sample, encode: str) -> tuple[str, bytes]:
    out = io.BytesIO()
    if encode == "jpg":
        composite(sample.image).save(out, "JPEG", quality=95)
        return "jpg", out.getvalue()
    sample.image.save(out, "PNG")
    return "png", out.getvalue()
