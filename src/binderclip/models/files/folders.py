"""Model folders of binderclip's own formats: `config.json`, `model.safetensors`, `card.json`.

For models that are no image-text pair (a vision tower, a promptable segmenter); those have open_clip's or
transformers' own formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from binderclip.documents import json_text, parse_json
from binderclip.errors import CheckpointError, UsageError
from binderclip.files import make_folder, write_whole
from binderclip.models.files.borrowed import borrowed_state, without_borrowed
from binderclip.models.files.checkpoint import check_weights_file, check_weights_finite, configured, guarded
from binderclip.models.files.compact import dequantise, quantise
from binderclip.models.files.devices import resolve_dtype
from binderclip.models.files.registry import BUNDLED, count_parameters, read_card

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Folder",
    "bundled_of",
    "compact_folder",
    "folder_card",
    "folder_config",
    "folder_kind",
    "read_folder",
    "write_folder",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
KEY = "binderclip"  # the table of the configuration that says whose folder it is


@dataclass(frozen=True)
class Folder:
    """A folder as it was read: configuration, float32 state, card."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    card: dict[str, Any]


def write_folder(
    folder: str | Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    card: Mapping[str, Any],
    dtype: str | torch.dtype = "float32",
    borrow: str | None = None,
) -> Path:
    """Write a folder; the weights come last and whole, so a folder that has them is complete.

    Args:
        folder: made where it does not exist.
        kind: what it holds, such as "vision" or "promptable".
        config: whatever builds the model again.
        state: its state dict.
        card: recipe, data and figures.
        dtype: of the weights on disk: float32, bfloat16, float16, float64, or "int8" (see `compact.quantise`).
        borrow: name of another model folder, beside this one or bundled; tensors that it holds too are not stored
            again (see `borrowed`).

    Raises:
        UsageError: `folder` is a file, or an unknown precision.
        CheckpointError: nothing can be borrowed from `borrow`.
        OutputError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"cannot save to {folder}: it is a file")
    stored = str(dtype).removeprefix("torch.")
    table: dict[str, Any] = {"kind": kind, "weights": stored}
    if borrow is not None:
        state, table["borrowed"] = without_borrowed(state, borrow, near=folder)
    if dtype == "int8":
        packed = quantise({name: value.detach().cpu() for name, value in state.items()})
    else:
        exact = resolve_dtype(dtype)
        packed = {
            name: value.detach().cpu().to(exact if value.is_floating_point() else value.dtype).contiguous().clone()
            for name, value in state.items()
        }
    make_folder(folder)
    _put(folder / "card.json", card)
    _put(folder / CONFIG, {KEY: table, **config})
    write_whole(folder / WEIGHTS, lambda draft: save_file(packed, draft, {"format": "pt"}))
    return folder


def _put(path: Path, value: Any) -> None:
    write_whole(path, json_text(value) + "\n")


def folder_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a folder of this format, with the table that says so; empty for any other folder."""
    try:
        config = parse_json((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and isinstance(config.get(KEY), dict) else {}


def folder_kind(folder: str | Path) -> str | None:
    """What a folder of this format holds ("vision", "promptable"); None for any other folder."""
    return folder_config(folder).get(KEY, {}).get("kind")


def read_folder(folder: str | Path, kind: str) -> Folder:
    """Read a folder that `write_folder` wrote, or the run folder around it.

    Raises:
        CheckpointError: no such folder, of another kind, damaged or incomplete, or weights that are NaN or infinite.
    """
    folder = Path(folder)
    folder = folder / "model" if folder_kind(folder) is None and folder_kind(folder / "model") else folder
    config = folder_config(folder)
    if not config:
        raise CheckpointError(f"{folder} holds no model of this format: {CONFIG} with a {KEY!r} table is not there")
    declared = config[KEY].get("kind")
    if declared != kind:
        raise CheckpointError(f"{folder} holds a {declared!r} model, and a {kind!r} one is asked for")
    path = check_weights_file(folder / WEIGHTS)
    weights = guarded(lambda: load_file(path), path, f"the {kind} model in {folder}")
    state = configured(lambda: _state(folder, config[KEY], weights), folder / CONFIG)
    check_weights_finite(state, folder)
    return Folder({key: value for key, value in config.items() if key != KEY}, state, read_card(folder))


def _state(folder: Path, table: Mapping[str, Any], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors in float32, those that were borrowed too."""
    state = dequantise(weights) if table.get("weights") == "int8" else {n: v.float() for n, v in weights.items()}
    return state | (borrowed_state(table["borrowed"], near=folder) if "borrowed" in table else {})


def compact_folder(
    source: str | Path, target: str | Path, *, card: Mapping[str, Any] | None = None, borrow: str | None = None
) -> Path:
    """The eight-bit form of a folder, for shipping.

    Args:
        source: a folder of this format, or the run folder around it.
        target: the new folder.
        card: instead of the one in `source`.
        borrow: another model folder, whose tensors are not stored again; as `write_folder` takes it.
    """
    kind = folder_kind(source) or folder_kind(Path(source) / "model")
    if kind is None:
        raise CheckpointError(f"{source} holds no model of this format")
    read = read_folder(source, kind)
    text_of_card = read.card if card is None else card
    return write_folder(
        target, kind=kind, config=read.config, state=read.state, card=text_of_card, dtype="int8", borrow=borrow
    )


def bundled_of(kind: str) -> dict[str, Path]:
    """Name -> folder of the bundled models of a kind."""
    folders = [path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))]
    return {folder.name: folder for folder in folders if folder_kind(folder) == kind}


def folder_card(folder: Path) -> dict[str, Any]:
    """The card with `kind`, `summary`, `parameters` (borrowed ones too) and `megabytes` always present."""
    table = folder_config(folder).get(KEY, {})
    lent = borrowed_state(table["borrowed"], near=folder) if "borrowed" in table else {}
    parameters = count_parameters(folder / WEIGHTS) + sum(value.numel() for value in lent.values())
    facts = {"parameters": parameters, "megabytes": round((folder / WEIGHTS).stat().st_size / 1e6, 1)}
    return {"summary": "", **read_card(folder), "kind": table.get("kind"), **facts}
