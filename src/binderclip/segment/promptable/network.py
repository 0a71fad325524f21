"""The network of the bundled promptable segmenter: SAM's design (arXiv 2304.02643) in about a million parameters.

Convolutional stem with maps at stride 2, 4 and 8, a few transformer blocks on the coarsest one; prompts are tokens of
Fourier coordinates; a two-way decoder lets tokens and image look at each other, and its output tokens, turned into
small filters, are multiplied with the enlarged map. As in SAM 2 (arXiv 2408.00714) the finer maps of the stem join on
the way up, which is where the edges come from.

Tokens alone take SAM's amount of training to bind a place to an object. So prompts are drawn into the maps as well
(`drawn.py`): where the clicks and the box are, as in RITM (arXiv 2102.06583), and how like each place is to what was
clicked on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from binderclip.models.bundled.architectures import LiteStem
from binderclip.segment.promptable.drawn import DRAWN, PromptTokens, draw

__all__ = ["FeaturePyramid", "PromptNetwork"]

MASKS = 4  # one for unambiguous prompts, three for ambiguous ones
KEYS = (32, 16, 16)  # channels of the vectors that places are compared by, from coarse to fine


@dataclass(frozen=True)
class FeaturePyramid:
    """Maps of B images.

    Attributes:
        coarse: at stride 8, after the blocks. middle, fine: at stride 4 and 2, of the stem, projected.
        keys: vectors of length one that places are compared by, at stride 8, 4 and 2.
    """

    coarse: Float[Tensor, "B C h w"]
    middle: Float[Tensor, "B M 2*h 2*w"]
    fine: Float[Tensor, "B F 4*h 4*w"]
    keys: tuple[Tensor, Tensor, Tensor]

    def rows(self, index: Int[Tensor, "P"]) -> FeaturePyramid:
        """The maps of one image for each prompt."""
        keys = (self.keys[0][index], self.keys[1][index], self.keys[2][index])
        return FeaturePyramid(self.coarse[index], self.middle[index], self.fine[index], keys)


class Fourier(nn.Module):
    """Coordinates in [0, 1] -> sines and cosines of fixed random frequencies."""

    frequencies: Tensor

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", scale * torch.randn(2, width // 2, generator=generator))

    def forward(self, points: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B C"]:
        angle = 2 * math.pi * ((2 * points - 1) @ self.frequencies)
        return torch.cat([angle.sin(), angle.cos()], -1)

    def grid(self, height: int, width: int) -> Float[Tensor, "L C"]:
        """Of the cell centres, row by row."""
        like = self.frequencies
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        return self(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1))


class Attention(nn.Module):
    """Multi-head attention from one sequence to another, in a narrower inner width."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, q), (self.k, k), (self.v, v))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TwoWay(nn.Module):
    """Tokens among themselves, tokens to image, an MLP on tokens, image to tokens; norms behind each, as in SAM."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.own = Attention(width, width, heads)
        self.there = Attention(width, width // 2, heads)
        self.back = Attention(width, width // 2, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])

    def forward(
        self, x: Tensor, image: Tensor, place: Tensor, positions: Tensor, absent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens `x` with their encodings `place`, image with `positions`; `absent` hides padding tokens as keys."""
        q = x + place
        x = self.norms[0](x + self.own(q, q, x, absent))
        x = self.norms[1](x + self.there(x + place, image + positions, image))
        x = self.norms[2](x + self.mlp(x))
        image = self.norms[3](image + self.back(image + positions, x + place, x, absent))
        return x, image


class PromptNetwork(nn.Module):
    """Normalised pixels and prompts -> mask logits at stride 2 and their predicted IoU.

    Args:
        side: of the square input in pixels, a multiple of 8.
        width: of tokens, a multiple of 8. heads: of all attention. blocks: transformer blocks of the encoder.
        layers: two-way layers of the decoder.
        stem: convolutional part, a name of `LiteStem`.
    """

    def __init__(
        self, *, side: int = 128, width: int = 96, heads: int = 4, blocks: int = 2, layers: int = 2, stem: str = "lite0"
    ) -> None:
        super().__init__()
        self.side, self.grid = side, side // 8
        self.stem = LiteStem(stem)
        half, quarter = width // 2, width // 4
        self.neck = nn.Sequential(nn.Conv2d(self.stem.num_features, width, 1), ChannelNorm(width))
        self.middle, self.fine = nn.Conv2d(24, half, 1), nn.Conv2d(16, quarter, 1)
        self.fourier = Fourier(width)
        self.blocks = nn.ModuleList([Block(width, heads, mlp_ratio=3.0, qkv_bias=True) for _ in range(blocks)])
        channels = (width, 24, 16)
        self.keys = nn.ModuleList([nn.Conv2d(c, k, 1) for c, k in zip(channels, KEYS, strict=True)])
        self.labels = nn.Embedding(4, width)
        self.out = nn.Embedding(1 + MASKS, width)
        self.drawn = nn.ModuleList(
            [nn.Conv2d(DRAWN, width, 3, padding=1), nn.Conv2d(DRAWN, half, 1), nn.Conv2d(DRAWN, quarter, 1)]
        )
        self.prior = nn.ModuleList([nn.Conv2d(DRAWN, MASKS, 1) for _ in KEYS])
        self.layers = nn.ModuleList([TwoWay(width, heads) for _ in range(layers)])
        self.mixes = nn.ModuleList([Mix(width) for _ in range(layers)])
        self.last, self.last_norm = Attention(width, half, heads), nn.LayerNorm(width)
        self.up1, self.norm1 = Double(width, half), nn.LayerNorm(half)
        self.conv1, self.up2 = nn.Conv2d(half, quarter, 3, padding=1), Double(quarter, quarter)
        self.filters = nn.ModuleList([mlp(width, width, quarter) for _ in range(MASKS)])
        self.score = mlp(width, width, MASKS)

    def parts(self) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
        """The image encoder, what draws prompts, and the mask decoder: SAM's three parts."""
        encoder = [self.stem, self.neck, self.middle, self.fine, self.blocks, self.keys]
        prompts = [self.fourier, self.labels, self.drawn, self.prior]
        named = {id(part) for part in (*encoder, *prompts)}
        return encoder, prompts, [part for part in self.children() if id(part) not in named]

    def encode(self, pixels: Float[Tensor, "B 3 S S"]) -> FeaturePyramid:
        """The maps of normalised pixels."""
        return self.pyramid(self.stem.levels(pixels))

    def pyramid(self, levels: tuple[Tensor, Tensor, Tensor]) -> FeaturePyramid:
        """The maps, from those of the stem, from fine to coarse."""
        fine, middle, coarse = levels
        x = self.coarse(coarse)
        keys = [functional.normalize(layer(y), dim=1) for layer, y in zip(self.keys, (x, middle, fine), strict=True)]
        return FeaturePyramid(x, self.middle(middle), self.fine(fine), (keys[0], keys[1], keys[2]))

    def coarse(self, level: Float[Tensor, "B S h w"]) -> Float[Tensor, "B C h w"]:
        """The coarsest map, after the blocks, from that of the stem."""
        x = self.neck(level)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + self.fourier.grid(height, width)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2).unflatten(2, (height, width))

    def decode(
        self, levels: FeaturePyramid, prompts: PromptTokens
    ) -> tuple[Float[Tensor, "P 4 H W"], Float[Tensor, "P 4"]]:
        """Masks of P prompts, each on its own row of the maps or all on one: the single one, then the three ambiguous.

        Returns:
            Logits at stride 2 and predicted IoU (about [0, 1], not clamped).
        """
        x, place, absent = self._tokens(prompts)
        maps = [draw(keys, prompts) for keys in levels.keys]
        drawn = [layer(value) for layer, value in zip(self.drawn, maps, strict=True)]
        height, width = levels.coarse.shape[-2:]
        image = (levels.coarse + drawn[0]).flatten(2).transpose(1, 2)
        positions = self.fourier.grid(height, width)
        for mix, layer in zip(self.mixes, self.layers, strict=True):
            x, image = layer(x, mix(image, height), place, positions, absent)
        x = self.last_norm(x + self.last(x + place, image + positions, image))
        up = self.up1(image.unflatten(1, (height, width))) + (levels.middle + drawn[1]).permute(0, 2, 3, 1)
        up = functional.relu(self.norm1(up)).permute(0, 3, 1, 2)
        up = functional.relu(self.conv1(up)).permute(0, 2, 3, 1)
        up = self.up2(up) + (levels.fine + drawn[2]).permute(0, 2, 3, 1)
        filters = torch.stack([layer(x[:, 1 + i]) for i, layer in enumerate(self.filters)], 1)
        logits = (filters @ functional.relu(up).flatten(1, 2).transpose(1, 2)).unflatten(2, up.shape[1:3])
        # A straight way from the drawn prompts to the masks, which is the first thing that training finds.
        for layer, value in zip(self.prior, maps, strict=True):
            logits = logits + functional.interpolate(layer(value), logits.shape[2:], mode="bilinear")
        return logits.float(), self.score(x[:, 0]).float()

    def _tokens(self, prompts: PromptTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, their encodings (the prompt's own, added again in every layer), and the bias that hides padding."""
        count = len(prompts.points)
        there = prompts.labels >= 0
        given = self.fourier(prompts.points.to(self.fourier.frequencies)) + self.labels(prompts.labels.clamp(min=0))
        given = given * there[..., None]
        tokens = torch.cat([self.out.weight.expand(count, -1, -1), given], 1)
        seen = torch.cat([there.new_ones(count, 1 + MASKS), there], 1)
        absent = torch.zeros(seen.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(~seen, -torch.inf)
        return tokens, tokens, absent[:, None, None]


class Mix(nn.Module):
    """Neighbouring cells of the image tokens see each other: a 3 x 3 convolution in half the width, as a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into = nn.LayerNorm(width), nn.Linear(width, width // 2)
        self.conv, self.out = nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.Linear(width // 2, width)

    def forward(self, x: Float[Tensor, "P L C"], height: int) -> Float[Tensor, "P L C"]:
        y = functional.relu(self.into(self.norm(x))).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        return x + self.out(functional.relu(self.conv(y)).permute(0, 2, 3, 1).flatten(1, 2))


class Double(nn.Module):
    """Each cell of a channels-last map becomes 2 x 2: a transposed convolution of stride 2, written as a product."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 4 * out)

    def forward(self, x: Float[Tensor, "B h w C"]) -> Float[Tensor, "B 2*h 2*w D"]:
        x = self.linear(x).unflatten(-1, (2, 2, -1))
        return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
