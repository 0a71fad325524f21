"""Whether patches of one place look alike in two views: what an image tower knows of geometry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError


@dataclass(frozen=True)
class PatchCorrespondence:
    """What `patch_correspondence` found.

    Attributes:
        recall: share of the kept matches that lie within the threshold of the true place; NaN without a match.
        matches: matches kept.
        error: mean distance to the true place, as a share of the side.
    """

    recall: float
    matches: int
    error: float


def patch_correspondence(
    first: Float[Tensor, "E h w"],
    second: Float[Tensor, "E h w"],
    places: Float[Tensor, "2 h w"],
    *,
    threshold: float = 0.1,
    keep: int = 1000,
) -> PatchCorrespondence:
    """Match patch features of two views by cosine and compare with where each patch really went.

    Nearest neighbours that are mutual; of these the `keep` with the smallest ratio of the distance to the nearest and
    to the second nearest patch.

    Papers: El Banani et al., Probing the 3D Awareness of Visual Foundation Models (CVPR 2024, arXiv 2404.08636), as in
    Toward a Holistic Evaluation of Robustness in CLIP Models (arXiv 2410.01534).

    Args:
        first, second: patch features of the views, on equal grids.
        places: for each patch of the first view the (y, x) of the same point in the second, as shares of the side; NaN
            where it is not seen.
        threshold: of a right match, as a share of the side; the paper's protocol: 0.1.
        keep: matches at most.

    Raises:
        UsageError: shapes that do not fit, fewer than two patches, or a threshold or number that is not above 0.
    """
    if first.ndim != 3 or first.shape != second.shape or places.shape != (2, *first.shape[1:]):
        shapes = [tuple(one.shape) for one in (first, second, places)]
        raise UsageError(f"features must be (E, h, w) of both views and places (2, h, w); got {shapes}")
    height, width = first.shape[1:]
    if height * width < 2 or not threshold > 0 or keep < 1:
        raise UsageError(f"{height * width} patches, at least 2; threshold {threshold} and keep {keep} must be above 0")
    a, b = (F.normalize(one.detach().double().flatten(1).T, dim=1) for one in (first, second))
    apart = (2 - 2 * a @ b.T).clamp_min(0).sqrt()  # (P, P)
    nearest = apart.argmin(dim=1)
    mutual = apart.argmin(dim=0)[nearest] == torch.arange(len(a))
    two = apart.topk(2, dim=1, largest=False).values
    true = places.detach().double().flatten(1).T  # (P, 2)
    rows = torch.nonzero(mutual & true.isfinite().all(dim=1)).flatten()
    rows = rows[(two[rows, 0] / two[rows, 1].clamp_min(1e-12)).argsort(stable=True)][:keep]
    if not len(rows):
        return PatchCorrespondence(float("nan"), 0, float("nan"))
    matches = nearest[rows]
    centre = torch.stack([(matches // width + 0.5) / height, (matches % width + 0.5) / width], dim=1)
    error = (centre - true[rows]).norm(dim=1)
    return PatchCorrespondence(float((error <= threshold).double().mean()), len(rows), float(error.mean()))
