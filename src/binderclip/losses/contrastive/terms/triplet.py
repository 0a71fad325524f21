"""A triplet loss on token embeddings."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

Distance = Literal["pooled", "tokens", "released"]


class TokenTriplet(nn.Module):
    """Pull an anchor's tokens to those of its class and push them from those of the other: relu(d_p - d_n + margin).

    d is the squared Euclidean distance, not its root; the mean is over all triplets (and token positions).

    Args:
        margin: Default 1, the paper's.
        distance: "pooled": of the mean over tokens, one number a triplet; "tokens": one a token position; "released":
            summed over the tokens instead of the features, one number a feature, as the released program does.

    Raises:
        UsageError: an unknown distance, a negative margin, or embeddings of different shapes.

    Paper: DeeCLIP: A Robust and Generalizable Transformer-Based Framework for Detecting AI-Generated Images
    (arXiv 2504.19876).

    Examples:
        >>> anchor, other = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
        >>> TokenTriplet()(anchor, anchor, other).item()  # 0 - 2 + 1 is below 0
        0.0
    """

    def __init__(self, margin: float = 1.0, *, distance: Distance = "pooled") -> None:
        super().__init__()
        if distance not in get_args(Distance) or margin < 0:
            known = ", ".join(get_args(Distance))
            raise UsageError(f"distance {distance!r} must be one of {known}, margin {margin} 0 or more")
        self.margin, self.distance = margin, distance

    def extra_repr(self) -> str:
        return f"margin={self.margin}, distance={self.distance!r}"

    def forward(
        self, anchor: Float[Tensor, "B N D"], positive: Float[Tensor, "B N D"], negative: Float[Tensor, "B N D"]
    ) -> Float[Tensor, ""]:
        """The loss of B triplets.

        Args:
            anchor: token embeddings.
            positive: of pictures of the same class.
            negative: of pictures of the other class.
        """
        if not anchor.shape == positive.shape == negative.shape:
            raise UsageError(f"triplets need one shape: {[tuple(x.shape) for x in (anchor, positive, negative)]}")
        near, far = (self._squared(anchor, other) for other in (positive, negative))
        return torch.relu(near - far + self.margin).mean()

    def _squared(self, one: Tensor, other: Tensor) -> Tensor:
        if self.distance == "pooled":
            return (one.mean(1) - other.mean(1)).square().sum(-1)  # (B,)
        return (one - other).square().sum(1 if self.distance == "released" else -1)  # (B, D) or (B, N)
