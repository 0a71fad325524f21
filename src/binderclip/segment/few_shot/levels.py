"""Frozen backbones as pyramids: the output of every block, in three levels of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.encoder import PictureModel
from binderclip.models.image_text.image_classifier import ImageClassifier
from binderclip.models.image_text.preprocess import ImageLike

__all__ = ["LEVELS", "CorrelationBackbone", "Levels", "SupportFeatures"]

LEVELS = 3
GRID = 16
"""Cells along the side of the finest level, where no size is given."""

Levels: TypeAlias = "list[list[Tensor]]"
"""Feature maps (B, C, h, w) of three levels, deepest first; maps of one level share their grid, not their channels."""


@dataclass(frozen=True)
class SupportFeatures:
    """Support pictures as a backbone saw them: whole, and with everything but the target blacked out.

    Attributes:
        whole: of the pictures as they are.
        masked: of the pictures times their masks.
        mask: of the target, in {0, 1}, at the side that the backbone saw.
    """

    whole: Levels
    masked: Levels
    mask: Float[Tensor, "K S S"]

    def __len__(self) -> int:
        return len(self.mask)

    @staticmethod
    def stacked(parts: Sequence[SupportFeatures]) -> SupportFeatures:
        """Those of all parts as one batch."""
        return SupportFeatures(
            stack_levels([part.whole for part in parts]),
            stack_levels([part.masked for part in parts]),
            torch.cat([part.mask for part in parts]),
        )


def stack_levels(parts: Sequence[Levels]) -> Levels:
    """Levels of several batches as one."""
    return [
        [torch.cat([part[level][place] for part in parts]) for place in range(len(parts[0][level]))]
        for level in range(LEVELS)
    ]


class CorrelationBackbone:
    """A frozen network as a pyramid of three levels; pictures are squashed to a square, so that no border is lost.

    Of a convolutional classifier (`lite0`) the outputs of all blocks at its three coarsest strides. Of a tower of
    transformer blocks (`small`, `small-dino`) the patch tokens after each block: the blocks are cut into three groups,
    and the deeper two are averaged to half and a quarter of the grid.

    Args:
        model: an `ImageClassifier` of timm with `blocks`, a `VisionModel` or an `ImageTextModel`.
        size: side in pixels at which pictures are seen; default 16 cells of the finest level (128 for `lite0` and
            `small-dino`, 256 for `small`).

    Raises:
        UsageError: a size that the coarsest level does not divide, or a tower of fewer than three blocks.
        NotSupported: a network that is neither.

    Examples:
        >>> from binderclip.models import load_vision
        >>> backbone = CorrelationBackbone(load_vision("lite0"))
        >>> backbone.size, backbone.counts
        (128, (5, 6, 2))
    """

    def __init__(self, model: ImageClassifier | PictureModel, size: int | None = None) -> None:
        refuse_bare_module(model, "CorrelationBackbone")
        self.model = model
        stride = self._finest()
        self.size = GRID * stride if size is None else size
        if self.size < 1 or self.size % (4 * stride):
            raise UsageError(f"size {size} is no multiple of {4 * stride}, the side of a cell of the coarsest level")
        with torch.no_grad():
            levels = self(torch.zeros(1, 3, self.size, self.size, device=model.device))
        self.counts: tuple[int, int, int] = tuple(len(level) for level in levels)  # type: ignore[assignment]

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.model.name)

    def _finest(self) -> int:
        """Pixels a cell of the finest level."""
        if isinstance(self.model, ImageClassifier):
            if not hasattr(self.model.module, "blocks"):
                raise NotSupported(f"{self.name}: only networks of timm with `blocks` give a pyramid")
            reductions = sorted({int(entry["reduction"]) for entry in self.model.module.feature_info})  # type: ignore[union-attr]
            return reductions[-LEVELS]
        tower = self.model.image_tower
        if tower.depth < LEVELS:
            raise UsageError(f"{self.name} has {tower.depth} blocks, and three levels are cut out of at least {LEVELS}")
        return int(tower.patch)

    def pixels(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "B 3 S S"]:
        """Pictures squashed and normalised, as the network sees them.

        Args:
            images: one or many, as `Preprocess` takes them.

        Raises:
            DataError: a picture that cannot be read. UsageError: none is given.
        """
        squash = replace(self.model.preprocess, size=(self.size, self.size), resize_mode="squash")
        return squash(images).to(self.model.device)

    @torch.no_grad()
    def __call__(self, pixels: Float[Tensor, "B 3 S S"]) -> Levels:
        """Feature maps of normalised pixels."""
        if isinstance(self.model, ImageClassifier):
            return self._convolutional(pixels)
        return self._transformer(pixels)

    def _convolutional(self, pixels: Tensor) -> Levels:
        net: Any = self.model.module  # type: ignore[union-attr]
        maps: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
            for stage in net.blocks
            for block in stage
        ]
        try:
            net.forward_features(pixels)
        finally:
            for handle in handles:
                handle.remove()
        sides = sorted({each.shape[-1] for each in maps})[:LEVELS]
        return [[each.float() for each in maps if each.shape[-1] == side] for side in sides]

    def _transformer(self, pixels: Tensor) -> Levels:
        tower: Any = self.model.image_tower  # type: ignore[union-attr]
        tokens, maps = tower.embed(pixels), []
        for block in range(tower.depth):
            tokens = tower.run(tokens, start=block, stop=block + 1)
            maps.append(tokens.patches.mT.unflatten(2, tower.grid_of(pixels)).float())
        # Deepest first; where the blocks do not go into three, the deeper groups are the larger ones.
        ends = [tower.depth * place // LEVELS for place in range(LEVELS + 1)]
        groups = [maps[start:stop] for start, stop in pairwise(ends)][::-1]
        return [[F.avg_pool2d(each, 4 >> level) for each in group] for level, group in enumerate(groups)]

    def support(self, pixels: Float[Tensor, "K 3 S S"], masks: Float[Tensor, "K S S"]) -> SupportFeatures:
        """Both passes of support pictures: as they are, and normalised pixels times the mask.

        Args:
            pixels: from `pixels`.
            masks: of the target, in {0, 1}.

        Raises:
            DataError: a mask without a pixel.
        """
        if empty := [place for place, mask in enumerate(masks) if not bool(mask.any())]:
            raise DataError(f"the mask of example {empty[0] + 1} is empty: mark the pixels of what is to be found")
        masks = masks.to(pixels)
        return SupportFeatures(self(pixels), self(pixels * masks[:, None]), masks)
