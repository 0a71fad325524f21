"""Entailment cones: the general above the special, as a term beside the contrastive loss."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings

__all__ = ["EntailmentCone"]


class EntailmentCone(nn.Module):
    """Mean of max(0, angle - half-angle): by how much each image lies outside the cone of the text that entails it.

    A caption says less than its picture. Its point is the apex of a cone that opens away from the origin, the wider the
    nearer to it, and the picture's point is pulled inside. The cones are those of the loss's geometry: Euclidean in
    flat space with arcsin(radius / |x|), hyperbolic on the hyperboloid with arcsin(2 radius / (sqrt(c) |x_s|)).

    Args:
        weight: of this term in the total; the papers use 0.1 and 0.2.
        radius: within which of the origin the cone is a half-space.
        apex: name of the embeddings that entail.
        point: name of those that are entailed.

    Raises:
        UsageError: a radius that is not positive; at the call, a geometry without cones.

    Paper: Embedding Geometries of Contrastive Language-Image Pre-Training (arXiv 2409.13079); the hyperbolic form is
    MERU's (arXiv 2304.09172).
    """

    name = "entailment"

    def __init__(self, weight: float = 0.2, *, radius: float = 0.1, apex: str = "text", point: str = "image") -> None:
        super().__init__()
        if not 0 < radius < math.inf:
            raise UsageError(f"the cones' radius must be positive, got {radius}")
        self.weight, self.radius, self.apex, self.point = weight, radius, apex, point

    def extra_repr(self) -> str:
        return f"weight={self.weight}, radius={self.radius}, apex={self.apex!r}, point={self.point!r}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Mean over the whole batch."""
        apex, point = embeddings.space(self.apex), embeddings.space(self.point)
        angle, half_angle = embeddings.similarity.cone_angles(apex, point, self.radius)
        return embeddings.mean((angle - half_angle).clamp_min(0.0))
