"""From a saliency map to an object mask: colour models of its extremes, and a minimum cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.cut.grid import contrast_edges, minimum_cut
from binderclip.settings import check_choice


@dataclass(frozen=True)
class GraphCut:
    """An object found from saliency.

    Attributes:
        mask: (H, W) bool, the largest connected part of the cut's foreground.
        box: (x0, y0, x1, y1) of it in pixels, half-open; None where the mask is empty.
        foreground: (H, W) bool, the whole foreground side of the cut.
    """

    mask: Tensor
    box: tuple[int, int, int, int] | None
    foreground: Tensor


def saliency_graph_cut(
    image: Float[Tensor, "3 H W"],
    saliency: Float[Tensor, "H W"],
    *,
    foreground: float = 0.95,
    background: float = 0.30,
    components: int = 5,
    gamma: float = 50.0,
    side: int = 64,
    neighbours: int = 8,
    seed: int = 0,
) -> GraphCut:
    """Segment the object a saliency map points at, without any training.

    The most salient pixels give a colour mixture for the object, the least salient one for the background; a minimum
    cut then assigns every pixel, neighbours of like colour preferring one side. The map only has to touch the object.

    Args:
        image: in [0, 1].
        saliency: at least 0, of the image's size (`Attribution.maps()[i]`).
        foreground: quantile above which pixels model the object.
        background: quantile below which pixels model the background.
        components: of each Gaussian colour mixture.
        gamma: weight of the smoothness `gamma exp(-|dI|^2 / (2 beta))`, beta the mean of `|dI|^2` in this image.
        side: longer side of the grid that is cut.
        neighbours: 4 or 8.
        seed: of the mixtures' initialisation.

    Raises:
        UsageError: shapes that do not fit, quantiles out of order, another number of neighbours.

    Paper: Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps
    (arXiv 1312.6034), section 3.2; the cut is Boykov and Jolly's (ICCV 2001).
    """
    if image.ndim != 3 or image.shape[0] != 3 or saliency.shape != image.shape[1:]:
        raise UsageError(f"image {tuple(image.shape)} must be (3, H, W) and saliency {tuple(saliency.shape)} (H, W)")
    if not 0 < background <= foreground < 1:
        raise UsageError(f"0 < background <= foreground < 1 must hold, not {background} and {foreground}")
    check_choice("neighbours", neighbours, (4, 8))
    size = (image.shape[1], image.shape[2])
    ratio = min(1.0, side / max(size))
    grid = (max(2, round(size[0] * ratio)), max(2, round(size[1] * ratio)))
    colours = F.interpolate(image[None].cpu().double(), size=grid, mode="area")[0].permute(1, 2, 0).numpy()
    evidence = F.interpolate(saliency[None, None].cpu().double(), size=grid, mode="area")[0, 0].numpy()
    object_cost = _unlikeliness(colours, evidence >= np.quantile(evidence, foreground), components, seed)
    rest_cost = _unlikeliness(colours, evidence <= np.quantile(evidence, background), components, seed)
    minimum = minimum_cut(object_cost, rest_cost, contrast_edges(colours, gamma, neighbours))
    largest = _largest(minimum)
    drawn = [
        F.interpolate(torch.from_numpy(part)[None, None].float(), size=size, mode="bilinear")[0, 0] > 0.5
        for part in (largest, minimum)
    ]
    rows, columns = drawn[0].any(dim=1).nonzero().flatten(), drawn[0].any(dim=0).nonzero().flatten()
    box = None
    if len(rows):
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return GraphCut(drawn[0], box, drawn[1])


def _unlikeliness(colours: np.ndarray, chosen: np.ndarray, components: int, seed: int) -> np.ndarray:
    from sklearn.mixture import GaussianMixture

    rows = colours[chosen]
    distinct = len(np.unique(rows.round(4), axis=0))
    mixture = GaussianMixture(
        min(components, distinct), covariance_type="full", reg_covar=1e-3, random_state=seed, max_iter=100
    )
    mixture.fit(rows if len(rows) > 1 else np.repeat(rows, 2, axis=0))
    return -mixture.score_samples(colours.reshape(-1, 3)).reshape(colours.shape[:2])


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()
