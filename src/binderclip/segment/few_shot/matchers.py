"""What turns features of a query and of a support picture into a mask: a trained network, and two rules without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.segment.few_shot.correlation import SUPPORTS, Support, hypercorrelations
from binderclip.segment.few_shot.levels import LEVELS, Levels, SupportFeatures
from binderclip.settings import check_choice

__all__ = ["CenterPivotConv4d", "HypercorrelationNet", "Matcher", "PriorMask", "PrototypeMatch"]

GROUPS = 4


@runtime_checkable
class Matcher(Protocol):
    """Features of B queries and B support pictures -> logits of background and target, on any grid."""

    def __call__(self, query: Levels, support: SupportFeatures) -> Float[Tensor, "B 2 h w"]: ...


class CenterPivotConv4d(nn.Module):
    """A 4-D convolution without the weights that touch neither centre: two 2-D ones, whose outputs are summed.

    One runs over the query's positions with the support's fixed, the other over the support's with the query's fixed.

    Args:
        channels, out: of input and output.
        stride: over the support's positions.

    Paper: Hypercorrelation Squeeze for Few-Shot Segmentation (ICCV 2021, arXiv 2104.01538).
    """

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.query = nn.Conv2d(channels, out, 3, padding=1)
        self.support = nn.Conv2d(channels, out, 3, padding=1, stride=stride)

    def forward(self, x: Float[Tensor, "B C hq wq hs ws"]) -> Float[Tensor, "B D hq wq _ _"]:
        """Every `stride`-th position of the support stays."""
        size, (hq, wq) = len(x), x.shape[2:4]
        kept = x[..., :: self.stride, :: self.stride]
        hs, ws = kept.shape[4:]
        over_query = self.query(kept.permute(0, 4, 5, 1, 2, 3).flatten(0, 2))  # (B hs ws, D, hq, wq)
        over_support = self.support(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))  # (B hq wq, D, hs, ws)
        first = over_query.unflatten(0, (size, hs, ws)).permute(0, 3, 4, 5, 1, 2)
        return first + over_support.unflatten(0, (size, hq, wq)).permute(0, 3, 1, 2, 4, 5)


class HypercorrelationNet(nn.Module):
    """A pyramid of 4-D convolutions that squeezes hypercorrelations into a mask; nothing in it knows a class.

    Each level is squeezed over the support's positions to one grid. From the deepest on, it is enlarged over the
    query's positions, added to the next and mixed. The mean over the support's positions goes through a 2-D decoder.

    Args:
        counts: maps a level of the backbone, deepest first (`CorrelationBackbone.counts`).
        widths: channels of the three convolutions of a level, multiples of 4. The papers' are (16, 64, 128).
        support: what of the support picture is correlated, see `hypercorrelations`.

    Raises:
        UsageError: other than three levels or widths, or an unknown `support`.

    Papers: MSI: Maximize Support-Set Information for Few-Shot Segmentation (arXiv 2212.04673), with the decoder of
    Hypercorrelation Squeeze for Few-Shot Segmentation (arXiv 2104.01538).
    """

    def __init__(self, counts: Sequence[int], *, widths: Sequence[int] = (8, 16, 24), support: Support = "msi") -> None:
        super().__init__()
        if len(counts) != LEVELS or len(widths) != 3 or any(width < 1 or width % GROUPS for width in widths):
            raise UsageError(
                f"counts are of three levels and widths three multiples of {GROUPS}, not {tuple(counts)} and "
                f"{tuple(widths)}"
            )
        check_choice("support", support, SUPPORTS)
        self.support: Support = support
        self.settings = {"counts": list(counts), "widths": list(widths), "support": support}
        channels = [count * (2 if support == "msi" else 1) for count in counts]
        # A level of half the grid is squeezed by half: all end on the grid that the finest has after three halvings.
        strides = ((2, 1, 1), (2, 2, 1), (2, 2, 2))
        self.squeeze = nn.ModuleList(
            _block((count, *widths), stride) for count, stride in zip(channels, strides, strict=True)
        )
        self.mix = nn.ModuleList(_block((widths[2],) * 4, (1, 1, 1)) for _ in range(LEVELS - 1))
        self.decode = nn.Sequential(
            nn.Conv2d(widths[2], widths[2], 3, padding=1), nn.ReLU(),
            nn.Conv2d(widths[2], widths[1], 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Sequential(
            nn.Conv2d(widths[1], widths[1], 3, padding=1), nn.ReLU(), nn.Conv2d(widths[1], 2, 3, padding=1)
        )

    def forward(self, query: Levels, support: SupportFeatures) -> Float[Tensor, "B 2 h w"]:
        """Logits of background and target at twice the finest grid."""
        return self.aggregate(hypercorrelations(query, support, of=self.support))

    def aggregate(self, correlations: Sequence[Float[Tensor, "B _ _ _ _ _"]]) -> Float[Tensor, "B 2 h w"]:
        """The same from hypercorrelations, deepest level first."""
        squeezed = [block(each) for block, each in zip(self.squeeze, correlations, strict=True)]
        mixed = squeezed[0]
        for finer, block in zip(squeezed[1:], self.mix, strict=True):
            mixed = block(_enlarged(mixed, finer.shape[2:4]) + finer)
        decoded = self.decode(mixed.mean((4, 5)))
        return self.classify(F.interpolate(decoded, scale_factor=2, mode="bilinear", align_corners=True))


def _block(widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [CenterPivotConv4d(before, after, stride), nn.GroupNorm(GROUPS, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _enlarged(x: Float[Tensor, "B C hq wq hs ws"], grid: Sequence[int]) -> Float[Tensor, "B C gh gw hs ws"]:
    """Bilinear over the query's positions."""
    size, (hs, ws) = len(x), x.shape[4:]
    flat = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)  # (B hs ws, C, hq, wq)
    larger = F.interpolate(flat, tuple(grid), mode="bilinear", align_corners=True)
    return larger.unflatten(0, (size, hs, ws)).permute(0, 3, 4, 5, 1, 2)


def _target(support: SupportFeatures, maps: Tensor) -> Float[Tensor, "B h w"]:
    """Share of each cell that the mask covers."""
    return F.interpolate(support.mask[:, None], maps.shape[-2:], mode="area")[:, 0]


@dataclass(frozen=True)
class PriorMask:
    """Likeness to the nearest cell of the target, stretched to [0, 1] and cut in the middle; nothing is trained.

    Args:
        level: of the pyramid, 0 = deepest; its last map is compared.

    Paper: Prior Guided Feature Enrichment Network for Few-Shot Segmentation (TPAMI 2020, arXiv 2008.01449).
    """

    level: int = 0

    def __call__(self, query: Levels, support: SupportFeatures) -> Float[Tensor, "B 2 h w"]:
        """Logits (0, 2 prior - 1)."""
        maps, theirs = query[self.level][-1], support.whole[self.level][-1]
        covered = _target(support, theirs).flatten(1)  # (B, hs ws)
        inside = covered >= covered.amax(1, keepdim=True).clamp(max=0.5)
        cosine = F.normalize(maps, dim=1).flatten(2).mT @ F.normalize(theirs, dim=1).flatten(2)  # (B, hq wq, hs ws)
        best = cosine.masked_fill(~inside[:, None], -torch.inf).amax(2)
        low, high = best.amin(1, keepdim=True), best.amax(1, keepdim=True)
        prior = (best - low) / (high - low + 1e-7)
        logits = (2 * prior - 1).unflatten(1, maps.shape[-2:])
        return torch.stack([torch.zeros_like(logits), logits], 1)


@dataclass(frozen=True)
class PrototypeMatch:
    """Each cell goes to the nearer of two mean vectors of the support picture: target and the rest. Nothing is trained.

    Args:
        level: of the pyramid, 0 = deepest; its last map is compared.
        scale: factor on the cosines.

    Paper: PANet: Few-Shot Image Semantic Segmentation with Prototype Alignment (ICCV 2019, arXiv 1908.06391).
    """

    level: int = 1
    scale: float = 20.0

    def __call__(self, query: Levels, support: SupportFeatures) -> Float[Tensor, "B 2 h w"]:
        """Scaled cosines with both."""
        maps, theirs = query[self.level][-1], support.whole[self.level][-1]
        target = _target(support, theirs)
        shares = torch.stack([1 - target, target], 1)  # (B, 2, hs, ws)
        means = torch.einsum("bkhw,bchw->bkc", shares, theirs) / (shares.sum((2, 3))[..., None] + 1e-5)
        return self.scale * torch.einsum("bkc,bchw->bkhw", F.normalize(means, dim=2), F.normalize(maps, dim=1))
