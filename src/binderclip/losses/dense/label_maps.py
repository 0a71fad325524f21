"""Losses of label maps that keep a segmenter's confidence honest: cross-entropy, softer labels, penalties on logits."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.neighbor_prior import Border, Prior, check_prior, counted_pixels, neighbor_prior
from binderclip.numeric import check_number
from binderclip.settings import check_choice
from binderclip.similarity.geometry import at_least_float32

__all__ = ["DenseLoss", "FocalLoss", "MarginLabelSmoothingLoss", "NACLLoss", "NeighborPenaltyLoss", "SVLSLoss"]

#: What ignored pixels are called inside, as in PyTorch.
IGNORED = -100


class DenseLoss(nn.Module):
    """What losses of label maps share; itself plain cross-entropy. Subclasses say what each pixel costs (`terms`).

    Call it with `(logits (B, K, H, W), labels (B, H, W))`, as `torch.nn.CrossEntropyLoss`; ignored pixels are in no
    term and get no gradient. `parts` holds the detached terms of the last call, which sum to the loss. Half precision
    is raised to float32.

    Args:
        ignore_index: label that is left out (255 is too).
        reduction: "mean" over the counted pixels (0 where there is none), "sum", or "none" for a map (B, H, W) with
            zeros at ignored pixels.

    Raises:
        UsageError: an unknown reduction; at the call, shapes that do not belong together or a label that is no class.
    """

    def __init__(self, *, ignore_index: int = -1, reduction: Literal["mean", "sum", "none"] = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.ignore_index, self.reduction = ignore_index, reduction
        self.parts: dict[str, Tensor] = {}

    def terms(
        self, logits: Float[Tensor, "B K H W"], labels: Int[Tensor, "B H W"], images: Float[Tensor, "B C H W"] | None
    ) -> dict[str, Float[Tensor, "B H W"]]:
        """What each pixel costs, by name. Ignored labels come as -100, and what they cost is dropped afterwards."""
        return {"ce": F.cross_entropy(logits, labels, reduction="none")}

    def forward(
        self,
        logits: Float[Tensor, "B K H W"],
        labels: Int[Tensor, "B H W"],
        images: Float[Tensor, "B C H W"] | None = None,
    ) -> Float[Tensor, ""] | Float[Tensor, "B H W"]:
        """The loss.

        Args:
            logits: before the softmax.
            labels: classes 0..K-1, or ignored.
            images: in [0, 1], for losses that look at them.
        """
        if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise UsageError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not belong together: they are "
                "(B, K, H, W) and (B, H, W)"
            )
        counted = counted_pixels(labels, logits.shape[1], self.ignore_index)
        logits = at_least_float32(logits).masked_fill(~counted[:, None], 0)
        costs = self.terms(logits, labels.long().masked_fill(~counted, IGNORED), images)
        maps = {name: cost.masked_fill(~counted, 0) for name, cost in costs.items()}
        number = counted.sum().clamp(min=1)
        reduced = {name: cost.sum() / (number if self.reduction == "mean" else 1) for name, cost in maps.items()}
        self.parts = {name: value.detach() for name, value in reduced.items()}
        return torch.stack(list((maps if self.reduction == "none" else reduced).values())).sum(0)


class FocalLoss(DenseLoss):
    """Cross-entropy weighted by (1 - p)^gamma, p the probability of the true class: sure pixels count less.

    Args:
        gamma: 0 is cross-entropy; 3 is the baseline of the papers on calibration.
        ignore_index, reduction: as in `DenseLoss`.

    Raises:
        UsageError: a negative gamma; at the call as `DenseLoss`.

    Paper: Focal Loss for Dense Object Detection (arXiv 1708.02002).
    """

    def __init__(
        self, gamma: float = 3.0, *, ignore_index: int = -1, reduction: Literal["mean", "sum", "none"] = "mean"
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        check_number("gamma", gamma, least=0)
        self.gamma = gamma

    def terms(
        self, logits: Float[Tensor, "B K H W"], labels: Int[Tensor, "B H W"], images: Float[Tensor, "B C H W"] | None
    ) -> dict[str, Float[Tensor, "B H W"]]:
        """`focal`."""
        ce = F.cross_entropy(logits, labels, reduction="none")
        return {"focal": (-torch.expm1(-ce)).clamp(min=0) ** self.gamma * ce if self.gamma else ce}


class SVLSLoss(DenseLoss):
    """Cross-entropy with labels softened where neighbours differ: half the pixel's own, half a Gaussian average.

    Inside a region the label stays one-hot; at its edge the classes of the neighbours get a share. Spatially varying
    label smoothing is what `NeighborPenaltyLoss` is compared with.

    Args:
        size: side of the window in pixels, odd.
        sigma: of the Gaussian, in pixels.
        border: as in `neighbor_prior`.
        ignore_index, reduction: as in `DenseLoss`.

    Raises:
        UsageError: a window that is even or below 3, a sigma that is not positive; at the call as `DenseLoss`.

    Papers: Spatially Varying Label Smoothing: Capturing Uncertainty from Expert Annotations (arXiv 2104.05788); the
    baseline of Trust your neighbours: Penalty-based constraints for model calibration (arXiv 2303.06268).
    """

    def __init__(
        self,
        *,
        size: int = 3,
        sigma: float = 1.0,
        border: Border = "replicate",
        ignore_index: int = -1,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        check_prior("gaussian", size, sigma, border)
        self.size, self.sigma, self.border = size, sigma, border

    def terms(
        self, logits: Float[Tensor, "B K H W"], labels: Int[Tensor, "B H W"], images: Float[Tensor, "B C H W"] | None
    ) -> dict[str, Float[Tensor, "B H W"]]:
        """`soft_ce`."""
        soft = neighbor_prior(
            labels,
            logits.shape[1],
            prior="gaussian",
            size=self.size,
            sigma=self.sigma,
            border=self.border,
            ignore_index=IGNORED,
        )
        return {"soft_ce": -(soft * logits.log_softmax(1)).sum(1)}


class MarginLabelSmoothingLoss(DenseLoss):
    """Cross-entropy plus a penalty on logits that lie more than a margin below the largest one.

    alpha * mean over classes of relu(max_j l_j - l_k - margin): no wish to be surer than the margin allows.

    Args:
        margin: m in logits; 10, and 5 in the authors' medical runs.
        alpha: weight of the penalty, a mean over pixels and classes; 0 is cross-entropy.
        ignore_index, reduction: as in `DenseLoss`.

    Raises:
        UsageError: a negative margin or alpha; at the call as `DenseLoss`.

    Papers: Calibrating Segmentation Networks with Margin-based Label Smoothing (arXiv 2209.09641); a baseline of Trust
    your neighbours: Penalty-based constraints for model calibration (arXiv 2303.06268).
    """

    def __init__(
        self,
        margin: float = 10.0,
        *,
        alpha: float = 0.1,
        ignore_index: int = -1,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        if margin < 0 or alpha < 0:
            raise UsageError(f"margin and alpha must not be negative, got {margin} and {alpha}")
        self.margin, self.alpha = margin, alpha

    def terms(
        self, logits: Float[Tensor, "B K H W"], labels: Int[Tensor, "B H W"], images: Float[Tensor, "B C H W"] | None
    ) -> dict[str, Float[Tensor, "B H W"]]:
        """`ce` and `margin`."""
        over = (logits.amax(1, keepdim=True) - logits - self.margin).relu().mean(1)
        return {"ce": F.cross_entropy(logits, labels, reduction="none"), "margin": self.alpha * over}


class NeighborPenaltyLoss(DenseLoss):
    """Cross-entropy plus a penalty that ties the logits of a pixel to the classes of its neighbours.

    Softening labels by their neighbours (`SVLSLoss`) hides a constraint whose strength nobody can set. Here it stands
    open: CE + alpha * mean over pixels and classes of |tau - l|, where tau is the share of each class in the window
    around the pixel and l are the raw logits: a logit of 12 is drawn back towards a proportion in [0, 1], and at the
    edges of regions the logits of both sides towards one another. `NACLLoss` is the same class.

    Args:
        prior: of the labels, see `neighbor_prior`: "mean" (the paper's), "gaussian", "image_proportions_l1", ...
        distance: "l1" for |tau - l|, "l2" for its square (which also pulls like a weight decay of the logits: mind
            alpha).
        alpha: weight of the penalty, a mean over pixels and classes. 0 is cross-entropy; the attribute may be changed
            between steps.
        size: side of the window in pixels, odd.
        sigma: of the Gaussian, in pixels, for "gaussian" and "bilateral".
        border: what stands beyond the image, see `neighbor_prior`. `zeros` gives the numbers of the authors' program
            (which replicates for "gaussian").
        on_softmax: compare probabilities instead of logits: another, much weaker loss.
        ignore_index, reduction: as in `DenseLoss`.

    Call it with `(logits, labels)`, and `images=` for the priors that look at the picture.

    Raises:
        UsageError: an unknown prior, distance or border, an even window, a negative alpha; at the call as `DenseLoss`
            and `neighbor_prior`.

    Examples:
        >>> loss = NeighborPenaltyLoss(alpha=0.1)
        >>> logits, labels = torch.zeros(2, 3, 8, 8, requires_grad=True), torch.zeros(2, 8, 8, dtype=torch.long)
        >>> loss(logits, labels).backward()

    Papers: Trust your neighbours: Penalty-based constraints for model calibration (arXiv 2303.06268); Neighbor-Aware
    Calibration of Segmentation Networks with Penalty-Based Constraints (arXiv 2401.14487).
    """

    def __init__(
        self,
        prior: Prior = "mean",
        distance: Literal["l1", "l2"] = "l1",
        *,
        alpha: float = 0.1,
        size: int = 3,
        sigma: float = 1.0,
        border: Border = "replicate",
        on_softmax: bool = False,
        ignore_index: int = -1,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        check_prior(prior, size, sigma, border)
        check_choice("distance", distance, ("l1", "l2"))
        check_number("alpha", alpha, least=0)
        self.prior, self.distance, self.alpha = prior, distance, alpha
        self.size, self.sigma, self.border, self.on_softmax = size, sigma, border, on_softmax

    def terms(
        self, logits: Float[Tensor, "B K H W"], labels: Int[Tensor, "B H W"], images: Float[Tensor, "B C H W"] | None
    ) -> dict[str, Float[Tensor, "B H W"]]:
        """`ce` and `neighbors`."""
        tau = neighbor_prior(
            labels,
            logits.shape[1],
            prior=self.prior,
            size=self.size,
            sigma=self.sigma,
            border=self.border,
            images=images,
            ignore_index=IGNORED,
        )
        gap = tau - (logits.softmax(1) if self.on_softmax else logits)
        away = gap.abs() if self.distance == "l1" else gap.square()
        return {"ce": F.cross_entropy(logits, labels, reduction="none"), "neighbors": self.alpha * away.mean(1)}


#: The name of the journal version.
NACLLoss = NeighborPenaltyLoss
