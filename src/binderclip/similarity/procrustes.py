"""The rotation that takes one set of vectors to another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["procrustes_align"]


@torch.no_grad()
def procrustes_align(
    source: Float[Tensor, "K E"], target: Float[Tensor, "K E"], rho: float = 1e-2
) -> Float[Tensor, "E E"]:
    """The orthogonal matrix R that takes each source vector as near as possible to its target: `source @ R.T`.

    It minimises `sum_k |R s_k - t_k|^2 + rho |R - I|^2`, by the singular vectors of `target.T @ source + rho I`. Pairs
    fewer than dimensions leave R free elsewhere; there rho keeps it near the identity.

    Args:
        source, target: pairs of vectors, such as features of captions and of their pictures.
        rho: in the unit of a sum of squares, so of numbers of pairs where vectors are of length 1; 0 is the plain
            problem, as `scipy.linalg.orthogonal_procrustes` solves it.

    Raises:
        UsageError: no pairs, sets of different shapes, values that are not finite, or a negative rho.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161); Schoenemann, A generalized solution of the
    orthogonal Procrustes problem (1966). The term of rho is ours.

    Examples:
        >>> turned = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> procrustes_align(torch.eye(2), turned, rho=0.0).round().tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    check_number("rho", rho, least=0)
    if source.shape != target.shape or source.ndim != 2 or not source.numel():
        raise UsageError(f"source and target must be pairs (K, E), got {tuple(source.shape)} and {tuple(target.shape)}")
    if not bool((source.isfinite() & target.isfinite()).all()):
        raise UsageError("source and target must be finite")
    product = target.T.double() @ source.double()
    left, _, right = torch.linalg.svd(product + rho * torch.eye(len(product), device=source.device))
    return (left @ right).to(source.dtype)
