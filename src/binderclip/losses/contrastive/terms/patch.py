"""A contrastive loss over patch tokens: patches of one label near each other, of different ones apart."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError


class PatchContrastive(nn.Module):
    """Draw patches of one label together and push patches of different labels apart, up to a margin.

    With d the distance of two unit vectors, a pair of one label costs d^2 and a pair of two labels
    max(0, margin - d^2); the mean is over pairs i != j. The paper writes a sum and does not say that vectors have
    length one.

    Args:
        margin: of d^2, which lies in [0, 4]. Default 1, the paper's.
        sample: most patches of a batch, as many of each label where there are enough; pairs grow with the square.

    Raises:
        UsageError: a margin not above 0, fewer than two patches in the sample, or labels that do not fit.

    Paper: All Patches Matter, More Patches Better: Enhance AI-Generated Image Detection via Panoptic Patch Learning
    (arXiv 2504.01396).

    Examples:
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> PatchContrastive()(apart, torch.tensor([0, 0, 1])).item()
        0.0
    """

    def __init__(self, margin: float = 1.0, *, sample: int = 256) -> None:
        super().__init__()
        if margin <= 0 or sample < 2:
            raise UsageError(f"margin {margin} must be above 0 and sample {sample} at least 2")
        self.margin, self.sample = margin, sample

    def extra_repr(self) -> str:
        return f"margin={self.margin}, sample={self.sample}"

    def forward(
        self, tokens: Float[Tensor, "M D"], labels: Shaped[Tensor, "M"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The loss of M patches.

        Args:
            tokens: of any length; they are normalised.
            labels: of two classes.
            generator: of the sample; None for torch's own.
        """
        if len(tokens) != len(labels) or len(tokens) < 2:
            raise UsageError(f"{len(tokens)} patches with {len(labels)} labels: one each, and at least two patches")
        kept = self.sampled(labels.bool(), generator)
        unit = functional.normalize(tokens[kept], dim=-1)
        same = labels[kept, None] == labels[kept]
        squared = (2 - 2 * unit @ unit.T).clamp(min=0)  # (m, m) d^2 of unit vectors
        cost = torch.where(same, squared, (self.margin - squared).clamp(min=0))
        count = len(cost)
        return (cost.sum() - cost.diagonal().sum()) / (count * (count - 1))

    def sampled(self, labels: Bool[Tensor, "M"], generator: torch.Generator | None = None) -> Shaped[Tensor, "m"]:
        """Rows of the sample: half of each label, more of one where the other has too few."""
        if len(labels) <= self.sample:
            return torch.arange(len(labels), device=labels.device)
        place = None if generator is None else generator.device
        order = torch.randperm(len(labels), generator=generator, device=place).to(labels.device)
        ones, zeros = order[labels[order]], order[~labels[order]]
        half = self.sample // 2
        first = min(len(ones), max(half, self.sample - len(zeros)))
        return torch.cat([ones[:first], zeros[: self.sample - first]])
