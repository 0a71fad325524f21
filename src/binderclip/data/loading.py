"""`load_data`: one text names any data set, for recipes and the command line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from binderclip.data.images import WHITE
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.data.dataset import ImageTextDataset
    from binderclip.data.shards import ShardDataset


def list_data() -> list[str]:
    """The names `load_data` knows, besides folders and shards."""
    from binderclip.data.packs import PACKS
    from binderclip.data.sets import SETS

    return ["packs", *PACKS, *SETS]


def load_data(
    spec: str,
    split: str | None = None,
    *,
    mode: Literal["RGB", "RGBA"] = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
) -> ImageTextDataset | ShardDataset:
    """Open the data set that `spec` names.

    `load_data("packs", "train")`, `load_data("openclipart,noto-emoji", "val")`, `load_data("fashion-mnist", "test")`,
    `load_data("photos/")`, `load_data("shards/photos-{000..009}.tar")`.

    Args:
        spec: packs (`openclipart`, `noto-emoji`, `icons`, `openmoji`, or `packs` for the first three), real sets
            (`fashion-mnist`, `digits`, `photographs`, `textile`), a folder of images, or a comma-separated list of
            these, joined; or WebDataset shards (`.tar`, local or remote, brace ranges), which are streamed.
        split: which part; None for everything. Shards have no splits.
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        size_hint: lets large JPEGs of a folder be decoded at reduced size (see `open_image`).

    Raises:
        UsageError: there is no such set or split; the message lists what there is.
        DataError: it exists but holds nothing usable, or is not on this machine; the message says how to get it.
    """
    from binderclip.data.dataset import join

    spec = str(spec).strip()
    if _is_shards(spec):
        from binderclip.data.shards import ShardDataset

        if split is not None:
            raise UsageError(f"shards have no splits: name the shards of {split!r} instead of {spec}")
        return ShardDataset(spec, mode=mode, background=background)
    parts = [spec] if Path(spec).exists() else [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"an empty data set name; there are {', '.join(list_data())}, a folder, or shards (.tar)")
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
    found = {"shift" if name == "openmoji" else "test" for name in names}
    if len(found) > 1:
        raise UsageError(f"{spec}: openmoji's held-out split is 'shift', the others' is 'test': name them one by one")
    return found.pop() if found else None


def _is_shards(spec: str) -> bool:
    path = spec.split("?")[0].rstrip("}")
    return path.endswith((".tar", ".tar.gz", ".tgz")) or spec.startswith("pipe:") or "::" in spec


def _load_one(
    name: str,
    split: str | None,
    mode: Literal["RGB", "RGBA"],
    background: tuple[int, int, int],
    size_hint: int | None,
) -> ImageTextDataset:
    from binderclip.data.packs import PACKS, load_packs
    from binderclip.data.sets import SETS

    if name == "packs" or name in PACKS:
        return load_packs(name, split, mode=mode, background=background)
    if name in SETS:
        return SETS[name](split, mode=mode, background=background)
    if Path(name).exists():
        from binderclip.data.folder import load_folder

        return load_folder(name, split, mode=mode, background=background, size_hint=size_hint)
    close = difflib.get_close_matches(name, list_data(), 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(
        f"no data set {name!r}{hint}: there are {', '.join(list_data())}, a folder of images, or shards "
        "('name-{000..009}.tar')"
    )
