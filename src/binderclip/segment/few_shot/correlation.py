"""Hypercorrelations: cosines of every position of a query with every position of a support picture."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.few_shot.levels import Levels, SupportFeatures

__all__ = ["SUPPORTS", "Support", "hypercorrelation", "hypercorrelations"]

Support: TypeAlias = Literal["msi", "masked", "features", "full"]
SUPPORTS: tuple[str, ...] = get_args(Support)
"""What of the support picture is correlated; see `hypercorrelations`."""


def hypercorrelation(
    query: Float[Tensor, "*B C hq wq"], support: Float[Tensor, "*B C hs ws"], *, eps: float = 1e-5
) -> Float[Tensor, "*B hq wq hs ws"]:
    """Cosine of each position of the query with each of the support, negative ones cut off.

    Args:
        query, support: feature maps of one layer.
        eps: added to the lengths.

    Raises:
        UsageError: maps of different batches or channels.

    Paper: MSI: Maximize Support-Set Information for Few-Shot Segmentation (ICCV 2023, arXiv 2212.04673).
    """
    if query.shape[:-2] != support.shape[:-2]:
        raise UsageError(
            f"query {tuple(query.shape)} and support {tuple(support.shape)} differ in what is before (h, w)"
        )
    q, s = (maps / (maps.norm(dim=-3, keepdim=True) + eps) for maps in (query, support))
    cosine = q.flatten(-2).mT @ s.flatten(-2)  # (*B, hq wq, hs ws)
    return cosine.clamp(min=0).unflatten(-1, support.shape[-2:]).unflatten(-3, query.shape[-2:])


def hypercorrelations(
    query: Levels, support: SupportFeatures, *, of: Support = "msi"
) -> list[Float[Tensor, "B _ _ _ _ _"]]:
    """Hypercorrelations (B, n, hq, wq, hs, ws) of the n maps of each level, deepest level first.

    Args:
        query: features of B queries.
        support: features of B support pictures.
        of: what of the support picture is correlated.

            - `msi`: the whole picture's features, then those of the picture whose background was blacked out: twice
              the channels;
            - `masked`: the latter alone (input masking);
            - `full`: the former alone, which do not know the target;
            - `features`: the whole picture's features times the mask, resized to their grid (feature masking, as HSNet
              has it).

    Raises:
        UsageError: an unknown `of`.

    Papers: MSI: Maximize Support-Set Information for Few-Shot Segmentation (arXiv 2212.04673); the levels and feature
    masking are those of Hypercorrelation Squeeze for Few-Shot Segmentation (arXiv 2104.01538).
    """
    sources = {
        "msi": lambda: (support.whole, support.masked),
        "masked": lambda: (support.masked,),
        "full": lambda: (support.whole,),
        "features": lambda: (_feature_masked(support),),
    }
    if of not in sources:
        raise UsageError(f"support {of!r} is unknown; there are {', '.join(SUPPORTS)}")
    chosen = sources[of]()
    return [
        torch.stack([hypercorrelation(q, s) for each in chosen for q, s in zip(maps, each[level], strict=True)], 1)
        for level, maps in enumerate(query)
    ]


def _feature_masked(support: SupportFeatures) -> Levels:
    """Features of the whole picture times the mask, which is softened at the grid of each."""
    return [
        [
            maps * F.interpolate(support.mask[:, None], maps.shape[-2:], mode="bilinear", align_corners=True)
            for maps in level
        ]
        for level in support.whole
    ]
