"""Patches of an output told from one another by the patches of the input at the same places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["PatchNCELoss"]

DIAGONAL = -10.0
"""What the released code puts in the place of a patch's product with its own key among the negatives."""


@dataclass(frozen=True)
class PatchNCELoss:
    """Cross-entropy of finding each query patch's key among the keys of other places of the same image.

    With s_ij = q_i . k_j / tau the loss of patch i is log(sum_j exp(s_ij) + exp(-10 / tau)) - s_ii: the sum holds the
    positive and all negatives. The last term is the released code's, which fills the diagonal of the negatives by -10;
    at tau = 0.07 it is 1e-62. No gradient reaches the keys. All products are one batched matrix product.

    Args:
        temperature: tau, in [1e-4, 1e4].
        batch_negatives: whether patches of the batch's other images are negatives too, for crops of one image
            (SinCUT).

    Raises:
        UsageError: a temperature out of range.

    Paper: Contrastive Learning for Unpaired Image-to-Image Translation (arXiv 2007.15651).

    Examples:
        >>> patches = torch.eye(4)[None]  # (B = 1, S = 4, C = 4)
        >>> PatchNCELoss(temperature=1.0)(patches, patches).shape
        torch.Size([1, 4])
    """

    temperature: float = 0.07
    batch_negatives: bool = False

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, least=1e-4, most=1e4)

    def __call__(self, queries: Float[Tensor, "B S C"], keys: Float[Tensor, "B S C"]) -> Float[Tensor, "B S"]:
        """The loss of every patch.

        Args:
            queries: unit vectors of the output's patches.
            keys: of the input's, at the same places.

        Raises:
            UsageError: shapes that differ.
        """
        if queries.shape != keys.shape or queries.ndim != 3:
            raise UsageError(f"queries and keys must be (B, S, C) alike: {tuple(queries.shape)}, {tuple(keys.shape)}")
        q, k = queries, keys.detach()
        if self.batch_negatives:
            q, k = q.flatten(0, 1)[None], k.flatten(0, 1)[None]
        # (B, S, S), or (1, B S, B S); divided within the product, of which a pass over the logits would be a fifth
        logits = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=1 / self.temperature)
        filled = logits.new_tensor(DIAGONAL / self.temperature)
        total = torch.logaddexp(logits.logsumexp(2), filled)
        return (total - logits.diagonal(dim1=1, dim2=2)).reshape(queries.shape[:2])
