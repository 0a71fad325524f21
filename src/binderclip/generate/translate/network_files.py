"""Folders that keep a network of image translation: its weights, and a card with its kind and settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.documents import json_text
from binderclip.errors import CheckpointError
from binderclip.files import make_folder, why_no_folder, write_whole
from binderclip.models.files.checkpoint import read_json_object
from binderclip.models.files.registry import count_parameters, read_card
from binderclip.models.files.released import read_released

__all__ = ["CARD", "WEIGHTS", "fill_network", "network_card", "read_network", "write_network"]

CARD, WEIGHTS = "card.json", "weights.safetensors"
"""Files of such a folder."""
FORMAT = "binderclip network 1"
"""First key of both, by which a file of ours is known."""


def write_network(
    folder: str | Path, module: nn.Module, card: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> Path:
    """Write the weights and then the card of a network.

    Args:
        folder: made where it is not there.
        module: the network.
        card: plain values, with `kind` and `settings` among them.
        dtype: of the stored weights, such as `torch.float16`; None: as they are.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    place = make_folder(folder)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    if dtype is not None:
        tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    write_whole(place / WEIGHTS, lambda draft: save_file(tensors, draft, {"format": FORMAT}))
    write_whole(place / CARD, json_text({"format": FORMAT, **card}) + "\n")
    return place


def read_network(folder: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the card of a folder; nothing in it is run.

    Args:
        folder: of `write_network`.
        what: it should be, for errors: `a cleaner`.

    Raises:
        CheckpointError: no such folder, or a file of it that is missing, damaged or not finite.
    """
    place = Path(folder)
    if not place.is_dir():
        raise CheckpointError(f"{what} cannot be read: {why_no_folder(place)}")
    card = read_json_object(place / CARD, "settings")
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{place} cannot be read as {what}: its {CARD} is not of {FORMAT!r}")
    return read_released(place / WEIGHTS), card


def network_card(folder: Path) -> dict[str, Any]:
    """The card of a folder of `write_network`, with `parameters`, `megabytes` and `summary` always present."""
    facts = {
        "parameters": count_parameters(folder / WEIGHTS),
        "megabytes": round((folder / WEIGHTS).stat().st_size / 1e6, 1),
    }
    return {"summary": "", **read_card(folder), **facts}


def fill_network(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path, what: str) -> nn.Module:
    """Put weights into a network, in its own precision.

    Args:
        module: in place.
        tensors: of `read_network`.
        source: the folder, for errors.
        what: it should be.

    Raises:
        CheckpointError: tensors that are missing, or of another shape.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{source} cannot be read as {what}: its weights are of another network") from error
    return module
