"""A tower with low-rank adapters, cut where the first of them stands: what comes before is computed once a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.models import Tokens, lora_
from binderclip.models.layers.lora import first_block
from binderclip.quality.forensics.detector import Detector, Parts, PictureEncoder, checked_side
from binderclip.quality.forensics.views import Places, View, seen


class AdaptedDetector(Detector):
    """What detectors on a tower with adapters share; the model is copied, since adapters change it.

    Args:
        model: a name or an opened model.
        settings: of the constructor, JSON-like.
        view: "crop" or "resize".
        side: of the input in pixels; default the model's.
        r, lora_alpha, lora_dropout, target_modules, blocks: of `lora_`.
    """

    def __init__(
        self, model: PictureEncoder | str, settings: dict[str, Any], *, view: View, side: int | None, r: int,
        lora_alpha: float, lora_dropout: float, target_modules: Sequence[str], blocks: int | Sequence[int] | None,
    ) -> None:  # fmt: skip
        super().__init__(model, settings, adapted=True)
        self.side, self.looks = checked_side(side, self.model), view
        self.tower = self.model.image_tower
        self.patch, self.grid = self.tower.patch, (self.side // self.tower.patch,) * 2
        self.first = first_block(self.model, "image", towers=("image",), blocks=blocks)
        self.lora = lora_(
            self.model, r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=target_modules,
            towers=("image",), blocks=blocks,
        )  # fmt: skip

    def view(self, images: Float[Tensor, "B 3 H W"], places: Places | None = None) -> Parts:
        """The normalised input of the tower."""
        return (seen(images, self.looks, self.side, self.model.preprocess, places),)

    def features(self, views: Parts) -> Parts:
        """Tokens that enter the first adapted block."""
        return (self.tower.run(self.tower.embed(views[0]), stop=self.first).x,)

    def tokens(self, features: Parts) -> Tokens:
        """The same with their places."""
        x = features[0]
        places = torch.arange(x.shape[1], device=x.device)[None]
        return Tokens(x, places, grid=self.grid, prefix=self.tower.prefix)
