"""`load_data`: one text names any data set, for recipes and the command line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from binderclip.data.images import WHITE
from binderclip.data.storage import is_object, list_objects
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    from binderclip.data.sets.dataset import ImageTextDataset
    from binderclip.data.sets.shards import ShardDataset


_SHARDS = (".tar", ".tar.gz", ".tgz")
NamedSet = Literal[
    "packs", "openclipart", "noto-emoji", "icons", "openmoji", "fashion-mnist", "digits", "photographs", "textile"
]
"""What `list_data` lists: sets that are not streamed."""


def list_data() -> list[str]:
    """The names `load_data` knows, besides folders and shards."""
    from binderclip.data.sets.named import SETS
    from binderclip.data.sets.packs import PACKS

    return ["packs", *PACKS, *SETS]


@overload
def load_data(
    spec: NamedSet,
    split: str | None = None,
    *,
    mode: Literal["RGB", "RGBA"] = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
    allow_pipe: bool = False,
) -> ImageTextDataset: ...


@overload
def load_data(
    spec: str,
    split: str | None = None,
    *,
    mode: Literal["RGB", "RGBA"] = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
    allow_pipe: bool = False,
) -> ImageTextDataset | ShardDataset: ...


def load_data(
    spec: str,
    split: str | None = None,
    *,
    mode: Literal["RGB", "RGBA"] = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
    allow_pipe: bool = False,
) -> ImageTextDataset | ShardDataset:
    """Open the data set that `spec` names.

    `load_data("packs", "train")`, `load_data("openclipart,noto-emoji", "val")`, `load_data("fashion-mnist", "test")`,
    `load_data("photos/")`, `load_data("shards/photos-{000..009}.tar")`.

    Args:
        spec: packs (`openclipart`, `noto-emoji`, `icons`, `openmoji`, or `packs` for the first three), real sets
            (`fashion-mnist`, `digits`, `photographs`, `textile`), a folder or zip archive of images (`load_folder`),
            Parquet files with pictures or a folder of `save_to_disk` (`load_tables`), or a comma-separated list of
            these, joined; or WebDataset shards (`.tar`, local or remote, brace ranges, or a folder of them), which are
            streamed; or a folder of shards on object storage, `s3://bucket/folder/`.
        split: which part; None for everything. Shards have none but those that a folder or its files are named after.
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        size_hint: lets large JPEGs of a folder be decoded at reduced size (see `open_image`).
        allow_pipe: whether shards named `pipe:COMMAND` may run that command (see `ShardDataset`).

    Raises:
        UsageError: there is no such set or split; the message lists what there is.
        DataError: it exists but holds nothing usable, or is not on this machine; the message says how to get it.
    """
    from binderclip.data.sets.dataset import join

    spec = str(spec).strip()
    if _is_shards(spec):
        from binderclip.data.sets.shards import ShardDataset

        if split is not None:
            raise UsageError(f"shards have no splits: name the shards of {split!r} instead of {spec}")
        return ShardDataset(spec, mode=mode, background=background, allow_pipe=allow_pipe)
    if is_object(spec):
        from binderclip.data.sets.shards import ShardDataset

        return ShardDataset(_shards_at(spec, split), mode=mode, background=background)
    parts = [spec] if Path(spec).exists() else [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"an empty data set name; there are {', '.join(list_data())}, a folder, or shards (.tar)")
    if len(parts) == 1 and (shards := _shards_in(Path(parts[0]), split)):
        from binderclip.data.sets.shards import ShardDataset

        return ShardDataset(shards, mode=mode, background=background)
    return join([_load_one(part, split, mode, background, size_hint) for part in parts])


def held_out_split(spec: str) -> str | None:
    """The split of a named set that no bundled model was trained on: "test", for `openmoji` "shift".

    Args:
        spec: as for `load_data`.

    Returns:
        None where there are no splits to choose from: a folder, or shards.

    Raises:
        UsageError: joined sets whose held-out splits have different names.
    """
    spec = str(spec).strip()
    names = [part.strip() for part in spec.split(",") if part.strip()]
    if _is_shards(spec) or Path(spec).exists() or not set(names) <= set(list_data()):
        return None
    splits = {"shift" if name == "openmoji" else "test" for name in names}
    if len(splits) > 1:
        raise UsageError(f"{spec}: openmoji's held-out split is 'shift', the others' is 'test': name them one by one")
    return splits.pop() if splits else None


def _is_shards(spec: str) -> bool:
    path = spec.split("?")[0].rstrip("}")
    return path.endswith(_SHARDS) or spec.lower().startswith("pipe:") or "::" in spec


def _shards_at(folder: str, split: str | None) -> list[str]:
    """The shards below an address of objects.

    Raises:
        DataError: there are none, or the server cannot be reached.
    """
    shards = _of_split(list_objects(folder, _SHARDS), split, folder)
    if not shards:
        raise DataError(f"{folder}: no shards (.tar) below this address")
    return shards


def _shards_in(folder: Path, split: str | None) -> list[Path]:
    """The shards of a folder that holds shards and no pictures, or those of one split by their names."""
    from binderclip.data.files import list_files
    from binderclip.data.images import IMAGE_SUFFIXES

    if not folder.is_dir():
        return []
    files, _ = list_files(folder, suffixes={*IMAGE_SUFFIXES, ".tar", ".gz", ".tgz"})
    shards = [name for name in files if name.lower().endswith(_SHARDS)]
    if not shards or any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files):
        return []
    return [folder / name for name in _of_split(shards, split, folder)]


def _of_split(shards: list[str], split: str | None, folder: str | Path) -> list[str]:
    from binderclip.data.sets.columnar import split_in_name

    if split is None:
        return shards
    have = sorted({part for name in shards if (part := split_in_name(name))})
    if split not in have:
        raise UsageError(f"{folder} has no split {split!r}: its shards are named after {', '.join(have) or 'none'}")
    return [name for name in shards if split_in_name(name) == split]


def _load_one(
    name: str,
    split: str | None,
    mode: Literal["RGB", "RGBA"],
    background: tuple[int, int, int],
    size_hint: int | None,
) -> ImageTextDataset:
    from binderclip.data.sets.named import SETS
    from binderclip.data.sets.packs import PACKS, load_packs

    if name == "packs" or name in PACKS:
        return load_packs(name, split, mode=mode, background=background)
    if name in SETS:
        return SETS[name](split, mode=mode, background=background)
    path = Path(name)
    if path.exists():
        from binderclip.data.images import list_images
        from binderclip.data.sets.columnar import has_picture_files, has_pictures, is_saved, load_tables
        from binderclip.data.sets.folder import load_folder

        reading: dict[str, Any] = {"mode": mode, "background": background, "size_hint": size_hint}
        in_file = path.is_file() and path.suffix.lower() == ".parquet" and has_pictures(path)
        if in_file or (path.is_dir() and (is_saved(path) or (not list_images(path) and has_picture_files(path)))):
            return load_tables(path, split, **reading)
        return load_folder(name, split, **reading)
    close = difflib.get_close_matches(name, list_data(), 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(
        f"no data set {name!r}{hint}: there are {', '.join(list_data())}, a folder of images, a zip, Parquet, shards "
        "('name-{000..009}.tar')"
    )
