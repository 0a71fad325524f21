"""An attribute's directions removed from embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError


def remove_direction(
    features: Float[Tensor, "N D"], directions: Float[Tensor, "K D"] | Float[Tensor, "D"]
) -> Float[Tensor, "N D"]:
    """Project embeddings off the span of some directions and give them length one again: v <- unit(v - B B^T v).

    B is an orthonormal basis of the directions, such as differences of the embeddings of texts that name an attribute's
    values ("a woman" minus "a man"). What a linear model could read along them is gone; what it reads elsewhere stays.

    Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464), mitigation after training.

    Args:
        features: raw or of length one; they are normalised first.
        directions: one or several, of any length; those that depend on others count once.

    Raises:
        UsageError: widths differ, directions that are zero or not finite, or that span everything.
    """
    held = directions[None] if directions.ndim == 1 else directions
    if features.ndim != 2 or held.ndim != 2 or held.shape[1] != features.shape[1] or not len(held):
        raise UsageError(
            f"remove_direction takes (N, D) and (K, D); got {tuple(features.shape)} and {tuple(directions.shape)}"
        )
    if not bool(torch.isfinite(held).all()):
        raise UsageError("a direction is not finite")
    _, values, rows = torch.linalg.svd(held.double(), full_matrices=False)
    basis = rows[values > values.max() * 1e-6]  # (k, D)
    if not bool(values.max() > 0) or len(basis) >= features.shape[1]:
        raise UsageError("the directions are zero, or span the whole space")
    unit = functional.normalize(features.double(), dim=1)
    return functional.normalize(unit - unit @ basis.T @ basis, dim=1).to(features.dtype)
