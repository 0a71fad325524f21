"""Token features of frozen towers: what adapters that look at patches and words take, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


@torch.no_grad()
def patch_tokens(model: ImageTextModel, images: Any, *, batch_size: int = 32) -> Float[Tensor, "N P D"]:
    """The patch tokens of images behind the last block and the final norm, before any projection.

    Args:
        model: its image tower is looked into.
        images: float (N, 3, H, W) in [0, 1], or a sequence of pictures or paths.
        batch_size: images that go through the tower at once.

    Returns:
        float32, on the CPU.

    Raises:
        UsageError: no image.
        DataError: a picture that cannot be read.
    """
    refuse_bare_module(model, "patch_tokens")
    from binderclip.adapt.heads.inputs import features_for

    tower = model.image_tower
    items = images if isinstance(images, Tensor) and images.ndim == 4 else list(images)
    rows = []
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        pixels = batch if isinstance(batch, Tensor) else features_for("images", model, batch)
        tokens = tower.run(tower.embed(model.preprocess(pixels).to(model.device, model.dtype)))
        # Towers that norm after pooling have no norm for single tokens.
        rows.append((tokens.patches if tower.norm_last else tower.norm(tokens.patches)).float().cpu())
    if not rows:
        raise UsageError("images is empty: give at least one")
    return torch.cat(rows)


@dataclass(frozen=True)
class WordTokens:
    """Word tokens of Q texts.

    Attributes:
        states: (Q, M, W) behind the last block and the final norm, before any projection.
        mask: (Q, M), True on words (start and end tokens included), False on padding.
    """

    states: Float[Tensor, "Q M W"]
    mask: Bool[Tensor, "Q M"]


@torch.no_grad()
def word_tokens(model: ImageTextModel, texts: Sequence[str]) -> WordTokens:
    """The word tokens of texts, cut to the longest.

    Raises:
        UsageError: no text.
    """
    refuse_bare_module(model, "word_tokens")
    if isinstance(texts, str) or not len(texts):
        raise UsageError(f"texts is {texts!r}; give a list of at least one text")
    ids = model.tokenize(list(texts))
    tower = model.text_tower
    states = tower.states(tower.run(tower.embed(ids))).float().cpu()
    mask = ids.mask.cpu().bool()
    longest = int(mask.any(0).nonzero().max()) + 1
    return WordTokens(states[:, :longest], mask[:, :longest])
