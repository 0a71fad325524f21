"""A new word's phrase held near the phrase of its class (ClassDiffusion)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError

__all__ = ["SemanticPreservationLoss"]


class SemanticPreservationLoss(nn.Module):
    """One minus the cosine of a phrase with a new word ("a photo of a <new> dog") and its class's ("a photo of a dog").

    Personalising a text-to-image model on a few pictures moves the phrase away from its class, and it no longer
    composes with other words; this keeps it there. Both phrases are states of a text tower where it reads a sentence
    off, after its final norm and before the projection into the joint space. In [0, 2], 0 for one direction.

    Args:
        eps: least length of a phrase, so that zeros divide by it.

    Raises:
        UsageError: no phrases, or shapes that differ.

    Paper: ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance (arXiv 2405.17532), eq. 7.

    Examples:
        >>> import torch
        >>> loss = SemanticPreservationLoss()
        >>> float(loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])))
        1.0
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, phrases: Float[Tensor, "N D"], classes: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        """The mean over the new words.

        Args:
            phrases: with a graph to the new words' embeddings.
            classes: of the same phrases without the new words.
        """
        if phrases.shape != classes.shape or not len(phrases):
            raise UsageError(f"phrases {tuple(phrases.shape)} and classes {tuple(classes.shape)} must be as many")
        return (1 - functional.cosine_similarity(phrases, classes, dim=1, eps=self.eps)).mean()
