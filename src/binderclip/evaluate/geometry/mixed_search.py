"""Search in a corpus of texts, pictures and documents of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.similarity.embeddings import EmbeddingSet, same_width
from binderclip.similarity.transforms import GapRemoval, mixed_units

__all__ = ["MixedFigures", "MixedModalityRetrieval"]

MODES = ("text", "image", "both")


@dataclass(frozen=True)
class MixedFigures:
    """How good a ranking of a mixed corpus is.

    Attributes:
        ndcg: at k, the mean over queries. recall: share of the relevant documents among the first k.
        shares: of the documents among the first k, by what they are made of; `text`, `image`, `both`.
        by_mode: NDCG of the queries whose relevant documents are of one kind.
        queries: NDCG of each.
    """

    ndcg: float
    recall: float
    shares: dict[str, float]
    by_mode: dict[str, float]
    queries: Float[Tensor, "Q"]


class MixedModalityRetrieval:
    """Text queries against N documents, each shown as its text, its picture, or both.

    Args:
        queries: raw text embeddings, Q of them.
        texts, images: raw embeddings of the N documents' two sides.
        relevant: (Q, N) which documents answer a query.
        modes: how each document is shown: names of `text`, `image`, `both`, or a seed that gives each a third.
        share: of the text in a document of both.
        k: how many answers are looked at.
        ideal: the best possible gain is that of all relevant documents, or, as in the released code, of the
            "retrieved" ones alone.

    Raises:
        UsageError: numbers that do not belong together, an unknown mode, or a query without a relevant document.

    Paper: Closing the Modality Gap for Mixed Modality Search (arXiv 2507.19054).
    """

    def __init__(
        self,
        queries: Float[Tensor, "Q d"],
        texts: Float[Tensor, "N d"],
        images: Float[Tensor, "N d"],
        relevant: Bool[Tensor, "Q N"],
        *,
        modes: list[str] | int = 0,
        share: float = 0.5,
        k: int = 10,
        ideal: Literal["all", "retrieved"] = "all",
    ) -> None:
        self.queries = EmbeddingSet(queries, "text", "query")
        self.texts, self.images = EmbeddingSet(texts, "text"), EmbeddingSet(images, "image")
        same_width(self.queries, self.texts, self.images)
        count = len(self.texts)
        if len(self.images) != count or tuple(relevant.shape) != (len(self.queries), count):
            raise UsageError(
                f"{len(self.queries)} queries and {count} documents of two sides need relevant of that shape, not "
                f"{len(self.images)} pictures and {tuple(relevant.shape)}"
            )
        if not bool(relevant.any(1).all()):
            raise UsageError(f"query {int((~relevant.any(1)).nonzero()[0, 0])} has no relevant document")
        if k < 1 or not 0 <= share <= 1 or ideal not in ("all", "retrieved"):
            raise UsageError(
                f"k must be at least 1, share in [0, 1], ideal all or retrieved; got {k}, {share}, {ideal!r}"
            )
        self.relevant, self.share, self.k, self.ideal = relevant.bool().cpu(), share, min(k, count), ideal
        self.modes = modes_of(count, modes) if isinstance(modes, int) else list(modes)
        if len(self.modes) != count or set(self.modes) - set(MODES):
            raise UsageError(f"modes must be one of {', '.join(MODES)} for each of {count} documents")

    def documents(self, removal: GapRemoval | None = None) -> Float[Tensor, "N d"]:
        """The vector of each document, as it is shown."""
        weight = {"text": 1.0, "image": 0.0, "both": self.share}
        text_weight = torch.tensor([weight[mode] for mode in self.modes], dtype=torch.float64)
        if removal is None:
            return mixed_units(self.texts.unit, self.images.unit, text_weight)
        return removal.mixed(self.texts.features, self.images.features, text_weight)

    def evaluate(self, removal: GapRemoval | None = None) -> MixedFigures:
        """Rank the corpus for every query by cosine, plainly or with the gap removed.

        Args:
            removal: fitted on text queries, text documents and pictures of another set; None for plain cosines.
        """
        asked = self.queries.unit if removal is None else removal.transform(self.queries.features, "text", "query")
        first = (asked @ self.documents(removal).T).topk(self.k, dim=1).indices  # (Q, k)
        hits = self.relevant.gather(1, first)
        discount = 1 / torch.log2(torch.arange(self.k, dtype=torch.float64) + 2)
        gains = hits.double() @ discount
        possible = (self.relevant if self.ideal == "all" else hits).sum(1).clamp(max=self.k)
        best = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)])[possible]
        ndcg = torch.where(best > 0, gains / best.clamp(min=1e-12), 0.0)
        kinds = np.array(self.modes)
        answered = {mode: self.relevant[:, torch.from_numpy(kinds == mode)].any(1) for mode in MODES}
        alone = {mode: rows & ~torch.stack([answered[m] for m in MODES if m != mode]).any(0)
                 for mode, rows in answered.items()}  # fmt: skip
        shown = kinds[first.numpy()]
        return MixedFigures(
            float(ndcg.mean()),
            float((hits.sum(1) / self.relevant.sum(1)).mean()),
            {mode: float((shown == mode).mean()) for mode in MODES},
            {mode: float(ndcg[rows].mean()) if bool(rows.any()) else math.nan for mode, rows in alone.items()},
            ndcg,
        )


def modes_of(count: int, seed: int) -> list[str]:
    """A third of the documents as texts, a third as pictures, a third as both, at random."""
    order = np.random.default_rng([seed, 96]).permutation(count)
    modes = np.empty(count, dtype=object)
    for number, mode in enumerate(MODES):
        modes[order[number::3]] = mode
    return modes.tolist()
