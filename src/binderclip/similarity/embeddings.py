"""Embeddings of one modality and role, as the tower gives them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.moments import Moments
from binderclip.errors import UsageError
from binderclip.similarity.arrays import Rows, as_features

__all__ = ["EmbeddingSet"]


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """Raw embeddings, not normalised: n vectors of one modality.

    Attributes:
        features: as `encode_image` and `encode_text` give them; kept in float64.
        modality: such as "image" or "text".
        role: such as "document" or "query": texts that ask lie elsewhere than texts that describe.

    Raises:
        UsageError: no matrix, no rows, or values that are not finite.
    """

    features: Float[Tensor, "n d"]
    modality: str
    role: str = "document"

    def __post_init__(self) -> None:
        if not isinstance(self.features, Tensor):
            kind = type(self.features).__name__
            raise UsageError(
                f"{self.modality} embeddings must be a tensor (n, d), such as torch.as_tensor(X), not {kind}"
            )
        if self.features.ndim != 2 or not self.features.numel():
            raise UsageError(f"embeddings must be (n, d) with rows, not {tuple(self.features.shape)}")
        if not bool(self.features.isfinite().all()):
            row = int((~self.features.isfinite()).any(1).nonzero()[0, 0])
            raise UsageError(f"{self.modality} embedding {row} is not finite")
        object.__setattr__(self, "features", self.features.detach().cpu().double())

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def unit(self) -> Float[Tensor, "n d"]:
        """Of length 1."""
        return F.normalize(self.features, dim=1)

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the raw vectors."""
        return Moments(self.features.shape[1]).update(self.features)

    @cached_property
    def unit_mean(self) -> Float[Tensor, "d"]:
        """The mean of the unit vectors, which is shorter than 1."""
        return self.unit.mean(0)


def two_sets(a: EmbeddingSet | Rows, b: EmbeddingSet | Rows) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Two modalities of one width, where rows of features are enough for one.

    Raises:
        UsageError: as `EmbeddingSet` and `same_width`.
    """
    first, second = (
        each if isinstance(each, EmbeddingSet) else EmbeddingSet(as_features(name, each), name)
        for name, each in (("first", a), ("second", b))
    )
    same_width(first, second)
    return first, second


def same_width(*sets: EmbeddingSet) -> int:
    """Their common d.

    Raises:
        UsageError: they differ.
    """
    widths = {part.features.shape[1] for part in sets}
    if len(widths) != 1:
        raise UsageError(f"embeddings of one space have one width, not {sorted(widths)}")
    return widths.pop()
