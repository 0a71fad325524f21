"""Whether the entries of attention are small enough for a polynomial in the place of exp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.models import polynomial_rank
from binderclip.numeric import check_number

__all__ = ["AttentionNorm", "attention_norm_criterion", "taylor_degree"]

MOST_DEGREE = 1000


@dataclass(frozen=True)
class AttentionNorm:
    """What one layer's attention would need.

    Args:
        bound: R, the largest entry of queries and keys, in the unit of the theory (products over d).
        threshold: sqrt(log n) for n keys: in the limit of large n, below it attention can be approximated in nearly
            linear time, and at its order not in less than quadratic time (under SETH).
        product: the largest |product| before exp that was seen, at most bound^2.
        degree: least even degree of a Taylor polynomial that keeps every weight before normalisation to the tolerance.
        rank: features that it takes, C(d + degree, degree).
        tokens: n.
    """

    bound: float
    threshold: float
    product: float
    degree: int
    rank: int
    tokens: int

    @property
    def bounded(self) -> bool:
        """Whether R is below the threshold."""
        return self.bound < self.threshold

    @property
    def cheaper(self) -> bool:
        """Whether the features are fewer than the tokens, so that the approximation is cheaper at this very size."""
        return self.rank < self.tokens


def taylor_degree(product: float, tolerance: float = 1e-3) -> int:
    """The least even degree g with |P_g(x) - exp(x)| <= tolerance exp(x) for all |x| up to a product.

    By Lagrange's remainder product^(g + 1) / (g + 1)! times at most exp(product), which is needed where x is negative.

    Args:
        product: the largest |x|.
        tolerance: relative error.

    Raises:
        UsageError: a product below 0, a tolerance outside (0, 1), or products so large that no degree up to 1,000 does.

    Examples:
        >>> taylor_degree(0.0), taylor_degree(1.0)
        (0, 6)
    """
    check_number("product", product, least=0)
    check_number("tolerance", tolerance, above=0, below=1)
    for degree in range(0, MOST_DEGREE + 1, 2):
        remainder = (degree + 1) * math.log(product) - math.lgamma(degree + 2) if product else -math.inf
        if remainder + product <= math.log(tolerance):
            return degree
    raise UsageError(f"product is {product:g}: no polynomial of degree up to {MOST_DEGREE} is within {tolerance:g}")


def attention_norm_criterion(
    inputs: Mapping[str, tuple[Tensor, ...]], *, tolerance: float = 1e-3, scale: float | None = None
) -> dict[str, AttentionNorm]:
    """Measure, layer by layer, whether attention is in the regime where its cost can be brought down.

    The theory has products <q, k> / d of entries of at most R; models mostly have <q, k> / sqrt(d), which is converted.

    Args:
        inputs: queries (..., n, d), keys (..., m, d) and anything after them, by the layer's name, such as
            `NextScaleGenerator.attention_inputs(maps)`.
        tolerance: relative error of a weight before normalisation; outputs then differ by at most
            2 tolerance / (1 - tolerance) times the largest value.
        scale: of the products before exp; default 1 / sqrt(d).

    Raises:
        UsageError: no layers, a tolerance outside (0, 1), a scale not above 0, or products too large for any degree.
        DataError: queries or keys that are not finite, empty or of other widths.

    Paper: On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A Fine-Grained
    Complexity Analysis (arXiv 2501.04377), theorems 1.3 and 1.4.

    Examples:
        >>> import torch
        >>> q = torch.full((256, 3), 0.5)
        >>> found = attention_norm_criterion({"layer": (q, q)}, scale=1 / 3)["layer"]
        >>> found.bound, found.degree, found.rank, found.bounded, found.cheaper
        (0.5, 4, 35, True, True)
    """
    check_number("tolerance", tolerance, above=0, below=1)
    if scale is not None:
        check_number("scale", scale, above=0)
    if not inputs:
        raise UsageError("inputs name no layer")
    return {name: _judged(name, parts[0], parts[1], tolerance, scale) for name, parts in inputs.items()}


def _judged(name: str, queries: Tensor, keys: Tensor, tolerance: float, scale: float | None) -> AttentionNorm:
    if queries.ndim < 2 or keys.ndim < 2 or queries.shape[-1] != keys.shape[-1] or not queries.numel() * keys.numel():
        raise DataError(f"{name}: queries and keys are rows of one width, got {[*queries.shape]} and {[*keys.shape]}")
    dim, tokens = queries.shape[-1], keys.shape[-2]
    scale = dim**-0.5 if scale is None else scale
    largest = float(max(queries.abs().max(), keys.abs().max()))
    product = float((scale * queries @ keys.mT).abs().max())
    if not math.isfinite(largest) or not math.isfinite(product):
        raise DataError(f"{name}: queries or keys are not finite")
    degree = taylor_degree(product, tolerance)
    # scale <q, k> = <q', k'> / d with q' = q sqrt(scale d)
    bound = largest * math.sqrt(scale * dim)
    return AttentionNorm(bound, math.sqrt(math.log(tokens)), product, degree, polynomial_rank(dim, degree), tokens)
