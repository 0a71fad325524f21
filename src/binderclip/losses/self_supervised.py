"""Losses between views of the same pictures: no text in them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["nt_xent", "prediction_distance"]


def nt_xent(first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], *, tau: float = 0.1) -> Float[Tensor, ""]:
    """SimCLR's loss: a view is told from all views of the other pictures by the other view of its own.

    Args:
        first, second: embeddings of the two views of B pictures, raw.
        tau: temperature.

    Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709.
    """
    both = F.normalize(torch.cat([first, second]).float(), dim=1)  # (2B, D)
    count = len(first)
    logits = (both @ both.T / tau).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * count, device=both.device).roll(count))


def prediction_distance(predicted: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """BYOL's loss: squared distance of unit vectors, 2 - 2 cos, mean over pictures; the target gets no gradient.

    Args:
        predicted: of the trained network.
        target: of its momentum copy.

    Paper: Grill et al., "Bootstrap Your Own Latent", arXiv 2006.07733.
    """
    return (2 - 2 * F.cosine_similarity(predicted.float(), target.detach().float(), dim=1)).mean()
