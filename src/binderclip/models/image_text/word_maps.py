"""Where a picture shows what a word means: a classifier's logits at each place, weighed by how near its classes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["SIDES", "concept_evidence", "place_logits", "shown_concepts", "word_closeness", "word_maps"]

SIDES = (384, 512, 768)
"""Long sides in pixels at which the classifier sees a picture: of the three each finds things of its own size."""


def place_logits(concepts: Any, image: Float[Tensor, "1 3 H W"], side: int) -> Float[Tensor, "K h w"]:
    """Logits of the concepts at each place, the mean of 3 x 3: single ones are noisy."""
    logits = concepts.logit_map(image, side).float()
    return F.avg_pool2d(F.pad(logits, [1] * 4, mode="replicate"), 3, stride=1)[0]


def word_closeness(concepts: Any, texts: Float[Tensor, "Q E"]) -> Float[Tensor, "Q K"]:
    """Cosines of words and concepts, less the largest of each word."""
    cosines = F.normalize(texts.float(), dim=-1) @ concepts.vectors.float().T
    return cosines - cosines.amax(1, keepdim=True)


def shown_concepts(logits: Float[Tensor, "K h w"]) -> Float[Tensor, "K"]:
    """Log of the largest probability of each concept at any place."""
    return (logits.flatten(1).softmax(0).amax(1) + 1e-4).log()


def concept_evidence(
    logits: Float[Tensor, "K h w"], weights: Float[Tensor, "Q K"], contrast: float
) -> Float[Tensor, "Q h w"]:
    """log sum_c exp(l(c) + weight(q, c)) - contrast log sum_c exp(l(c)) at each place.

    Args:
        logits: of K concepts.
        weights: log weights of the concepts for each of Q words.
        contrast: of the second term.
    """
    flat = logits.flatten(1)  # (K, n)
    highest = flat.amax(0, keepdim=True)
    total = torch.logsumexp(flat, 0)
    top = weights.amax(1, keepdim=True)
    # A product of matrices instead of Q K n exponentials; both factors are at most 1.
    mixed = ((weights - top).exp() @ (flat - highest).exp()).clamp(min=1e-30).log() + top + highest
    return (mixed - contrast * total).unflatten(1, (logits.shape[-2], logits.shape[-1]))


def word_maps(
    maps: Sequence[Float[Tensor, "K _ _"]], weights: Float[Tensor, "Q K"], contrast: float
) -> Float[Tensor, "Q h w"]:
    """The mean of the standardised evidence at several sizes, on the finest grid; mean 0 over the picture.

    Args:
        maps: `place_logits` at each size.
        weights, contrast: of `concept_evidence`.
    """
    grid = max((each.shape[-2:] for each in maps), key=lambda size: size[0] * size[1])
    total = torch.zeros(len(weights), *grid, device=weights.device)
    for logits in maps:
        evidence = concept_evidence(logits, weights, contrast)
        spread = evidence.std((-2, -1), keepdim=True, correction=0).clamp(min=1e-6)
        evidence = (evidence - evidence.mean((-2, -1), keepdim=True)) / spread
        total += F.interpolate(evidence[None], size=grid, mode="bilinear", align_corners=False)[0] / len(maps)
    return total
