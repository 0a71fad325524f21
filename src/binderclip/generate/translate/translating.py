"""Translators of pictures in folders, and whole pictures through them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.generate.translate.network_files import fill_network, read_network, write_network
from binderclip.generate.translate.networks import ResnetTranslator
from binderclip.models.files.devices import resolve_device
from binderclip.numeric import check_whole

__all__ = ["load_translator", "save_translator", "translate_picture"]

UNIT, LEAST = 4, 8
"""Sides that the translator takes are multiples of the first, and at least the second."""


@torch.no_grad()
def translate_picture(
    translator: ResnetTranslator, picture: Float[Tensor, "3 H W"], *, longest: int | None = None
) -> Float[Tensor, "3 h w"]:
    """A picture of domain A as one of domain B.

    Args:
        translator: such as `CUT` trains.
        picture: in [0, 1], of any size.
        longest: of its sides, at which it is translated, where it is longer; the result has that size. None: its own.

    Returns:
        In [0, 1].

    Raises:
        UsageError: a longest below 8.
    """
    if longest is not None:
        check_whole("longest", longest, least=LEAST)
        scale = min(1.0, longest / max(picture.shape[1:]))
        size = [max(1, round(scale * side)) for side in picture.shape[1:]]
        if scale < 1:
            picture = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
    height, width = picture.shape[1:]
    # Continued by its border to sides that the network takes.
    wide, tall = (max(LEAST, -(-side // UNIT) * UNIT) for side in (width, height))
    padded = F.pad(picture[None], (0, wide - width, 0, tall - height), "replicate")
    return ((translator(2 * padded - 1)[0, :, :height, :width] + 1) / 2).clamp(0, 1)


def save_translator(translator: ResnetTranslator, folder: str | Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write a translator.

    Args:
        translator: as trained.
        folder: of its weights and card.
        card: further values, such as what it was trained on.

    Raises:
        OutputError: it cannot be written.
    """
    first: Any = translator.model[1]
    settings = {"ngf": first.out_channels, "n_blocks": translator.n_blocks, "in_channels": translator.in_channels}
    return write_network(folder, translator, {**(card or {}), "kind": "translator", "settings": settings})


def load_translator(
    folder: str | Path, *, device: str | torch.device = "cpu"
) -> tuple[ResnetTranslator, dict[str, Any]]:
    """Open a translator; nothing in its files is run.

    Args:
        folder: of `save_translator`.
        device: where it runs.

    Returns:
        The translator, and its card.

    Raises:
        CheckpointError: no such folder, or it is none of a translator.
        UsageError, NotSupported: no such device.
    """
    where = resolve_device(device)
    tensors, card = read_network(folder, "a translator")
    try:
        if card["kind"] != "translator":
            raise UsageError(f"it is a network of kind {card['kind']!r}")
        translator = ResnetTranslator(**card["settings"])
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{folder} cannot be read as a translator: {str(error).splitlines()[0]}") from error
    fill_network(translator, tensors, folder, "a translator")
    return translator.to(where).eval(), card
