"""Middle feature maps and the embedding of an image tower, at a picture's own size, for losses in feature space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.towers.kinds.convolutional import ConvolutionalTower, ResNetMap
from binderclip.models.towers.tokens import Tokens


class Seen(NamedTuple):
    """What a tower sees in a batch.

    Attributes:
        maps: (B, C, h, w) of each level asked for.
        embedding: unit embeddings, (B, E).
    """

    maps: list[Tensor]
    embedding: Float[Tensor, "B E"]


class MiddleMaps:
    """Middle maps and the embedding of pictures in one pass; gradients reach the pixels.

    Of CLIP's ResNets level l is the output of stage l (strides 4, 8, 16 and 32), the embedding is pooled without
    positions; of a transformer it is the patch tokens behind block l. Level 0 is the stem, or the tokens that enter the
    first block.

    Args:
        model: frozen by whoever trains something in front of it.
        levels: from 0; default the three of SFD.

    Raises:
        UsageError: no level, or one that the tower has not.
        NotSupported: a convolutional tower of another kind.
    """

    def __init__(self, model: ImageTextModel, levels: Sequence[int] = (1, 2, 3)) -> None:
        refuse_bare_module(model, "MiddleMaps")
        self.model, self.levels, self.tower = model, tuple(levels), model.dense_tower
        if isinstance(self.tower, ConvolutionalTower) and not isinstance(self.tower, ResNetMap):
            raise NotSupported(f"middle maps of {model.name}: a CLIP ResNet or a transformer is needed")
        depth = 4 if isinstance(self.tower, ResNetMap) else self.tower.depth
        if not self.levels or not all(0 <= level <= depth for level in self.levels):
            raise UsageError(f"levels {list(levels)}: at least one, from 0 to {depth} for {model.name}")

    @property
    def channels(self) -> list[int]:
        """C of each level."""
        if not isinstance(self.tower, ResNetMap):
            return [self.tower.width] * len(self.levels)
        stages = [getattr(self.tower.module, f"layer{level or 1}") for level in self.levels]
        return [
            stage[-1].conv3.out_channels if level else stage[0].conv1.in_channels
            for level, stage in zip(self.levels, stages, strict=True)
        ]

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Seen:
        """Maps and embeddings.

        Args:
            images: about [0, 1]; both sides multiples of the tower's patch. They are not cut at 0 and 1, so that
                gradients pass everywhere.
        """
        tower, patch = self.tower, self.tower.patch
        if images.shape[-2] % patch or images.shape[-1] % patch or not images.numel():
            size = f"{images.shape[-2]} x {images.shape[-1]}"
            raise UsageError(f"images of {size} pixels: both sides must be multiples of {patch} for {self.model.name}")
        pixels = self.model.preprocess.normalize(images.to(tower.device)).to(tower.dtype)
        maps: dict[int, Tensor] = {}
        if isinstance(tower, ResNetMap):
            x = maps[0] = tower.module.stem(pixels)
            for level in range(1, 5):
                x = maps[level] = getattr(tower.module, f"layer{level}")(x)
            embedding = tower.attend(x, positions=False)
        else:
            grid = tower.grid_of(pixels)

            def keep(block: int, tokens: Tokens) -> Tokens:  # called before every block
                maps[block] = tokens.patches.mT.unflatten(2, grid)
                return tokens

            last = tower.run(tower.embed(pixels), on_block=keep)
            maps[tower.depth] = last.patches.mT.unflatten(2, grid)
            embedding = tower.project(tower.pool(last))
        return Seen([maps[level] for level in self.levels], F.normalize(embedding.float(), dim=-1))
