"""Pixels of hidden patches, predicted from those that are seen by a small transformer (masked autoencoder)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["MaskedPatchReconstruction", "random_patch_order"]


def random_patch_order(
    count: int, patches: int, ratio: float, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "B n"], Int[Tensor, "B m"]]:
    """Which patches of each picture are seen and which are hidden, drawn anew for each.

    Args:
        count: pictures B.
        patches: of a picture.
        ratio: share that is hidden; of 49 patches 0.75 leaves 12.
        generator: of the draw.

    Raises:
        UsageError: a ratio that leaves no patch, or hides none.
    """
    kept = int(patches * (1 - ratio))
    if not 0 < kept < patches:
        raise UsageError(f"a ratio of {ratio} leaves {kept} of {patches} patches: some are to be seen, some hidden")
    order = torch.rand(count, patches, generator=generator).argsort(1)
    return order[:, :kept], order[:, kept:]


class MaskedPatchReconstruction(nn.Module):
    """The decoder and the loss of a masked autoencoder: mean squared error on the hidden patches alone.

    Args:
        width: D of the seen tokens.
        grid: (h, w) of patches.
        patch: their side in pixels.
        hidden: width of the decoder, a multiple of 4 and of `heads`; default half of `width`.
        depth, heads: of the decoder.

    Raises:
        UsageError: a width of the decoder that does not fit.

    Papers: Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377), in the form that SegCLIP
    (arXiv 2211.14813) has: pixels as the model sees them, not normalised patch by patch.
    """

    places: Tensor

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        patch: int,
        *,
        hidden: int | None = None,
        depth: int = 3,
        heads: int = 8,
    ) -> None:
        super().__init__()
        inner = width // 2 if hidden is None else hidden
        if min(inner, depth, heads) < 1 or inner % 4 or inner % heads:
            raise UsageError(
                f"hidden must be a multiple of 4 and of heads and depth at least 1, not hidden={inner}, "
                f"heads={heads}, depth={depth}"
            )
        self.grid, self.patch = grid, patch
        self.embed = nn.Linear(width, inner)
        self.mask = nn.Parameter(nn.init.normal_(torch.empty(inner), std=0.02))
        self.register_buffer("places", build_sincos2d_pos_embed(list(grid), inner), persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(inner, heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = nn.LayerNorm(inner, eps=1e-6)
        self.predict = nn.Linear(inner, 3 * patch**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Float[Tensor, "B n D"], seen: Int[Tensor, "B n"], pixels: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            tokens: of the patches that are seen; their mean stands for the class token.
            seen: place of each, row by row.
            pixels: of the whole pictures, as the model sees them.
        """
        predicted = self.predicted(tokens, seen)
        target = self.cut(pixels)
        hidden = torch.ones(predicted.shape[:2], device=pixels.device).scatter(1, seen, 0.0)  # (B, N)
        return ((predicted - target).square().mean(-1) * hidden).sum() / hidden.sum()

    def predicted(self, tokens: Float[Tensor, "B n D"], seen: Int[Tensor, "B n"]) -> Float[Tensor, "B N _"]:
        """Pixels of every patch, row by row: (row, column, channel) flattened."""
        known = self.embed(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        start = self.mask.expand(len(tokens), len(self.places), -1).to(known)
        patches = start.scatter(1, seen[..., None].expand(-1, -1, known.shape[-1]), known[:, 1:]) + self.places
        x = torch.cat([known[:, :1], patches], 1)
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(x))[:, 1:]

    def cut(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N _"]:
        """Pixels of each patch as `predicted` orders them.

        Raises:
            UsageError: pictures of another size.
        """
        size = (self.grid[0] * self.patch, self.grid[1] * self.patch)
        if tuple(pixels.shape[-2:]) != size:
            raise UsageError(f"pictures of {tuple(pixels.shape[-2:])} pixels: {size} are asked for")
        cut = pixels.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # (B, 3, h, p, w, p)
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
