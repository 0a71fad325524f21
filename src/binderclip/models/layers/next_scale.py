"""A small visual autoregressive model: code maps of growing size, each predicted from those before it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.layers.polynomial_attention import (
    block_causal_attention,
    polynomial_attention,
    polynomial_rank,
)
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["NextScaleCost", "NextScaleGenerator", "next_scale_cost"]

BICUBIC = 4 * 4
"""Values that a value interpolated by the bicubic kernel is a weighted sum of."""


@dataclass(frozen=True)
class NextScaleCost:
    """Multiply-adds of one picture's generation, without elementwise work (softmax, monomials, norms).

    Args:
        attention: products of queries and keys and sums of values, or their polynomial form.
        projections: of queries, keys, values and outputs.
        mlp: two layers, four times as wide between.
        ends: the first layer, from channels, and the last one, to codes.
        interpolation: of the maps: 16 a value by the bicubic kernel, and a value read by the means over areas.
        decoder: of the latent to a picture, where there is one.
    """

    attention: int
    projections: int
    mlp: int
    ends: int
    interpolation: int
    decoder: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.attention + self.projections + self.mlp + self.ends + self.interpolation + self.decoder


def next_scale_cost(
    scales: Sequence[int],
    width: int,
    layers: int = 1,
    heads: int = 1,
    *,
    degree: int | None = None,
    channels: int = 8,
    codes: int = 64,
    decoder: int | None = None,
) -> NextScaleCost:
    """Multiply-adds that `NextScaleGenerator.generate` takes, where step k runs the transformer on the maps up to k.

    Step k has L_k = sum of s_i^2 for i <= k tokens. Exact attention of a token to its scale and those before takes
    2 width sum of s_i^2 L_i for i <= k, below the 2 L_k^2 width of all to all: of order n^4 for a last map of side n.
    By polynomials of a fixed degree it is 2 L_k r (width + heads), of order n^2. All else but the decoder's attention
    is of order n^2, for scales that grow by a factor.

    Args:
        scales: sides of the square maps, rising.
        width: of a token.
        layers: of the transformer.
        heads: of its attention.
        degree: of polynomial attention; None counts the exact one.
        channels: of the latent.
        codes: size of the code book.
        decoder: width of a decoder to pictures: a convolution of 3 x 3 from the latent's channels, attention of one
            head over its n^2 places with four projections, bicubic interpolation to twice the side and a convolution
            to three colours. None, as the generator has it: no decoder.

    Raises:
        UsageError: scales that do not rise, or a number that is not whole or too small.

    Paper: On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A Fine-Grained
    Complexity Analysis (arXiv 2501.04377), section 3.
    """
    scales = _scales(scales)
    _check_sizes(width=width, layers=layers, heads=heads, channels=channels, codes=codes)
    side = scales[-1]
    blocks = [scale**2 for scale in scales]
    attention = projections = mlp = ends = interpolation = 0
    for step in range(1, len(scales) + 1):
        tokens = sum(blocks[:step])
        if degree is None:
            seen = itertools.accumulate(blocks[:step])
            attention += 2 * width * sum(block * keys for block, keys in zip(blocks, seen, strict=False))
        else:  # U2^T [V 1] and U1 (...), r features a head
            attention += 2 * tokens * polynomial_rank(width // heads, degree) * (width + heads)
        projections += 4 * tokens * width**2
        mlp += 8 * tokens * width**2
        ends += tokens * width * (channels + codes)
        # the maps before are raised to the last scale, and their sums lowered to the next one; at the end to the latent
        interpolation += channels * sum(BICUBIC * side**2 + _reads(side, scale) ** 2 for scale in scales[1:step])
    interpolation += channels * BICUBIC * side**2 * (len(scales) - 1)
    decoding = 0
    if decoder is not None:
        _check_sizes(decoder=decoder)
        places = side**2
        decoding = places * decoder * (9 * channels + 4 * decoder + 2 * places)
        decoding += 4 * places * decoder * (BICUBIC + 9 * 3)
    return NextScaleCost(layers * attention, layers * projections, layers * mlp, ends, interpolation, decoding)


class NextScaleGenerator(nn.Module):
    """Generate a latent map from coarse to fine: a quantiser of several scales, and a transformer that predicts them.

    A latent (B, channels, n, n) is the sum of code maps of growing side, each the nearest codes of what the maps before
    leave over, up-interpolated. The transformer sees for every scale the sum so far at that scale's size, all scales
    after one another, each attending to itself and those before, and gives the codes of that scale. The loss trains
    the transformer alone: the code book has to be trained, or set, before maps are quantised, and gets no gradients.

    Args:
        scales: sides of the maps, rising; the last one is the latent's.
        codes: size of the code book.
        channels: of the latent.
        width: of a token.
        layers: of the transformer.
        heads: of its attention; divides the width.
        attention: `exact`, or `polynomial` (`polynomial_attention`).
        degree: of the polynomial.

    Raises:
        UsageError: scales that do not rise, a number that is not whole or too small, or an unknown attention.

    Paper: On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A Fine-Grained
    Complexity Analysis (arXiv 2501.04377).

    Examples:
        >>> model = NextScaleGenerator((1, 2, 4), codes=8, channels=3, width=8, heads=4)
        >>> maps = model.quantise(torch.randn(2, 3, 4, 4))
        >>> [tuple(codes.shape) for codes in maps]
        [(2, 1, 1), (2, 2, 2), (2, 4, 4)]
        >>> model.loss(maps).shape, model.generate(2)[1].shape
        (torch.Size([]), torch.Size([2, 3, 4, 4]))
    """

    def __init__(
        self,
        scales: Sequence[int] = (1, 2, 4, 8),
        codes: int = 64,
        channels: int = 8,
        width: int = 64,
        layers: int = 2,
        heads: int = 16,
        *,
        attention: str = "exact",
        degree: int = 4,
    ) -> None:
        super().__init__()
        self.scales = _scales(scales)
        _check_sizes(codes=codes, channels=channels, width=width, layers=layers, heads=heads)
        if width % heads:
            raise UsageError(f"width must be a multiple of heads, got {width} and {heads}")
        check_choice("attention", attention, ("exact", "polynomial"))
        self.attention, self.degree, self.heads = attention, degree, heads
        self.codebook = nn.Embedding(codes, channels)
        nn.init.normal_(self.codebook.weight, std=0.5)
        self.start = nn.Parameter(torch.zeros(channels))
        self.embed = nn.Linear(channels, width)
        self.positions = nn.Parameter(0.02 * torch.randn(sum(self.blocks), width))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, codes)

    @property
    def blocks(self) -> list[int]:
        """Tokens of every scale."""
        return [side**2 for side in self.scales]

    @torch.no_grad()
    def quantise(self, latent: Float[Tensor, "B c n n"]) -> list[Int[Tensor, "B _s _s"]]:
        """The codes of every scale, of what the coarser ones leave over.

        Args:
            latent: of the last scale's side.

        Raises:
            UsageError: another shape.
        """
        side = self.scales[-1]
        if latent.shape[1:] != (self.codebook.embedding_dim, side, side):
            raise UsageError(
                f"latent must be (B, {self.codebook.embedding_dim}, {side}, {side}), got {tuple(latent.shape)}"
            )
        left, maps = latent, []
        for scale in self.scales:
            small = F.interpolate(left, size=(scale, scale), mode="area").permute(0, 2, 3, 1)  # (B, s, s, c)
            codes = torch.cdist(small.flatten(0, 2), self.codebook.weight).argmin(1).reshape(small.shape[:-1])
            left = left - self._raised(codes)
            maps.append(codes)
        return maps

    def latent(self, maps: Sequence[Int[Tensor, "B _s _s"]]) -> Float[Tensor, "B c n n"]:
        """The latent that code maps stand for, of all scales or the first so many.

        Args:
            maps: as `quantise` gives them; one at least.
        """
        return torch.stack([self._raised(codes) for codes in maps]).sum(0)

    def forward(self, maps: Sequence[Int[Tensor, "B _s _s"]], batch: int = 1) -> Float[Tensor, "B L codes"]:
        """Logits of the codes of every scale and of the one after it, from the maps of the scales before.

        Args:
            maps: of the first scales, all but the last, or fewer.
            batch: how many pictures, where there are no maps yet.
        """
        tokens = [self.start.expand(len(maps[0]) if maps else batch, self.blocks[0], -1)]
        latent: Tensor | float = 0.0
        for codes, side in zip(maps, self.scales[1:], strict=False):
            # Detached: by gradients of this loss the codes would move under the maps that were quantised with them.
            latent = latent + self._raised(codes).detach()
            small = F.interpolate(latent, size=(side, side), mode="area")
            tokens.append(small.flatten(2).mT)  # (B, s^2, c)
        blocks = self.blocks[: len(tokens)]
        x = self.embed(torch.cat(tokens, 1)) + self.positions[: sum(blocks)]
        scale = (x.shape[-1] // self.heads) ** -0.5
        for layer in self.layers:
            q, k, v = (self._split(part) for part in layer.projected(x))  # type: ignore[operator]
            if self.attention == "exact":
                attended = block_causal_attention(q, k, v, blocks, scale=scale)
            else:
                attended = polynomial_attention(q, k, v, self.degree, scale=scale, blocks=blocks)
            x = layer(x, attended.transpose(1, 2).flatten(2))
        return self.classify(self.norm(x))

    def loss(self, maps: Sequence[Int[Tensor, "B _s _s"]]) -> Float[Tensor, ""]:
        """Mean cross-entropy of all codes, in nats.

        Args:
            maps: of every scale, as `quantise` gives them.

        Raises:
            UsageError: maps of some scales only.
        """
        if len(maps) != len(self.scales):
            raise UsageError(f"maps of all {len(self.scales)} scales are needed, got {len(maps)}")
        target = torch.cat([codes.flatten(1) for codes in maps], 1)
        return F.cross_entropy(self(maps[:-1]).flatten(0, 1), target.flatten())

    @torch.no_grad()
    def generate(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[list[Int[Tensor, "B _s _s"]], Float[Tensor, "B c n n"]]:
        """Draw code maps from coarse to fine; and the latents that they stand for.

        Args:
            count: how many.
            generator: of the random numbers; default torch's.

        Raises:
            UsageError: fewer than one.
        """
        check_whole("count", count, least=1)
        maps: list[Tensor] = []
        for scale, block in zip(self.scales, self.blocks, strict=True):
            logits = self(maps, batch=count)[:, -block:]  # (B, s^2, codes)
            drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
            maps.append(drawn.reshape(count, scale, scale))
        return maps, self.latent(maps)

    def attention_inputs(self, maps: Sequence[Int[Tensor, "B _s _s"]]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Queries, keys and values (B, heads, L, d) of every layer, by its name: for `attention_norm_criterion`.

        Args:
            maps: of the first scales.
        """
        inputs: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        hooks = []
        for number, layer in enumerate(self.layers):

            def keep(_: nn.Module, __: object, packed: Tensor, name: str = f"layers.{number}") -> None:
                q, k, v = (self._split(part).detach() for part in packed.chunk(3, -1))
                inputs[name] = (q, k, v)

            hooks.append(layer.packed.register_forward_hook(keep))  # type: ignore[union-attr]
        try:
            with torch.no_grad():
                self(maps)
        finally:
            for hook in hooks:
                hook.remove()
        return inputs

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, width) -> (B, heads, L, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _raised(self, codes: Tensor) -> Tensor:
        """The vectors of a code map, at the size of the last scale: (B, c, n, n)."""
        vectors = self.codebook(codes).permute(0, 3, 1, 2)
        side = self.scales[-1]
        if codes.shape[-1] == side:
            return vectors
        return F.interpolate(vectors, size=(side, side), mode="bicubic", align_corners=False)


class _Layer(nn.Module):
    """One pre-norm layer; attention itself is computed between its two parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, L, width)."""
        return self.packed(self.before(x)).chunk(3, -1)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, of its input and what attention gave."""
        x = x + self.out(attended)
        return x + self.mlp(self.between(x))


def _reads(side: int, scale: int) -> int:
    """Values that the means over `scale` areas of a line of `side` read: areas share one where they do not fit."""
    return sum(-(-(place + 1) * side // scale) - place * side // scale for place in range(scale))


def _scales(scales: Sequence[int]) -> tuple[int, ...]:
    for side in scales:
        check_whole("a scale", side, least=1)
    if not scales or any(b <= a for a, b in itertools.pairwise(scales)):
        raise UsageError(f"scales must rise, one at least, got {list(scales)}")
    return tuple(scales)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        check_whole(name, value, least=1)
