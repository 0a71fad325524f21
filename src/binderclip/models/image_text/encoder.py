"""`PictureModel`: what every model with an opened image tower has, with or without a text side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from binderclip.models.image_text.preprocess import Preprocess

if TYPE_CHECKING:
    from binderclip.models.towers import Tower

__all__ = ["PictureModel"]


class PictureModel(nn.Module):
    """Base of `ImageTextModel` and `VisionModel`: a library's own model, and how pictures go into it.

    Args:
        backbone: the library's model.
        name: it goes by.
        preprocess: pictures -> normalised input.
        card: recipe, data and figures.
    """

    # Its attributes are another library's, which types cannot follow.
    backbone: Any

    def __init__(
        self, backbone: nn.Module, *, name: str, preprocess: Preprocess, card: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        self.backbone, self.name, self.preprocess = backbone, name, preprocess
        self.card: dict[str, Any] = dict(card or {})
        self.history: list[str] = []
        self._cache: dict[str, Any] = {}

    @property
    def visual(self) -> nn.Module:
        """The module that holds the image tower."""
        return self.backbone

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.visual.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the image tower; features are float32 or better whatever it is."""
        return next(self.visual.parameters()).dtype

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side in pixels of the input, or (h, w) where it is not square."""
        h, w = self.preprocess.size
        return h if h == w else (h, w)

    @property
    def image_tower(self) -> Tower:
        """The image side opened up: blocks, attention, traces (see `models.towers`).

        Raises:
            NotSupported: the backbone is of a class that cannot be opened.
        """
        if "image_tower" not in self._cache:
            from binderclip.models.towers import open_image_tower

            pixels = self.preprocess
            self._cache["image_tower"] = open_image_tower(self.backbone, mean=pixels.mean, std=pixels.std)
        return self._cache["image_tower"]
