"""Losses between views of the same pictures: no text in them. SimCLR's is `Pair(same_view_negatives=True)`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.similarity.geometry import at_least_float32

__all__ = ["prediction_distance", "prediction_distances"]


def prediction_distance(predicted: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """BYOL's loss: squared distance of unit vectors, 2 - 2 cos, mean over pictures; the target gets no gradient.

    Args:
        predicted: of the trained network.
        target: of its momentum copy.

    Paper: Grill et al., "Bootstrap Your Own Latent", arXiv 2006.07733.
    """
    return prediction_distances(predicted, target).mean()


def prediction_distances(predicted: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """The same for each picture.

    Args:
        predicted: of the trained network.
        target: gets no gradient.
    """
    target = at_least_float32(target.detach())
    return 2 - 2 * F.cosine_similarity(at_least_float32(predicted), target, dim=1)
