"""Named features of one batch, each brought into the geometry once however many terms look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses.contrastive.share import Share
from binderclip.similarity.geometry import Similarity

__all__ = ["Embeddings", "Term"]


class Embeddings(Mapping[str, Tensor]):
    """Raw features by name, with what the terms share.

    Args:
        raw: features as they came, (n, d) each, or (n, V, d) where a row has several; rows belong together across
            names.
        similarity: the geometry.
        share: how the batch is spread over processes.
        scales: scale and bias by name.
        chunk: side of a block.
        ids: one integer key per row, or None.
    """

    def __init__(
        self,
        raw: Mapping[str, Float[Tensor, "n ..."]],
        similarity: Similarity,
        share: Share,
        scales: Mapping[str, tuple[Tensor, Tensor | None]],
        chunk: int,
        ids: Int[Tensor, "n"] | None = None,
    ) -> None:
        self.raw, self.similarity, self.share, self.scales, self.chunk = raw, similarity, share, scales, chunk
        self.ids = ids
        self._spaces: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._views:
            return self._views[name]
        if name not in self.raw:
            raise UsageError(f"the loss compares {name!r}, but was called with {', '.join(self.raw)}; pass {name}=...")
        return self.raw[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def views(self, name: str) -> list[str]:
        """Names of the views of an embedding: its own where it is (n, d), one for each of (n, V, d)."""
        value = self[name]
        if value.ndim < 3:
            return [name]
        names = [f"{name}/{number}" for number in range(value.shape[1])]
        self._views |= dict(zip(names, value.unbind(1), strict=True))
        return names

    def space(self, name: str) -> Float[Tensor, "n e"]:
        """The features of that name in the geometry, computed at the first call."""
        if name not in self._spaces:
            self._spaces[name] = self.similarity.embed(self[name], "text" if "text" in name else "image")
        return self._spaces[name]

    def sides(self, a: str, b: str) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Left and right vectors of two names, whose dot products the geometry makes similarities of."""
        return self.similarity.left(self.space(a)), self.similarity.right(self.space(b))

    def factor(self, scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """A logit scale times the geometry's own factor."""
        return scale * self.similarity.factor()

    def mean(self, per_row: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """Mean over the whole batch of a quantity of this process's rows."""
        return self.share.mean(per_row)


@runtime_checkable
class Term(Protocol):
    """Anything added to the contrastive loss that depends on the embeddings alone; a module with these members."""

    name: str
    weight: float

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """The unweighted value over the whole batch."""
        ...
