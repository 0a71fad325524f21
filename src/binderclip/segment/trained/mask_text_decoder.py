"""A pyramid of features on a tower's patches, and a decoder in which mask queries and text tokens look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.segment.trained.panoptic import MaskPrediction

__all__ = ["DecodedMasks", "MaskTextDecoder", "PatchPyramid"]


class PatchPyramid(nn.Module):
    """Maps at a half, once, twice and four times the grid of a tower's patches, each with what the coarser ones know.

    A plain tower has one grid; finer ones come from transposed convolutions, with a half and a quarter of the channels
    as in the released ViTDet, the coarser one from pooling, and each takes over the next coarser one's sum.

    Args:
        width: D of the tower.
        out: channels of all maps, a multiple of 8.

    Papers: Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527); Feature Pyramid
    Networks for Object Detection (arXiv 1612.03144).
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        half, quarter = max(8, width // 2), max(8, width // 4)
        self.steps = nn.ModuleList(
            [
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Identity(),
                nn.ConvTranspose2d(width, half, 2, 2),
                nn.Sequential(
                    nn.ConvTranspose2d(width, half, 2, 2), nn.GroupNorm(1, half), nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
            ]
        )  # fmt: skip
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(each, out, 1, bias=False), nn.GroupNorm(8, out))
            for each in (width, width, half, quarter)
        )
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.ReLU())
            for _ in range(4)
        )

    def forward(self, maps: Float[Tensor, "B D h w"]) -> list[Float[Tensor, "B C _ _"]]:
        """The four maps, coarsest first."""
        levels: list[Tensor] = []
        for step, lateral, smooth in zip(self.steps, self.lateral, self.smooth, strict=True):
            own = lateral(step(maps))
            if levels:
                own = own + F.interpolate(levels[-1], own.shape[-2:], mode="bilinear", align_corners=False)
            levels.append(smooth(own))
        return levels


@dataclass(frozen=True)
class DecodedMasks:
    """What `MaskTextDecoder` found.

    Attributes:
        layers: before the first layer and after each: logits of masks on the finest map, and of classes.
        queries: of the N masks after the last layer.
        texts: of the T text tokens, which have met the picture.
    """

    layers: list[MaskPrediction]
    queries: Float[Tensor, "B N C"]
    texts: Float[Tensor, "B T C"]


class MaskTextDecoder(nn.Module):
    """Mask queries and text tokens, updated together: each looks at the pixels of its own mask, then at all others.

    Each layer: masked cross-attention to one map of a pyramid (a token sees the pixels where its own mask of the layer
    before is at least 0.5, all pixels where that is nowhere), self-attention among queries and texts, feed-forward,
    each with its sum and norm. Texts have masks for their attention alone; only queries predict.

    Args:
        width: C of queries, texts and maps, a multiple of `heads` and of 4.
        classes: K.
        queries: N.
        layers: of the decoder; they take the maps in turn.
        levels: number of maps that are looked at.
        heads: of the attention.
        hidden: width of the feed-forward layer; default eight times `width`, as the paper's 2,048 for 256.

    Raises:
        UsageError: heads that do not divide the width, or fewer than one of the others.

    Papers: MTA-CLIP: Language-Guided Semantic Segmentation with Mask-Text Alignment (ECCV 2024, arXiv 2407.21654), on
    Masked-attention Mask Transformer for Universal Image Segmentation (arXiv 2112.01527).
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        queries: int = 100,
        layers: int = 9,
        levels: int = 3,
        heads: int = 8,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if min(classes, queries, layers, levels, heads) < 1 or width % heads or width % 4:
            raise UsageError(
                f"width must be a multiple of heads and of 4 and the others at least 1, not width={width}, "
                f"heads={heads}, classes={classes}, queries={queries}, layers={layers}, levels={levels}"
            )
        self.levels, self.heads = levels, heads
        inner = 8 * width if hidden is None else hidden
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.places = nn.Parameter(torch.randn(queries, width))
        self.level = nn.Parameter(torch.randn(levels, width))
        self.look = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.mix = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width)) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 * layers))
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.classify = nn.Linear(width, classes + 1)

    def forward(
        self,
        maps: Sequence[Float[Tensor, "B C _ _"]],
        pixels: Float[Tensor, "B C H W"],
        texts: Float[Tensor, "T C"],
    ) -> DecodedMasks:
        """Masks, classes and what became of queries and texts.

        Args:
            maps: `levels` of them, coarsest first.
            pixels: embeddings of the finest map, which masks are read from.
            texts: tokens; T may be 0, which leaves a mask transformer.

        Raises:
            UsageError: another number of maps.
        """
        if len(maps) != self.levels:
            raise UsageError(f"the decoder looks at {self.levels} maps, not {len(maps)}")
        count = len(self.queries)
        tokens = torch.cat([self.queries, texts.to(self.queries)]).expand(len(pixels), -1, -1)  # Z (B, N + T, C)
        places = torch.cat([self.places, torch.zeros_like(texts).to(self.places)])
        memory = [self._memory(each, level) for each, level in zip(maps, self.level, strict=True)]
        masks, layers = self._masks(tokens, pixels), []
        layers.append(self._prediction(tokens[:, :count], masks[:, :count]))
        for place, (look, mix, feed) in enumerate(zip(self.look, self.mix, self.feed, strict=True)):
            keys, values = memory[place % self.levels]
            first, second, third = self.norms[3 * place : 3 * place + 3]
            hidden = self._hidden(masks, maps[place % self.levels])
            seen = look(tokens + places, keys, values, attn_mask=hidden, need_weights=False)[0]
            tokens = first(tokens + seen)
            asked = tokens + places
            tokens = second(tokens + mix(asked, asked, tokens, need_weights=False)[0])
            tokens = third(tokens + feed(tokens))
            masks = self._masks(tokens, pixels)
            layers.append(self._prediction(tokens[:, :count], masks[:, :count]))
        return DecodedMasks(layers, tokens[:, :count], tokens[:, count:])

    def _memory(self, maps: Tensor, level: Tensor) -> tuple[Float[Tensor, "B P C"], Float[Tensor, "B P C"]]:
        """Keys, which know their place, and values."""
        values = maps.flatten(2).mT + level
        grid = [maps.shape[-2], maps.shape[-1]]
        return values + build_sincos2d_pos_embed(grid, maps.shape[1], device=maps.device).to(values), values

    def _masks(self, tokens: Float[Tensor, "B Z C"], pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Z H W"]:
        return torch.einsum("bzc,bchw->bzhw", self.embed(self.norm(tokens)), pixels)

    def _prediction(self, queries: Float[Tensor, "B N C"], masks: Float[Tensor, "B N H W"]) -> MaskPrediction:
        return MaskPrediction(masks, self.classify(self.norm(queries)))

    @torch.no_grad()
    def _hidden(self, masks: Float[Tensor, "B Z H W"], maps: Tensor) -> Bool[Tensor, "_ Z P"]:
        """(B heads, Z, P) True where a token may not look: outside of its mask, unless that is empty."""
        small = F.interpolate(masks, maps.shape[-2:], mode="bilinear", align_corners=False)
        outside = small.flatten(2) < 0
        outside &= ~outside.all(-1, keepdim=True)
        return outside.repeat_interleave(self.heads, 0)
