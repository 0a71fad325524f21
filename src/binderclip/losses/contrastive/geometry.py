"""Similarity geometries: how raw features become vectors whose dot product is the similarity.

A geometry owns the normalisation, so features enter the losses as the encoders give them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Cosine", "Inner", "Similarity", "at_least_float32"]


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision features are compared in float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Similarity(nn.Module):
    """A geometry: subclass it and say how a feature is embedded.

    The pairwise similarity is the dot product of two embedded vectors, which is what lets the losses walk over it in
    blocks. `modality` ("image", "text", ...) is there for geometries that treat the two sides differently.
    """

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to vectors of this geometry; float32 or better."""
        return at_least_float32(x)

    def forward(self, a: Float[Tensor, "n e"], b: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """Similarity of every embedded row of `a` with every embedded row of `b`."""
        return a @ b.T

    def paired(self, a: Float[Tensor, "n e"], b: Float[Tensor, "n e"]) -> Float[Tensor, "n"]:
        """Similarity of row i of `a` with row i of `b`."""
        return (a * b).sum(-1)


class Cosine(Similarity):
    """Cosine of the angle between two features: they are brought to unit length first."""

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to unit vectors; normalising twice changes nothing."""
        return F.normalize(at_least_float32(x), dim=-1)


class Inner(Similarity):
    """Plain inner product of the features as they are."""
