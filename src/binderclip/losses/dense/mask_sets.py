"""Losses of mask sets: N predicted masks with classes, matched with what is there, and two relaxations of targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.similarity.geometry import at_least_float32

__all__ = ["MaskSetLoss", "ReClass", "ReMask", "dice_loss", "match_masks", "semantic_labels", "soft_focal_loss"]

NOWHERE = -1e4
"""A logit whose probability is 0 in every precision."""


def dice_loss(
    logits: Float[Tensor, "*M H W"], targets: Float[Tensor, "*M H W"], *, squared: bool = False
) -> Float[Tensor, "*M"]:
    """1 - (2 I + 1) / (A + B + 1) of each mask, I, A and B soft areas of intersection, prediction and target.

    For soft targets its least value lies at sure predictions, not at the target. With `squared` areas it is
    sum (p - t)^2 / (sum p^2 + sum t^2 + 1), which is 0 at the target alone; for sure masks both are the same.

    Args:
        logits: before the sigmoid.
        targets: in [0, 1].
        squared: A and B are sums of squares, as in V-Net.

    Paper: Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    arXiv 1606.04797, for the squares.
    """
    chance = logits.sigmoid()
    intersection = (chance * targets).sum((-2, -1))
    areas = [each.square() if squared else each for each in (chance, targets)]
    return 1 - (2 * intersection + 1) / (sum(each.sum((-2, -1)) for each in areas) + 1)


def soft_focal_loss(
    logits: Float[Tensor, "*M H W"], targets: Float[Tensor, "*M H W"], *, gamma: float = 2.0
) -> Float[Tensor, "*M"]:
    """Mean over pixels of |p - t|^gamma times binary cross-entropy, p the probability and t the target, of each mask.

    Focal loss for targets that are shares or another model's probabilities; 0 where p = t.

    Args:
        logits: before the sigmoid.
        targets: in [0, 1].
        gamma: 0 is cross-entropy.

    Paper: Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection
    (arXiv 2006.04388), quality focal loss.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((logits.sigmoid() - targets).abs() ** gamma * entropy).mean((-2, -1))


def semantic_labels(
    labels: Sequence[Int[Tensor, "_"]], masks: Sequence[Bool[Tensor, "_ H W"]], classes: int
) -> Int[Tensor, "B H W"]:
    """The class at each pixel, K (no object) where there is no mask; of masks that overlap the last.

    Args:
        labels, masks: of each picture, as in `MaskSetLoss`.
        classes: K.
    """
    maps = []
    for own, drawn in zip(labels, masks, strict=True):
        map_ = torch.full(drawn.shape[-2:], classes, dtype=torch.long, device=drawn.device)
        for label, mask in zip(own, drawn, strict=True):
            map_ = torch.where(mask, label, map_)
        maps.append(map_)
    return torch.stack(maps)


@dataclass(frozen=True)
class ReMask:
    """Gates mask logits by an easier semantic prediction, so that false positives in impossible places cost less.

    m' = m + m * sum_c sigmoid(p_c) sigmoid(s_c), over all K + 1 classes: masks are sharpened where the class of the
    query and the semantics of the pixel agree. The gate is detached: neither p nor s learns from it. Training alone.

    Paper: ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation (NeurIPS 2023, arXiv 2306.17319).
    """

    def __call__(
        self,
        masks: Float[Tensor, "B N H W"],
        classes: Float[Tensor, "B N K1"],
        semantic: Float[Tensor, "B K1 H W"],
    ) -> Float[Tensor, "B N H W"]:
        """The relaxed mask logits.

        Args:
            masks: logits m.
            classes: logits p, no object last.
            semantic: logits s of an auxiliary head, of the same K + 1 classes.

        Raises:
            UsageError: shapes that do not belong together.
        """
        if classes.shape[-1] != semantic.shape[1] or masks.shape[-2:] != semantic.shape[-2:]:
            raise UsageError(
                f"masks {tuple(masks.shape)}, classes {tuple(classes.shape)} and semantic {tuple(semantic.shape)} do "
                "not belong together: they are (B, N, H, W), (B, N, K + 1) and (B, K + 1, H, W)"
            )
        gate = torch.einsum("bnc,bchw->bnhw", classes.sigmoid(), semantic.sigmoid()).detach()
        return masks + masks * gate


@dataclass(frozen=True)
class ReClass:
    """Softens the class target of a mask by what the mask really covers: the label is right by degrees.

    t = eta w + (1 - eta w) onehot, where w_c is the share of class c's pixels that the mask covers. The label's own
    entry stays 1; of the others none exceeds eta. The sum exceeds 1 and is not normalised. Training alone.

    Args:
        eta: 0 leaves the targets as they are.

    Raises:
        UsageError: eta outside [0, 1].

    Paper: ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation (NeurIPS 2023, arXiv 2306.17319).
    """

    eta: float = 0.1

    def __post_init__(self) -> None:
        check_number("eta", self.eta, least=0, most=1)

    def __call__(
        self,
        target: Float[Tensor, "B N K1"],
        masks: Float[Tensor, "B N H W"],
        semantic: Int[Tensor, "B H W"],
        ignore: Bool[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, "B N K1"]:
        """The soft targets, without a gradient.

        Args:
            target: one-hot.
            masks: logits before any relaxation.
            semantic: true classes, K where there is none (`semantic_labels`).
            ignore: pixels that do not count.
        """
        truth = F.one_hot(semantic, target.shape[-1]).permute(0, 3, 1, 2).to(masks)  # Y (B, K + 1, H, W)
        if ignore is not None:
            truth = truth * ~ignore[:, None]
        covered = torch.einsum("bnhw,bchw->bnc", masks.detach().sigmoid(), truth)
        coverage = self.eta * covered / (truth.sum((2, 3))[:, None] + 1e-5)  # eta w
        return coverage + (1 - coverage) * target


class MaskSetLoss(nn.Module):
    """The loss of a mask transformer: queries matched one to one with true masks, then classes, pixels and dice.

    The matching minimises the same three costs. A query without a partner has to say "no object". `pairs` holds the
    matches of the last call, rows of queries and of targets for each picture, and `parts` its detached terms,
    which sum to the loss, and beside them `false positives` and `false negatives`:
    binary cross-entropy summed over the pixels of the matched masks where the target is 0, and where it is 1.

    Args:
        class_weight, mask_weight, dice_weight: of the terms.
        no_object: weight of a query whose target is no object, against 1; of soft targets in proportion to that entry.
        relax_masks: a `ReMask`: the mask losses and the matching see relaxed masks, and `semantic` is learnt.
        relax_classes: a `ReClass`.
        semantic_weight: of the cross-entropy of `semantic`.

    Raises:
        UsageError: a negative weight; at the call, shapes that do not belong together, more masks than queries, a label
            that is no class, or no `semantic` for `relax_masks`.

    Papers: Masked-attention Mask Transformer for Universal Image Segmentation (arXiv 2112.01527) has the weights; the
    relaxations are those of ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation (arXiv 2306.17319).
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object: float = 0.1,
        relax_masks: ReMask | None = None,
        relax_classes: ReClass | None = None,
        semantic_weight: float = 1.0,
    ) -> None:
        super().__init__()
        weights = (class_weight, mask_weight, dice_weight, no_object, semantic_weight)
        if min(weights) < 0:
            raise UsageError(f"weights must not be negative, got {', '.join(map(str, weights))}")
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.no_object, self.semantic_weight = no_object, semantic_weight
        self.relax_masks, self.relax_classes = relax_masks, relax_classes
        self.parts: dict[str, Tensor] = {}
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def forward(
        self,
        masks: Float[Tensor, "B N H W"],
        classes: Float[Tensor, "B N K1"],
        labels: Sequence[Int[Tensor, "_"]],
        targets: Sequence[Bool[Tensor, "_ H W"]],
        semantic: Float[Tensor, "B K1 H W"] | None = None,
        ignore: Bool[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            masks, classes: logits of the queries, no object last.
            labels, targets: for each picture the classes 0..K-1 and masks of its G objects; G may be 0.
            semantic: logits of an auxiliary head, for `relax_masks`.
            ignore: void pixels, such as VOC's 255: whatever stands there changes neither matching nor loss; means are
                over the other pixels of each picture.
        """
        self._check(masks, classes, labels, targets, semantic, ignore)
        masks, classes = at_least_float32(masks), at_least_float32(classes)
        kinds = classes.shape[-1] - 1
        truth = semantic_labels(labels, targets, kinds)
        relaxed = masks
        if self.relax_masks is not None and semantic is not None:
            relaxed = self.relax_masks(masks, classes, at_least_float32(semantic))
        weights = (self.class_weight, self.mask_weight, self.dice_weight)
        void: Sequence[Tensor | None] = [None] * len(masks) if ignore is None else list(ignore)
        pairs = [
            match_masks(*each, weights=weights, ignore=own)
            for *each, own in zip(relaxed, classes, labels, targets, void, strict=True)
        ]
        self.pairs = pairs
        terms = {"class": self.class_weight * self._class(classes, masks, labels, truth, pairs, ignore)}
        matched = torch.cat([each[rows] for each, (rows, _) in zip(relaxed, pairs, strict=True)])  # (M, H, W)
        target_masks = torch.cat([each[columns].to(matched) for each, (_, columns) in zip(targets, pairs, strict=True)])
        number = max(1, len(matched))
        pixels = F.binary_cross_entropy_with_logits(matched, target_masks, reduction="none")
        counted: Tensor | int = pixels[0].numel() if len(pixels) else 1
        if ignore is not None:
            own = torch.cat([each.expand(len(rows), -1, -1) for each, (rows, _) in zip(ignore, pairs, strict=True)])
            # In a void pixel there is no object, no query says so and nothing is lost.
            matched, target_masks = matched.masked_fill(own, NOWHERE), target_masks.masked_fill(own, 0.0)
            pixels, counted = pixels.masked_fill(own, 0.0), (~own).sum((1, 2)).clamp(min=1)
        terms["mask"] = self.mask_weight * (pixels.sum((1, 2)) / counted).sum() / number
        terms["dice"] = self.dice_weight * dice_loss(matched, target_masks).sum() / number
        if self.relax_masks is not None and semantic is not None:
            terms["semantic"] = self.semantic_weight * _semantic_loss(at_least_float32(semantic), truth, ignore)
        wrong = {"false positives": pixels * (1 - target_masks), "false negatives": pixels * target_masks}
        self.parts = {name: each.detach() for name, each in terms.items()}
        self.parts |= {name: each.detach().sum() for name, each in wrong.items()}
        return torch.stack(list(terms.values())).sum()

    def _class(
        self, classes: Tensor, masks: Tensor, labels: Sequence[Tensor], truth: Tensor,
        pairs: Sequence[tuple[Tensor, Tensor]], ignore: Tensor | None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Cross-entropy with targets that may be soft; the mean is weighted by how much of them is an object."""
        target_classes = torch.full(classes.shape[:2], classes.shape[-1] - 1, device=classes.device)
        for own, (rows, columns), each in zip(labels, pairs, target_classes, strict=True):
            each[rows] = own[columns]
        target = F.one_hot(target_classes, classes.shape[-1]).to(classes)
        if self.relax_classes is not None:
            target = self.relax_classes(target, masks, truth, ignore)
        empty = target[..., -1]
        weight = (1 - empty) + self.no_object * empty
        costs = -(target * classes.log_softmax(-1)).sum(-1)
        return (weight * costs).sum() / weight.sum().clamp(min=1e-6)

    def _check(
        self, masks: Tensor, classes: Tensor, labels: Sequence[Tensor], targets: Sequence[Tensor],
        semantic: Tensor | None, ignore: Tensor | None,
    ) -> None:  # fmt: skip
        if masks.ndim != 4 or classes.ndim != 3 or classes.shape[:2] != masks.shape[:2]:
            raise UsageError(
                f"masks {tuple(masks.shape)} and classes {tuple(classes.shape)} do not belong together: they are "
                "(B, N, H, W) and (B, N, K + 1)"
            )
        if not len(masks) == len(labels) == len(targets):
            raise UsageError(f"{len(masks)} pictures, {len(labels)} lists of labels and {len(targets)} of masks")
        for place, (own, drawn) in enumerate(zip(labels, targets, strict=True)):
            if drawn.shape != (len(own), *masks.shape[2:]) or len(own) > masks.shape[1]:
                raise UsageError(
                    f"picture {place}: {len(own)} labels and masks {tuple(drawn.shape)} for {masks.shape[1]} queries "
                    f"of {tuple(masks.shape[2:])} pixels"
                )
            if len(own) and not 0 <= int(own.min()) <= int(own.max()) < classes.shape[-1] - 1:
                raise UsageError(f"picture {place}: labels are 0 to {classes.shape[-1] - 2}, not {own.tolist()}")
        if ignore is not None and (ignore.dtype != torch.bool or ignore.shape != (len(masks), *masks.shape[2:])):
            raise UsageError(
                f"ignore must be a mask {(len(masks), *masks.shape[2:])}, not {ignore.dtype} {tuple(ignore.shape)}"
            )
        if self.relax_masks is not None and semantic is None:
            raise UsageError("relax_masks gates masks by `semantic`, the logits of an auxiliary head: give them")


def _semantic_loss(
    logits: Float[Tensor, "B K1 H W"], truth: Int[Tensor, "B H W"], ignore: Bool[Tensor, "B H W"] | None
) -> Float[Tensor, ""]:
    """Cross-entropy, the mean over the pixels that count; 0 where none does."""
    if ignore is None:
        return F.cross_entropy(logits, truth)
    costs = F.cross_entropy(logits, truth, reduction="none").masked_fill(ignore, 0.0)
    return costs.sum() / (~ignore).sum().clamp(min=1)


@torch.no_grad()
def match_masks(
    masks: Float[Tensor, "N H W"],
    classes: Float[Tensor, "N K1"],
    labels: Int[Tensor, "G"],
    targets: Bool[Tensor, "G H W"],
    *,
    weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
    ignore: Bool[Tensor, "H W"] | None = None,
) -> tuple[Int[Tensor, "G"], Int[Tensor, "G"]]:
    """Queries and the true masks that they are matched with, at the least total cost.

    Args:
        masks, classes: logits of one picture's queries.
        labels, targets: its objects.
        weights: of minus the class probability, the mean binary cross-entropy and dice.
        ignore: pixels that do not count.
    """
    target_pixels = targets.flatten(1).to(masks)  # (G, P)
    flat = masks.flatten(1)  # (N, P)
    if ignore is not None:
        flat, target_pixels = flat[:, ~ignore.flatten()], target_pixels[:, ~ignore.flatten()]
    chance = flat.sigmoid()
    # BCE(m, y) = softplus(m) - m y, whose mean over pixels is one product of matrices.
    pixels = (F.softplus(flat).sum(1, keepdim=True) - flat @ target_pixels.T) / max(1, flat.shape[1])
    dice = 1 - (2 * chance @ target_pixels.T + 1) / (chance.sum(1, keepdim=True) + target_pixels.sum(1) + 1)
    cost = -weights[0] * classes.softmax(-1)[:, labels] + weights[1] * pixels + weights[2] * dice
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    return torch.as_tensor(rows, device=masks.device), torch.as_tensor(columns, device=masks.device)
