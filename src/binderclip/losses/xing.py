"""A penalty on Bezier segments whose control polygon crosses itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["XingLoss"]


class XingLoss(nn.Module):
    """How far closed paths' segments turn against themselves: the mean over segments and paths of a sine, 0 to 1.

    A segment with the control polygon A, B, C, D should turn the same way from AB to BC and from AB to CD. Where the
    first sine is at least 0 it costs the negative part of the second, else its positive part. A segment without a
    first or last handle costs nothing. Rotation, translation and scale change nothing.

    Paper: Ma et al., Towards Layer-wise Image Vectorization (LIVE), as used by Segmentation-guided Layer-wise Image
    Vectorization with Gradient Fills (arXiv 2408.15741), equation 9.

    Examples:
        >>> square = torch.tensor([[[0.0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2]]])  # two segments
        >>> float(XingLoss()(square))
        0.0
    """

    def forward(self, points: Float[Tensor, "n P 2"]) -> Float[Tensor, ""]:
        """The penalty.

        Args:
            points: 3 s control points of each of n closed paths of s segments.

        Raises:
            UsageError: no path, or points of another number.
        """
        if points.ndim != 3 or points.shape[1] % 3 or not points.numel():
            raise UsageError(f"points must be (n, 3 s, 2) of closed cubic paths, got {tuple(points.shape)}")
        first = points[:, 0::3]
        handles = points[:, 1::3], points[:, 2::3]
        last = first.roll(-1, 1)  # a segment ends where the next one begins, the last at the first
        sides = handles[0] - first, handles[1] - handles[0], last - handles[1]  # AB, BC, CD: [n, s, 2]
        turn, sine = _sine(sides[0], sides[1]).detach(), _sine(sides[0], sides[2])
        return torch.where(turn >= 0, (-sine).relu(), sine.relu()).mean()


def _sine(a: Float[Tensor, "n s 2"], b: Float[Tensor, "n s 2"]) -> Float[Tensor, "n s"]:
    """The sine of the angle from a to b; 0 where one of them has no length."""
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    lengths = (a.square().sum(-1) * b.square().sum(-1)).clamp(min=1e-24).sqrt()
    return cross / lengths
