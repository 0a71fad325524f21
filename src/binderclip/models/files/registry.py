"""Which models there are: the bundled ones and what open_clip knows by name."""

from __future__ import annotations

import difflib
import fnmatch
import json
import struct
from pathlib import Path
from typing import Any

from binderclip.documents import parse_json

BUNDLED = Path(__file__).parents[1] / "bundled"
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
SIMILARITY = "similarity.json"
CONCEPTS = "concepts.safetensors"
"""A classifier's concepts beside the towers (`image_text.concepts`)."""
DEFAULT = "everyday"
"""The model of every verb that is not told another."""


def bundled_folders() -> dict[str, Path]:
    """Name -> folder of every model inside the package, `everyday` and `small` first."""
    folders = {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))}
    folders = {name: folder for name, folder in folders.items() if _own_weights(folder) is not None}
    return dict(sorted(folders.items(), key=lambda item: (item[0] != DEFAULT, item[0] != "small", item[0])))


def _own_weights(folder: Path) -> Path | None:
    """The weights that a folder holds itself; those of `CONCEPTS` where its towers are a neighbour's."""
    return next((folder / name for name in (WEIGHTS, CONCEPTS) if (folder / name).is_file()), None)


def _neighbours(folder: Path) -> list[Path]:
    """The weights that a folder takes whole from its neighbours: towers and a classifier."""
    table = parse_json((folder / CONFIG).read_text(encoding="utf-8")).get("binderclip") or {}
    places = ((table.get("towers"), WEIGHTS), (table.get("classifier"), "model.safetensors"))
    return [folder.parent / str(name) / file for name, file in places if name is not None]


def has_concepts(model: str | Path) -> bool:
    """Whether a model, by name or folder, has a classifier beside its image tower; needs no weights."""
    return (bundled_folders().get(str(model), Path(model)) / CONCEPTS).is_file()


def read_card(folder: Path) -> dict[str, Any]:
    """The `card.json` of a model folder ({} where there is none or it is not JSON)."""
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def bundled_cards() -> dict[str, dict[str, Any]]:
    """Name -> card of every bundled model, with `parameters`, `megabytes` and `summary` always present."""
    cards = {}
    for name, folder in bundled_folders().items():
        weights = _own_weights(folder)
        assert weights is not None
        count = count_parameters(weights) + sum(map(count_parameters, _neighbours(folder)))
        facts = {"parameters": count, "megabytes": round(weights.stat().st_size / 1e6, 1)}
        cards[name] = {"summary": "", **read_card(folder), **facts}
    return cards


def count_parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__" and not name.endswith("::scale"):
            size = 1
            for side in entry["shape"]:
                size *= side
            total += size
    return total


def list_models(pattern: str = "*", *, pretrained: bool = True) -> list[str]:
    """Names that `load` takes: the bundled models, then open_clip's.

    Args:
        pattern: keeps the names that match, with `*` and `?` (`"*SigLIP*"`), or that contain it; case does not matter.
        pretrained: True lists open_clip models with their weights (`open_clip:ARCH/TAG`, downloaded when loaded);
            False the bare architectures (`open_clip:ARCH`, randomly initialised).

    `hf:REPO_OR_FOLDER` and folders are loaded by name too; they cannot be listed.
    """
    import open_clip

    if pretrained:
        known = [f"open_clip:{arch}/{tag}" for arch, tag in open_clip.list_pretrained()]
    else:
        known = [f"open_clip:{arch}" for arch in open_clip.list_models()]
    glob = pattern.lower() if any(c in pattern for c in "*?[") else f"*{pattern.lower()}*"
    return [name for name in [*bundled_folders(), *known] if fnmatch.fnmatchcase(name.lower(), glob)]


def close_names(name: str, known: list[str], limit: int = 4) -> list[str]:
    """The known names nearest to a mistyped one, compared without case."""
    lower: dict[str, str] = {}
    for candidate in known:
        lower.setdefault(candidate.lower(), candidate)
    return [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=limit, cutoff=0.6)]
