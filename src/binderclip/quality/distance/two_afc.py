"""Two alternatives, forced choice: which of two pictures is nearer to a reference, learned and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

EPSILON = 0.1


class ChoiceLoss(nn.Module):
    """Cross entropy of a share of people who chose the second picture, predicted from both distances.

    A perceptron of 32 and 32 hidden units sees d0, d1, d0 - d1, d0 / (d1 + 0.1) and d1 / (d0 + 0.1); it is learned with
    the distance and thrown away.

    Args:
        hidden: units of both layers.

    Paper: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv 1801.03924).
    """

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(5, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden)]
        self.net = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Linear(hidden, 1))

    def forward(
        self, first: Float[Tensor, "B"], second: Float[Tensor, "B"], preferred: Float[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """The mean loss.

        Args:
            first, second: distances of either picture.
            preferred: share of people to whom the second picture was nearer, in [0, 1].
        """
        a, b = first, second
        seen = torch.stack([a, b, a - b, a / (b + EPSILON), b / (a + EPSILON)], dim=1)
        return F.binary_cross_entropy_with_logits(self.net(seen)[:, 0], preferred)


def two_afc_score(
    first: Float[Tensor, "N"], second: Float[Tensor, "N"], preferred: Float[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Mean share of people with whom distances agree; ties count one half.

    Args:
        first, second: distances from the reference.
        preferred: share of people to whom the second picture was nearer.

    Raises:
        UsageError: lengths that differ, no triplet, or shares outside [0, 1].
    """
    if not len(first) == len(second) == len(preferred) or not len(first):
        raise UsageError(f"as many distances as choices, at least one: {len(first)}, {len(second)}, {len(preferred)}")
    if not bool(((preferred >= 0) & (preferred <= 1)).all()):
        raise UsageError("preferred must lie in [0, 1]: the share of people to whom the second was nearer")
    agreement = preferred.to(first.dtype)
    nearer = torch.where(
        first < second, 1 - agreement, torch.where(first > second, agreement, torch.full_like(agreement, 0.5))
    )
    return nearer.mean()


@torch.no_grad()
def shift_flips(
    metric: Callable[[Tensor, Tensor], Tensor],
    reference: Float[Tensor, "N 3 H W"],
    first: Float[Tensor, "N 3 H W"],
    second: Float[Tensor, "N 3 H W"],
    *,
    shifts: Sequence[int] = (1, 2, 3),
) -> Bool[Tensor, "S N"]:
    """Which triplets are ordered otherwise when both pictures are shifted against the reference by a few pixels.

    All are cropped to the width less the largest shift, the reference from its first column, the pictures from column
    n; nothing is rolled or padded, so no seam is seen.

    Args:
        metric: distances from images and references.
        reference, first, second: of one size.
        shifts: n, in pixels to the left.

    Raises:
        UsageError: shapes that differ, or shifts below 1 or as wide as the picture.
    """
    if not reference.shape == first.shape == second.shape:
        raise UsageError(f"shapes differ: {tuple(reference.shape)}, {tuple(first.shape)}, {tuple(second.shape)}")
    if not shifts or min(shifts) < 1 or max(shifts) >= reference.shape[-1]:
        raise UsageError(f"shifts {tuple(shifts)}: pixels, at least 1 and fewer than the width {reference.shape[-1]}")
    width = reference.shape[-1] - max(shifts)
    fixed = reference[..., :width]

    def order(n: int) -> Tensor:
        near, far = (metric(image[..., n : n + width], fixed) for image in (first, second))
        return (near - far).sign()

    unmoved = order(0)
    return torch.stack([order(n) != unmoved for n in shifts])


def shift_flip_rate(
    metric: Callable[[Tensor, Tensor], Tensor],
    reference: Float[Tensor, "N 3 H W"],
    first: Float[Tensor, "N 3 H W"],
    second: Float[Tensor, "N 3 H W"],
    *,
    shifts: Sequence[int] = (1, 2, 3),
) -> Float[Tensor, "S"]:
    """Share of triplets whose order a shift of n pixels changes, for every n: the rank-flip rate of `shift_flips`.

    Paper: Shift-tolerant Perceptual Similarity Metric (arXiv 2207.13686), which averages over kinds of distortion.
    """
    return shift_flips(metric, reference, first, second, shifts=shifts).float().mean(1)
