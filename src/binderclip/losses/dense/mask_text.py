"""A contrastive loss between masks and the texts of their classes, each class with several texts."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.similarity.geometry import at_least_float32

__all__ = ["MaskTextContrast"]


class MaskTextContrast(nn.Module):
    """Cross-entropy of a mask's cosines with all texts; right is whichever text of its class is nearest to it.

    A class has P texts (contexts), so that its masks need not all look alike: the nearest one is the target, chosen
    without a gradient.

    Args:
        negatives: `mixed`: all other texts are wrong, those of the mask's own class too, so that contexts divide the
            class among them; `separate`: the texts of other classes alone.
        temperature: the cosines are divided by it.

    Raises:
        UsageError: another rule, or a temperature that is not positive; at the call, shapes that do not belong
            together, or a label that is no class.

    Examples:
        >>> masks, texts = torch.eye(3)[:2], torch.eye(3)[:, None]
        >>> float(MaskTextContrast()(masks, texts, torch.tensor([0, 1]))) < 1e-4
        True

    Paper: MTA-CLIP: Language-Guided Semantic Segmentation with Mask-Text Alignment (ECCV 2024, arXiv 2407.21654).
    """

    def __init__(self, negatives: Literal["mixed", "separate"] = "mixed", temperature: float = 0.07) -> None:
        super().__init__()
        if negatives not in ("mixed", "separate") or temperature <= 0:
            raise UsageError(
                f"negatives are mixed or separate and the temperature positive, not {negatives!r} and {temperature}"
            )
        self.negatives, self.temperature = negatives, temperature

    def forward(
        self, masks: Float[Tensor, "M E"], texts: Float[Tensor, "*M K P E"], labels: Int[Tensor, "M"]
    ) -> Float[Tensor, ""]:
        """The mean over masks; 0 where there is none.

        Args:
            masks: vectors of masks that were matched with an object.
            texts: vectors of the P texts of each of K classes, the same for all masks or (M, K, P, E) for each its own.
            labels: 0..K-1, of the objects.
        """
        sets = texts.shape[:-3]
        if (
            masks.ndim != 2
            or texts.ndim not in (3, 4)
            or masks.shape[1] != texts.shape[-1]
            or labels.shape != masks.shape[:1]
            or sets not in ((), masks.shape[:1])
        ):
            raise UsageError(
                f"masks {tuple(masks.shape)}, texts {tuple(texts.shape)} and labels {tuple(labels.shape)} do not "
                "belong together: they are (M, E), (K, P, E) or (M, K, P, E), and (M,)"
            )
        if not len(masks):
            return 0 * (masks.sum() + texts.sum())
        classes, contexts = texts.shape[-3:-1]
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UsageError(f"labels are 0 to {classes - 1}, not {int(labels.min())} to {int(labels.max())}")
        units = F.normalize(at_least_float32(texts), dim=-1)
        unit = F.normalize(at_least_float32(masks), dim=-1)
        logits = (units @ unit[:, None, :, None])[..., 0] / self.temperature  # (M, K, P)
        rows = torch.arange(len(masks), device=masks.device)
        own = logits[rows, labels]  # (M, P)
        nearest = own.detach().argmax(1)  # p*
        if self.negatives == "separate":
            others = torch.ones_like(own, dtype=torch.bool)
            others[rows, nearest] = False
            hidden = torch.zeros_like(logits, dtype=torch.bool)
            hidden[rows, labels] = others
            logits = logits.masked_fill(hidden, -torch.inf)
        return F.cross_entropy(logits.flatten(1), labels * contexts + nearest)
