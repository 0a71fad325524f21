"""SLIP's contrastive loss: pairs that are alike by their own pictures and texts are no full negatives."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.similarity.geometry import at_least_float32

__all__ = ["SoftTargetContrastive"]


class SoftTargetContrastive(nn.Module):
    """Cross-entropy of image-text similarities against a softmax of the mean image-image and text-text similarity.

    A batch of a narrow domain holds pictures of the same thing; their similarity to one another is the target of each
    row, where InfoNCE has a one on the diagonal. Embeddings are taken as they are, without a division by their length.

    Args:
        temperature: tau; logits are divided by it and targets multiplied, as in the paper's code.
        detach_targets: whether the targets are constants; the paper's code lets gradients flow through them.

    Raises:
        UsageError: a temperature that is not positive; at the call, embeddings of different shapes.

    Paper: Zero Shot Context-Based Object Segmentation using SLIP (SAM+CLIP) (arXiv 2405.07284).
    """

    def __init__(self, temperature: float = 1.0, *, detach_targets: bool = False) -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature, self.detach_targets = temperature, detach_targets

    def forward(self, images: Float[Tensor, "N E"], texts: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
        """Mean over the batch of both directions."""
        if images.shape != texts.shape:
            raise UsageError(f"images are {tuple(images.shape)}, texts {tuple(texts.shape)}: a row is a pair")
        image, text = at_least_float32(images), at_least_float32(texts)
        logits = text @ image.T / self.temperature  # (N texts, N images)
        alike = (image @ image.T + text @ text.T) / 2 * self.temperature
        targets = alike.softmax(1)
        if self.detach_targets:
            targets = targets.detach()
        by_text = -(targets * F.log_softmax(logits, 1)).sum(1)
        by_image = -(targets.T * F.log_softmax(logits.T, 1)).sum(1)
        return ((by_text + by_image) / 2).mean()
