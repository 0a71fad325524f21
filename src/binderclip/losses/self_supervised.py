"""Losses between views of the same pictures: no text in them. SimCLR's is `Pair(same_view_negatives=True)`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["prediction_distance"]


def prediction_distance(predicted: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """BYOL's loss: squared distance of unit vectors, 2 - 2 cos, mean over pictures; the target gets no gradient.

    Args:
        predicted: of the trained network.
        target: of its momentum copy.

    Paper: Grill et al., "Bootstrap Your Own Latent", arXiv 2006.07733.
    """
    return (2 - 2 * F.cosine_similarity(predicted.float(), target.detach().float(), dim=1)).mean()
