"""A loss of one mask a class, each judged by itself: focal for every pixel, dice for the classes that are there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.neighbor_prior import counted_pixels
from binderclip.similarity.geometry import at_least_float32

__all__ = ["FocalDice"]


class FocalDice(nn.Module):
    """Sigmoid focal loss of the masks of all classes, and dice of those that occur; `(logits, labels)` as `DenseLoss`.

    Focal is the mean over pixels, summed over all masks and divided by the number of masks that occur in the batch;
    dice, 1 - (2 I + 1) / (A + B + 1), is their mean. `parts` holds the detached terms of the last call, which sum to
    the loss. Without an occurring class nothing but focal is left, divided by 1.

    Args:
        focal, dice: weights.
        alpha: weight of pixels of the class in focal, against 1 - alpha of the others.
        gamma: exponent of focal.
        ignore_index: label that is left out (255 is too).
        released: as the released code: ignored pixels are negatives of every class.

    Raises:
        UsageError: a negative weight or gamma, alpha outside [0, 1]; at the call, shapes that do not belong together or
            a label that is no class.

    Examples:
        >>> loss = FocalDice()
        >>> logits, labels = torch.zeros(2, 3, 8, 8, requires_grad=True), torch.zeros(2, 8, 8, dtype=torch.long)
        >>> loss(logits, labels).backward()

    Paper: Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation (ICML 2024,
    arXiv 2406.00670).
    """

    def __init__(
        self,
        focal: float = 100.0,
        dice: float = 1.0,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        ignore_index: int = -1,
        released: bool = False,
    ) -> None:
        super().__init__()
        if min(focal, dice, gamma) < 0 or not 0 <= alpha <= 1:
            raise UsageError(
                f"weights and gamma must not be negative and alpha must be in [0, 1], got focal={focal}, dice={dice}, "
                f"gamma={gamma}, alpha={alpha}"
            )
        self.focal, self.dice, self.alpha, self.gamma = focal, dice, alpha, gamma
        self.ignore_index, self.released = ignore_index, released
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Float[Tensor, "B C H W"], labels: Int[Tensor, "B H W"]) -> Float[Tensor, ""]:
        """The loss.

        Args:
            logits: of each class's mask, before the sigmoid.
            labels: classes 0..C-1, or ignored.
        """
        if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise UsageError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not belong together: they are "
                "(B, C, H, W) and (B, H, W)"
            )
        logits = at_least_float32(logits)
        known = counted_pixels(labels, logits.shape[1], self.ignore_index)
        truth = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]) & known[:, None]
        counted = torch.ones_like(known) if self.released else known
        weight = counted[:, None].to(logits)
        target = truth.to(logits)
        chance = logits.sigmoid()
        missed = torch.where(truth, 1 - chance, chance)  # 1 - p of the right answer
        class_weight = torch.where(truth, self.alpha, 1 - self.alpha)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        pixels = weight.sum((2, 3)).clamp(min=1)
        focal = (weight * class_weight * missed**self.gamma * bce).sum((2, 3)) / pixels  # (B, C)
        occurs = truth.any(3).any(2)
        number = occurs.sum().clamp(min=1)
        intersection = (weight * chance * target).sum((2, 3))
        dice = 1 - (2 * intersection + 1) / ((weight * chance).sum((2, 3)) + target.sum((2, 3)) + 1)
        terms = {
            "focal": self.focal * focal.sum() / number,
            "dice": self.dice * (dice * occurs).sum() / number,
        }
        self.parts = {name: value.detach() for name, value in terms.items()}
        return terms["focal"] + terms["dice"]
