"""Cosines less what a point has in common with everything: a label or picture that is near all others is near none."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.similarity.geometry import Similarity, at_least_float32

__all__ = ["CSLS", "mean_nearest_cosine"]


def mean_nearest_cosine(
    points: Float[Tensor, "*n d"], references: Float[Tensor, "R d"], neighbours: int = 10
) -> Float[Tensor, "*n"]:
    """Mean cosine of each point to its nearest references: how much of a hub it is.

    Args:
        points, references: unit vectors.
        neighbours: how many of the nearest count; at most R.
    """
    cosines = points @ references.to(points).T  # (*n, R)
    return cosines.topk(min(neighbours, len(references)), dim=-1).values.mean(-1)


class CSLS(Similarity):
    """Cross-domain similarity local scaling: cos(x, y) - w r(x) - v r(y), r the mean cosine to the nearest references.

    The paper takes the nearest points of the other side for r and doubles the sum; here both sides are held against one
    set of references that is there before any picture is, so a score does not depend on what else is asked. Ranking the
    labels of one picture sees the label's term alone, ranking pictures for one text the picture's.

    Args:
        references: (R, d) points that pictures and texts are held against; brought to unit length.
        neighbours: nearest references that count.
        image_weight, text_weight: w of pictures and v of texts; 0.5 as in the paper (halved), 0 gives plain cosines.

    Raises:
        UsageError: no reference, `neighbours` below 1, or a weight outside [0, 1].

    Paper: Conneau et al., Word Translation Without Parallel Data, ICLR 2018 (arXiv 1710.04087), equation 3.
    """

    angular = True
    references: Tensor

    def __init__(
        self,
        references: Float[Tensor, "R d"],
        *,
        neighbours: int = 10,
        image_weight: float = 0.5,
        text_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if references.ndim != 2 or not len(references):
            raise UsageError(f"references must be (R, d) with R at least 1, not {tuple(references.shape)}")
        if neighbours < 1:
            raise UsageError(f"neighbours={neighbours}: at least 1")
        for name, weight in (("image_weight", image_weight), ("text_weight", text_weight)):
            if not 0 <= weight <= 1:
                raise UsageError(f"{name}={weight}: from 0 to 1")
        self.neighbours, self.image_weight, self.text_weight = neighbours, image_weight, text_weight
        self.register_buffer("references", F.normalize(references.float(), dim=-1))

    def extra_repr(self) -> str:
        weights = f"image_weight={self.image_weight}, text_weight={self.text_weight}"
        return f"references={len(self.references)}, neighbours={self.neighbours}, {weights}"

    def settings(self) -> dict[str, Any]:
        """Neighbours and weights."""
        return {"neighbours": self.neighbours, "image_weight": self.image_weight, "text_weight": self.text_weight}

    def signature(self) -> str:
        """As of every geometry, with a hash of the references."""
        digest = hashlib.blake2b(self.references.cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        return json.dumps([type(self).__qualname__, self.settings(), digest], sort_keys=True)

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to (unit vector, w r), one number longer; whatever is no picture is a text."""
        unit = F.normalize(at_least_float32(x), dim=-1)
        return torch.cat([unit, self.offset(unit, modality).unsqueeze(-1)], -1)

    def offset(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n"]:
        """w r of pictures, v r of texts."""
        unit = F.normalize(at_least_float32(x), dim=-1)
        weight = self.image_weight if modality == "image" else self.text_weight
        return weight * mean_nearest_cosine(unit, self.references, self.neighbours)

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """(x, -w r(x), 1)."""
        return torch.cat([a[..., :-1], -a[..., -1:], torch.ones_like(a[..., -1:])], -1)

    def right(self, b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """(y, 1, -v r(y))."""
        return torch.cat([b[..., :-1], torch.ones_like(b[..., -1:]), -b[..., -1:]], -1)
