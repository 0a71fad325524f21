"""Gradients of activations in few bits: stochastic rounding in groups, and the pruning of small groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.numeric import check_whole
from binderclip.optim.fake_quantization import AffineGrid, Blocks, MinMax, fake_quant
from binderclip.settings import check_choice

__all__ = ["AGP", "gradient_variance", "quantize_groups"]


def quantize_groups(
    gradient: Float[Tensor, "*shape"], bits: int, dim: int = 0, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """A gradient rounded stochastically to 2^bits levels between the minimum and the maximum of each group.

    Its expectation is the gradient; the variance of a group of n values is at most n (max - min)^2 / (4 (2^bits -
    1)^2). A group of equal values is kept.

    Args:
        gradient: of any shape and unit.
        bits: 1 to 24.
        dim: whose slices are the groups: 0 for samples, 1 for channels.
        generator: of the rounding; default PyTorch's own.

    Raises:
        UsageError: a setting out of range, or no values.

    Paper: 1-Bit FQT: Pushing the Limit of Fully Quantized Training to 1-bit, arXiv 2408.14267.
    """
    grid = AffineGrid(bits, zero="lowest")
    return fake_quant(gradient, MinMax(), grid, blocks=Blocks(dim=dim), stochastic=True, generator=generator)


@dataclass(frozen=True)
class AGP:
    """Activation gradient pruning: of N groups the N / bits largest are kept in `bits` bits, one bit a value in all.

    Called with a gradient and the dimension of its groups, it gives the gradient that is passed on. At least one group
    is kept.

    Args:
        bits: of the groups that are kept, 1 to 24.
        mode: `topk` keeps the groups of the largest magnitudes, as the published code does: biased, of low variance;
            ties are all kept. `bernoulli` keeps each with a probability p in proportion to its largest magnitude, at
            most 1, and divides it by p: unbiased.
        generator: of the rounding and of the choice; default PyTorch's own.

    Raises:
        UsageError: a setting out of range.

    Examples:
        >>> gradient = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
        >>> AGP(bits=4)(gradient).tolist()
        [[5.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]

    Paper: 1-Bit FQT: Pushing the Limit of Fully Quantized Training to 1-bit, arXiv 2408.14267.
    """

    bits: int = 4
    mode: Literal["topk", "bernoulli"] = "topk"
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("topk", "bernoulli"))
        AffineGrid(self.bits)  # refuses bits outside

    def __call__(self, gradient: Float[Tensor, "*shape"], dim: int = 0) -> Float[Tensor, "*shape"]:
        blocks = Blocks(dim=dim)
        rows = blocks.split(gradient.detach())
        size = rows.abs().amax(dim=1)
        kept = max(len(rows) // self.bits, 1)
        if self.mode == "topk":
            factor = (size >= size.topk(kept).values[-1]).to(rows.dtype)
        else:
            probability = _inclusion(size, kept)
            # A group of zeros alone has probability 0: 0 / 0 is not meant to be reached.
            drawn = torch.rand(size.shape, generator=self.generator, device=size.device) < probability
            factor = drawn.to(rows.dtype) / torch.where(probability > 0, probability, 1.0).to(rows.dtype)
        values = blocks.split(quantize_groups(gradient.detach(), self.bits, dim, generator=self.generator))
        return blocks.join(values * factor[:, None], gradient.shape)


def _inclusion(size: Float[Tensor, "N"], kept: int) -> Float[Tensor, "N"]:
    """Probabilities min(1, c * size) whose sum is `kept`, or the number of sizes above 0 where that is less."""
    ordered = size.float().sort(descending=True).values
    # With the k largest at probability 1 the others share kept - k: c_k = (kept - k) / (sum of the others), k < kept.
    rest = ordered.flip(0).cumsum(0).flip(0)[:kept]
    scale = (kept - torch.arange(kept, device=size.device)) / rest
    # The first k at which none of the others exceeds 1; with none left above 0 (NaN here) all those above 0 are at 1.
    fits = scale * ordered[:kept] <= 1
    chosen = torch.where(fits.any(), scale[fits.int().argmax()], torch.inf)
    return torch.where(size > 0, (chosen * size.float()).clamp(max=1), 0.0)


def gradient_variance(
    gradient: Float[Tensor, "*shape"], quantize: Callable[[Tensor], Tensor], draws: int = 100
) -> Float[Tensor, ""]:
    """The variance of a quantised gradient, summed over its values: what bounds the convergence of SGD and Adam.

    Args:
        gradient: of any shape.
        quantize: draws a quantised gradient, such as `AGP()` or `functools.partial(quantize_groups, bits=1)`.
        draws: from which it is estimated, at least 2.

    Returns:
        In the unit of the gradient squared; about the mean of the draws, which is not the gradient where it is biased.

    Raises:
        UsageError: fewer than two draws.

    Paper: 1-Bit FQT: Pushing the Limit of Fully Quantized Training to 1-bit, arXiv 2408.14267.
    """
    check_whole("draws", draws, least=2)
    with torch.no_grad():
        # Welford's sums: the draws are not all held at once.
        mean, squares = torch.zeros_like(gradient), torch.zeros_like(gradient)
        for number in range(1, draws + 1):
            value = quantize(gradient)
            off = value - mean
            mean += off / number
            squares += off * (value - mean)
        return squares.sum() / (draws - 1)
