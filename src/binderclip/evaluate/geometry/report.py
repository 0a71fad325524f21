"""One report of two modalities: gap, shells, separability, conformity, and what moving the means would do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.evaluate.geometry.measures import (
    alignment,
    conformity,
    conformity_estimate,
    effective_rank,
    linear_separability,
    modality_gap,
    threshold_separability,
    uniformity,
)
from binderclip.evaluate.retrieval_metrics import retrieval
from binderclip.similarity.embeddings import EmbeddingSet, same_width
from binderclip.similarity.transforms import GapRemoval, MeanShift

__all__ = ["EmbeddingGeometry", "GeometryReport", "ModalityGeometry", "ShiftLandscape", "conformity_divergence"]

BINS, FLOOR = 100, 1e-6


@dataclass(frozen=True)
class ModalityGeometry:
    """One modality.

    Attributes:
        offset: length of the mean over the mean length: 0 for a cloud about 0.
        ellipsoid: largest variance of a feature over the median one: 1 for a ball.
        shell, shell_spread: mean and deviation of the distance to the mean in deviations of each feature, over sqrt(d).
        within: share of the vectors within 10 % of the mean distance.
        rank: effective.
        conformity: mean. estimate: correlation of the exact conformity with its estimate from the mean.
        uniformity: of the unit vectors.
    """

    offset: float
    ellipsoid: float
    shell: float
    shell_spread: float
    within: float
    rank: float
    conformity: float
    estimate: float
    uniformity: float


@dataclass(frozen=True)
class GeometryReport:
    """Two modalities of one space.

    Attributes:
        image, text: each for itself.
        gap: between the means of unit vectors.
        alignment: of pairs, nan where the sets are no pairs.
        separability: accuracy of a linear model that tells the modalities apart.
        threshold, dimension: accuracy of the best single feature, and which it is.
        divergence: of the conformities, image from text, in nats.
    """

    image: ModalityGeometry
    text: ModalityGeometry
    gap: float
    alignment: float
    separability: float
    threshold: float
    dimension: int
    divergence: float

    def table(self) -> list[dict[str, Any]]:
        """Rows of `measure`, `image`, `text`; what is of both stands in `image` and `text` alike."""
        own = [
            {"measure": name, "image": value, "text": getattr(self.text, name)}
            for name, value in asdict(self.image).items()
        ]
        shared = {name: getattr(self, name) for name in ("gap", "alignment", "separability", "threshold", "divergence")}
        return own + [{"measure": name, "image": value, "text": value} for name, value in shared.items()]


@dataclass(frozen=True)
class ShiftLandscape:
    """What the contrastive loss is where each modality is moved by a share of its mean.

    Attributes:
        alphas: shares; 0 is where training left it, 1 is centred.
        loss, alignment, uniformity: (images, texts). alignment + uniformity is the loss.
        accuracy: share of pairs that find each other first.
        divergence: of the conformities, image from text, in nats.
    """

    alphas: tuple[float, ...]
    loss: Float[Tensor, "A A"]
    alignment: Float[Tensor, "A A"]
    uniformity: Float[Tensor, "A A"]
    accuracy: Float[Tensor, "A A"]
    divergence: Float[Tensor, "A A"]

    @property
    def best(self) -> tuple[float, float]:
        """(image, text) share of the least loss."""
        place = int(self.loss.argmin())
        return self.alphas[place // len(self.alphas)], self.alphas[place % len(self.alphas)]


@dataclass(frozen=True)
class EmbeddingGeometry:
    """The geometry of raw image and text embeddings.

    Args:
        image, text: of one model; pairs, row by row, where `paired`.
        paired: whether row i of both belongs together.

    Raises:
        UsageError: widths that differ, or pairs of different number.

    Paper: The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517).
    """

    image: EmbeddingSet
    text: EmbeddingSet
    paired: bool = True

    def __post_init__(self) -> None:
        same_width(self.image, self.text)
        if self.paired and len(self.image) != len(self.text):
            raise UsageError(f"{len(self.image)} pictures and {len(self.text)} texts are no pairs: say paired=False")

    def report(self) -> GeometryReport:
        """All numbers."""
        threshold, dimension = threshold_separability(self.image, self.text)
        return GeometryReport(
            _of_modality(self.image),
            _of_modality(self.text),
            modality_gap(self.image, self.text),
            alignment(self.image.features, self.text.features) if self.paired else float("nan"),
            linear_separability(self.image, self.text),
            threshold,
            dimension,
            conformity_divergence(conformity(self.image.features), conformity(self.text.features)),
        )

    def shift_landscape(
        self, alphas: Sequence[float] = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), *, scale: float = 100.0,
        batch: int = 512,
    ) -> ShiftLandscape:  # fmt: skip
        """The symmetric contrastive loss over moved modalities, and how far their conformities are apart.

        The loss is the mean over batches of pairs.

        Args:
            alphas: shares of the modality's mean that are taken off.
            scale: on the cosines.
            batch: pairs that are compared with each other; the last one, if smaller, is left out.

        Raises:
            UsageError: the sets are no pairs, or fewer than a batch.
        """
        count = len(self.image) // batch * batch
        if not self.paired or not count:
            raise UsageError(f"the loss needs pairs, {batch} of them at least, not {len(self.image)}")
        moved = [
            [F.normalize(part.features - alpha * part.moments.mean, dim=1)[:count] for alpha in alphas]
            for part in (self.image, self.text)
        ]
        conformities = [[conformity(x) for x in part] for part in moved]
        names, size = ("alignment", "uniformity", "accuracy", "divergence"), (len(alphas), len(alphas))
        parts = {name: torch.zeros(size, dtype=torch.float64) for name in names}
        for i, images in enumerate(moved[0]):
            for j, texts in enumerate(moved[1]):
                logits = scale * images.view(-1, batch, images.shape[1]) @ texts.view(-1, batch, texts.shape[1]).mT
                diagonal = logits.diagonal(dim1=1, dim2=2)
                parts["alignment"][i, j] = -diagonal.mean()
                contrastive = logits.logsumexp(2).mean() + logits.logsumexp(1).mean()
                parts["uniformity"][i, j] = contrastive / 2
                right = (logits.argmax(2) == torch.arange(batch)).double().mean()
                right = right + (logits.argmax(1) == torch.arange(batch)).double().mean()
                parts["accuracy"][i, j] = right / 2
                parts["divergence"][i, j] = conformity_divergence(conformities[0][i], conformities[1][j])
        loss = parts["alignment"] + parts["uniformity"]
        return ShiftLandscape(tuple(map(float, alphas)), loss, **parts)

    def halves(self, seed: int = 0) -> tuple[Int[Tensor, "n"], Int[Tensor, "m"]]:
        """Rows of the pairs in two halves at random: what is fitted on one is measured on the other.

        Raises:
            UsageError: the sets are no pairs, or fewer than four.
        """
        if not self.paired or len(self.image) < 4:
            raise UsageError(f"halves need pairs, four of them at least, not {len(self.image)}")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.image)))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        return first.sort().values, second.sort().values

    def retrieval_behind(
        self,
        transform: GapRemoval | MeanShift | None = None,
        *,
        captions: Sequence[Hashable] | None = None,
        seed: int = 0,
    ) -> dict[str, float]:
        """Recall of the second half of the pairs, by cosine behind a map that is fitted on the first half.

        Args:
            transform: is fitted here; None for plain cosines of the same half. Whitening would turn each modality to
                axes of its own, between which there is no cosine.
            captions: of all pairs; equal ones count as one.
            seed: of the halves.

        Returns:
            As `retrieval`.

        Raises:
            UsageError: the sets are no pairs, or too few for the map.
        """
        first, second = self.halves(seed)
        sides = [part.features[second] for part in (self.image, self.text)]
        if transform is not None:
            transform.fit(*(EmbeddingSet(p.features[first], p.modality, p.role) for p in (self.image, self.text)))
            parts = zip(sides, (self.image, self.text), strict=True)
            sides = [transform.transform(rows, part.modality, part.role) for rows, part in parts]
        known = None if captions is None else [captions[row] for row in second.tolist()]
        return retrieval(sides[0], sides[1], captions=known)


def _of_modality(part: EmbeddingSet) -> ModalityGeometry:
    x, mean = part.features, part.moments.mean
    variance = part.moments.variance()
    used = variance > 1e-12 * variance.max()
    away = ((x - mean)[:, used] / variance[used].sqrt()).norm(dim=1) / int(used.sum()) ** 0.5
    exact = conformity(x)
    pair = torch.stack([exact, conformity_estimate(x)])
    return ModalityGeometry(
        float(mean.norm() / x.norm(dim=1).mean()),
        float(variance.max() / variance[used].median()),
        float(away.mean()),
        float(away.std()),
        float(((away / away.mean() - 1).abs() < 0.1).double().mean()),
        effective_rank(x),
        float(exact.mean()),
        float(torch.corrcoef(pair)[0, 1]),
        uniformity(x),
    )


def conformity_divergence(a: Float[Tensor, "n"], b: Float[Tensor, "m"], bins: int = BINS) -> float:
    """Kullback-Leibler divergence of two sets of conformities, by histograms of the same bins, in nats."""
    low, high = (float(f(torch.cat([a, b]))) for f in (torch.min, torch.max))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    p, q = (np.histogram(part.numpy(), edges)[0] / len(part) + FLOOR for part in (a, b))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())
