"""Patches of one superpixel belong to one group: a loss on assignments, and superpixels brought to patches."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

__all__ = ["SuperpixelKL", "patch_superpixels"]


def patch_superpixels(
    regions: Int[Tensor, "*B H W"], patch: int, *, rule: Literal["majority", "mean"] = "majority"
) -> Int[Tensor, "*B N"]:
    """One superpixel a patch, row by row.

    Args:
        regions: id of each pixel.
        patch: side in pixels, a divisor of both sides.
        rule: `majority`: the most frequent id, of equally frequent ones the lowest; `mean`: the truncated mean of the
            ids, as the released program has it, which makes up ids where superpixels meet.

    Raises:
        UsageError: another rule, or sides that are no multiple of the patch.

    Examples:
        >>> import torch
        >>> patch_superpixels(torch.tensor([[0, 0, 4, 4], [0, 2, 4, 4]]), 2).tolist()
        [0, 4]
    """
    height, width = regions.shape[-2:]
    if rule not in ("majority", "mean") or patch < 1 or height % patch or width % patch:
        raise UsageError(
            f"rule is majority or mean and patch a divisor of {height} x {width} pixels, not {rule!r} and {patch}"
        )
    cut = regions.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch)).transpose(-3, -2)  # (..., h, w, patch, patch)
    pixels = cut.flatten(-4, -3).flatten(-2)  # (..., N, patch^2)
    return pixels.double().mean(-1).long() if rule == "mean" else pixels.mode(-1).values


class SuperpixelKL(nn.Module):
    """How unlike each patch's assignment is to the mean of its superpixel: half the sum of both KL divergences.

    Both are passed through a softmax over the groups first, one-hot rows too, as the released program has it; the sum
    is divided by the numbers of pictures, patches and groups.

    Paper: SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (ICML 2023,
    arXiv 2211.14813).

    Examples:
        >>> import torch
        >>> hard = torch.eye(2)[[0, 0, 1]].T[None]
        >>> float(SuperpixelKL()(hard, torch.tensor([[7, 7, 3]])))
        0.0
    """

    def forward(self, assignment: Float[Tensor, "B G N"], superpixels: Int[Tensor, "B N"]) -> Float[Tensor, ""]:
        """The loss.

        Args:
            assignment: of patches to groups, as `models.SemanticGrouping` gives it (`hard`).
            superpixels: id of each patch.

        Raises:
            UsageError: shapes that do not belong together.
        """
        if assignment.ndim != 3 or superpixels.shape != (len(assignment), assignment.shape[2]):
            raise UsageError(
                f"assignment {tuple(assignment.shape)} and superpixels {tuple(superpixels.shape)} are to be (B, G, N) "
                "and (B, N)"
            )
        rows = assignment.mT  # P (B, N, G)
        alike = (superpixels[:, :, None] == superpixels[:, None]).to(rows)  # (B, N, N)
        mean = (alike @ rows) / alike.sum(-1, keepdim=True)
        own, shared = rows.log_softmax(-1), mean.log_softmax(-1)
        first = F.kl_div(own, shared, reduction="sum", log_target=True)  # KL(mean || own)
        second = F.kl_div(shared, own, reduction="sum", log_target=True)
        return (first + second) / (2 * assignment.numel())
