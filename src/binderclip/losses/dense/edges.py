"""Losses of edge maps, where edges are a few pixels in a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["DEXINED_WEIGHTS", "BalancedEdgeBCE", "TracingLoss"]

DEXINED_WEIGHTS = (0.7, 0.7, 1.1, 1.1, 0.3, 0.3, 1.3)
"""Of DexiNed's six side maps and of the fused one, as it was trained."""
LEAST = 1e-10


class BalancedEdgeBCE(nn.Module):
    """Binary cross-entropy in which the edges of a batch weigh as much as all the rest.

    With P edges and N other pixels in the batch an edge has the weight N / (P + N), any other pixel
    `negative_factor` P / (P + N). A batch without edges, or of edges only, so costs nothing.

    HED and RCF are `reduction="sum"`, RCF with its disputed pixels left out by `counted`; BDCN's loss, with which
    DexiNed was trained, is `reduction="pixel_mean"` with `map_weights=DEXINED_WEIGHTS`.

    Args:
        negative_factor: of pixels that are no edge.
        threshold: a pixel is an edge where its label is at least this. DexiNed's released program has 0.8: it adds
            0.2 to labels above 0.1 and cuts them to integers.
        reduction: `pixel_mean`: the mean over pixels, summed over the batch; `mean`: over both; `sum`: neither.
        map_weights: of the K maps; None for 1 each.

    Raises:
        UsageError: a factor or weight that is negative or not finite, a threshold out of (0, 1], another reduction.

    Paper: Dense Extreme Inception Network for Edge Detection (Pattern Recognition 2023, arXiv 2112.02250).

    Examples:
        >>> import torch
        >>> loss = BalancedEdgeBCE(reduction="sum", negative_factor=1.0)
        >>> round(float(loss(torch.zeros(1, 1, 2, 2), torch.eye(2)[None])), 4)  # 4 pixels of weight 1/2, log 2 each
        1.3863
    """

    def __init__(
        self,
        *,
        negative_factor: float = 1.1,
        threshold: float = 0.5,
        reduction: Literal["pixel_mean", "mean", "sum"] = "pixel_mean",
        map_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_number("negative_factor", negative_factor, least=0)
        check_number("threshold", threshold, above=0, most=1)
        check_choice("reduction", reduction, ("pixel_mean", "mean", "sum"))
        for weight in map_weights or ():
            check_number("map_weights", weight, least=0)
        self.negative_factor, self.threshold, self.reduction = negative_factor, threshold, reduction
        self.map_weights = None if map_weights is None else tuple(map_weights)

    def forward(
        self,
        logits: Float[Tensor, "B K H W"],
        target: Float[Tensor, "B H W"],
        counted: Bool[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, summed over the maps.

        Args:
            logits: of K maps of the same edges, such as DexiNed's seven.
            target: label of an edge, in [0, 1].
            counted: False where a pixel is left out, also of P and N; None: all count.

        Raises:
            UsageError: shapes that do not belong together, labels out of [0, 1], or another number of maps than of
                weights.
        """
        _check_maps(logits, target)
        if counted is not None and counted.shape != target.shape:
            raise UsageError(f"counted must be as target, {tuple(target.shape)}, not {tuple(counted.shape)}")
        if self.map_weights is not None and len(self.map_weights) != logits.shape[1]:
            raise UsageError(f"{len(self.map_weights)} map_weights for {logits.shape[1]} maps of logits")
        edge = (target >= self.threshold).to(logits.dtype)
        included = torch.ones_like(edge) if counted is None else counted.to(logits.dtype)
        positives = (edge * included).sum()
        part = positives / included.sum().clamp(min=1)  # P / (P + N)
        weight = torch.where(edge > 0, 1 - part, self.negative_factor * part) * included  # (B, H, W)
        labels = edge[:, None].expand_as(logits)
        cost = F.binary_cross_entropy_with_logits(logits, labels, weight[:, None].expand_as(logits), reduction="none")
        maps = cost.sum((0, 2, 3))  # (K,)
        if self.reduction != "sum":
            maps = maps / (target[0].numel() if self.reduction == "pixel_mean" else target.numel())
        return maps.sum() if self.map_weights is None else (maps * maps.new_tensor(self.map_weights)).sum()


class TracingLoss(nn.Module):
    """Edges that are sharp where they are labelled, and absent where nothing is near: CATS's two terms.

    On an edge pixel -log(S / (S + T)), with S the sum of the probabilities of edge pixels in a window around it and T
    that of the other pixels there. Beyond the windows of all edges -log(1 - mean of the 3 x 3 probabilities). CATS is
    this and `BalancedEdgeBCE(reduction="sum")`.

    Args:
        radius: of the window, 2 radius + 1 pixels wide.
        tracing: weight of the first term.
        texture: weight of the second. The released program has (2, 0.05) for DexiNed's first three maps, (1, 0.1) for
            the next three and (4, 0.01) for the fused one.
        threshold: a pixel is an edge where its label is at least this.

    Raises:
        UsageError: a radius below 1, a weight that is negative or not finite, or a threshold out of (0, 1].

    Paper: Dense Extreme Inception Network for Edge Detection (arXiv 2112.02250), which compares it with its own loss.
    """

    def __init__(self, *, radius: int = 4, tracing: float = 2.0, texture: float = 0.05, threshold: float = 0.5) -> None:
        super().__init__()
        check_whole("radius", radius, least=1)
        check_number("tracing", tracing, least=0)
        check_number("texture", texture, least=0)
        check_number("threshold", threshold, above=0, most=1)
        self.radius, self.tracing, self.texture, self.threshold = radius, tracing, texture, threshold

    def forward(self, logits: Float[Tensor, "B K H W"], target: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
        """The loss, summed over maps, pictures and pixels.

        Args:
            logits: of K maps of the same edges.
            target: label of an edge, in [0, 1].

        Raises:
            UsageError: shapes that do not belong together, or labels out of [0, 1].
        """
        _check_maps(logits, target)
        edge = (target >= self.threshold).to(logits.dtype)[:, None]  # (B, 1, H, W)
        probability = logits.sigmoid()
        near = (_box_sum(edge, self.radius) > 0.5).to(logits.dtype)
        on = _box_sum(probability * edge, self.radius)
        beside = _box_sum(probability * near * (1 - edge), self.radius)
        traced = (on / (on + beside + LEAST)).clamp(LEAST, 1 - LEAST)
        smooth = (1 - _box_sum(probability, 1) / 9).clamp(LEAST, 1 - LEAST)
        return -(self.tracing * edge * traced.log() + self.texture * (1 - near) * smooth.log()).sum()


def _box_sum(maps: Float[Tensor, "B K H W"], radius: int) -> Float[Tensor, "B K H W"]:
    """Sum over a window around each pixel, zeros beyond the border."""
    size = 2 * radius + 1
    return F.avg_pool2d(maps, size, stride=1, padding=radius, divisor_override=1)


def _check_maps(logits: Tensor, target: Tensor) -> None:
    fits = logits.ndim == 4 and target.shape == logits[:, 0].shape and logits.numel() > 0
    if not fits or not (logits.is_floating_point() and target.is_floating_point()):
        raise UsageError(
            f"logits must be float (B, K, H, W) and target float (B, H, W), not {logits.dtype} of shape "
            f"{tuple(logits.shape)} and {target.dtype} of shape {tuple(target.shape)}"
        )
    # On an accelerator the look at the values would stop the queue at every step.
    if target.device.type == "cpu" and not bool(((target >= 0) & (target <= 1)).all()):
        raise UsageError("target must be in [0, 1]: mark pixels that are left out with `counted`")
