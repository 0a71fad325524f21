"""How far a contrastive loss on unseen pairs lies above that on training pairs, by the size of the training batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses import info_nce

__all__ = ["BatchSizeCurve", "TrainedPairs", "batch_size_generalization", "normalized_contrastive_loss"]


class TrainedPairs(NamedTuple):
    """Raw features of a trained model: pairs it was trained on, pairs it has not seen, and its logit scale."""

    image: Float[Tensor, "N d"]
    text: Float[Tensor, "N d"]
    unseen_image: Float[Tensor, "M d"]
    unseen_text: Float[Tensor, "M d"]
    scale: float


def normalized_contrastive_loss(
    image: Float[Tensor, "N d"],
    text: Float[Tensor, "N d"],
    scale: float,
    *,
    batch: int = 512,
    draws: int = 8,
    seed: int = 0,
) -> float:
    """InfoNCE of batches of one size, less ln of the size: what it tends to as batches grow no longer depends on it.

    Args:
        image, text: raw features of pairs.
        scale: the logit scale.
        batch: pairs a batch, the same for all that is to be compared.
        draws: passes over the pairs in another order; what is left of a pass when no batch is full does not count.
        seed: of the orders.

    Raises:
        UsageError: fewer pairs than a batch, a batch below 2, or no draw.

    Paper: Pham et al., "Combined Scaling for Zero-shot Transfer Learning", arXiv 2111.10050.
    """
    if len(image) != len(text) or not 2 <= batch <= len(image) or draws < 1:
        raise UsageError(f"{len(image)} and {len(text)} pairs, batch {batch}, draws {draws}: pairs for a batch from 2")
    generator = torch.Generator().manual_seed(seed)
    losses = []
    with torch.no_grad():
        for _ in range(draws):
            order = torch.randperm(len(image), generator=generator)[: len(image) // batch * batch].to(image.device)
            losses += [float(info_nce(image[rows], text[rows], scale)) for rows in order.split(batch)]
    return float(np.mean(losses)) - math.log(batch)


@dataclass(frozen=True)
class BatchSizeCurve:
    """Gaps by batch size.

    Attributes:
        sizes: of the batches that were trained with.
        train, unseen: (seeds, sizes) normalised losses of training pairs and of unseen ones.
        slope: of log gap against log batch size: the mean over seeds; -1/2 where the gap is as 1 / sqrt(B). NaN where a
            gap is not above 0.
        interval: 95 %, by Student's t over seeds; of a single seed over the sizes.
    """

    sizes: tuple[int, ...]
    train: Float[np.ndarray, "S K"]
    unseen: Float[np.ndarray, "S K"]
    slope: float
    interval: tuple[float, float]

    @property
    def gap(self) -> Float[np.ndarray, "S K"]:
        """How far the loss of unseen pairs lies above that of training pairs."""
        return self.unseen - self.train


def batch_size_generalization(
    train: Callable[[int, int], TrainedPairs],
    sizes: Sequence[int],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    eval_batch: int = 512,
    draws: int = 8,
) -> BatchSizeCurve:
    """Train with several batch sizes and measure the generalisation gap of each by batches of a common size.

    BASIC bounds the gap of the normalised contrastive loss by terms in 1 / sqrt(B) and 1 / sqrt(n). Train on the same
    number of samples with every size, or the gap shows the length of the training; a step whose batch does not fit is
    `losses.contrastive_step` with `micro_batch`.

    Args:
        train: (batch size, seed) -> features of the trained model.
        sizes: two or more, rising.
        seeds: for each size.
        eval_batch: of the measurement.
        draws: of the measurement; see `normalized_contrastive_loss`.

    Raises:
        UsageError: sizes that do not rise from 2, no seed, or fewer pairs than an evaluation batch.

    Examples:
        >>> def train(size, seed):  # the more it is trained with, the less unseen pairs are off
        ...     draws = torch.Generator().manual_seed(seed)
        ...     x, away = torch.randn(2, 64, 16, generator=draws)
        ...     return TrainedPairs(x, x, x, x + away / size**0.5, 10.0)
        >>> curve = batch_size_generalization(train, [4, 16, 64], eval_batch=32)
        >>> curve.gap.shape, curve.slope < 0
        ((3, 3), True)

    Paper: Pham et al., "Combined Scaling for Zero-shot Transfer Learning", arXiv 2111.10050.
    """
    if len(sizes) < 2 or sizes[0] < 2 or any(a >= b for a, b in pairwise(sizes)) or not seeds:
        raise UsageError(f"sizes rise from 2 and there is a seed; got sizes {list(sizes)} and seeds {list(seeds)}")
    losses = np.zeros((2, len(seeds), len(sizes)))
    for row, seed in enumerate(seeds):
        for column, size in enumerate(sizes):
            trained = train(size, seed)
            for side, (image, text) in enumerate(
                ((trained.image, trained.text), (trained.unseen_image, trained.unseen_text))
            ):  # fmt: skip
                losses[side, row, column] = normalized_contrastive_loss(
                    image, text, trained.scale, batch=eval_batch, draws=draws, seed=seed
                )
    slope, interval = _slope(np.asarray(sizes, np.float64), losses[1] - losses[0])
    return BatchSizeCurve(tuple(sizes), losses[0], losses[1], slope, interval)


def _slope(sizes: Float[np.ndarray, "K"], gaps: Float[np.ndarray, "S K"]) -> tuple[float, tuple[float, float]]:
    """Mean over seeds of the slope of log gap against log size, with its interval."""
    from scipy.stats import linregress, t

    if not (gaps > 0).all():
        return math.nan, (math.nan, math.nan)
    fits = [linregress(np.log(sizes), np.log(row)) for row in gaps]
    slopes = np.array([fit.slope for fit in fits])
    if len(slopes) > 1:
        half = t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / math.sqrt(len(slopes))
    else:
        half = t.ppf(0.975, len(sizes) - 2) * fits[0].stderr if len(sizes) > 2 else math.inf
    return float(slopes.mean()), (float(slopes.mean() - half), float(slopes.mean() + half))
