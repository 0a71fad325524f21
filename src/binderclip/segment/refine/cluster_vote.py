"""Regions of patches that correlate with the same patches, and a vote inside each: one label for what is one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Record, Site
from binderclip.models.towers.record import resolve_layer
from binderclip.segment.parts.context import Context, Frame, open_windows
from binderclip.segment.parts.region_scope import majority
from binderclip.segment.parts.rewire import self_cosine, terms_of, without_class_token
from binderclip.settings import check_choice

SMOOTH = 4
"""The region maps are smoothed on a grid this many times finer than the patches."""


@dataclass(frozen=True)
class ClusterVote:
    """Patches that correlate alike are one region, and every region takes one label.

    The correlation of two patches is the mean cosine of their queries, keys and values in the block before the last;
    what the class token correlates with is taken off every row. Rows near each other are one cluster (DBSCAN), the
    mean row of a cluster is its map, and a pixel belongs to the cluster whose smoothed map is largest there. Windows
    do not matter: the correlation is that of the whole picture at the size at which the model sees it. Background words
    vote as the one class they are; the released code lets each vote for itself.

    Args:
        eps: largest distance of neighbouring rows (Euclidean, over all patches). None follows the rows of each picture:
            the median, over patches, of the distance to the `min_samples`-th nearest row, so that half of the patches
            are cores whatever the tower's cosines spread over. The paper has constants for its tower, CLIP ViT-B/16:
            0.7 for 14 x 14 patches and 1.1 for 21 x 21.
        min_samples: rows within `eps`, itself among them, that make a patch the core of a cluster. None for one in 64
            patches and at least 3, which is the paper's 3 and 7 for the same grids.
        vote: `majority`, the most frequent label of the pixels; or `mean`, the class with the largest mean logit,
            whatever threshold the labels were cut at.
        layer: block whose queries, keys and values are compared, negative from the end.
        of: which of them, as in `SelfSelf`.
        denoise: whether the class token's row is taken off.

    Raises:
        UsageError: an unknown vote, eps or min_samples that is not positive, a layer that the tower does not have.

    Paper: Shao et al., Explore the Potential of CLIP for Training-Free Open Vocabulary Semantic Segmentation
    (CLIPtrase, arXiv 2407.08268).
    """

    eps: float | None = None
    min_samples: int | None = None
    vote: Literal["majority", "mean"] = "majority"
    layer: int = -2
    of: str = "q+k+v"
    denoise: bool = True

    def __post_init__(self) -> None:
        terms_of(self.of)
        check_choice("vote", self.vote, ("majority", "mean"))
        for name in ("eps", "min_samples"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be positive or None, not {value}")

    @property
    def record(self) -> Record:
        """Query, key and value of the one block."""
        return Record("q", "k", "v", layers=[self.layer])

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], frame: Frame) -> Int[Tensor, "H W"]:
        """The label map after the vote; as it was where there is no cluster."""
        regions = self.regions(frame, (labels.shape[0], labels.shape[1]))
        if regions is None:
            return labels
        ids = regions.to(labels.device)
        return majority(labels, ids) if self.vote == "majority" else best_mean(logits, ids).to(labels)

    def correlation(self, frame: Frame) -> Float[Tensor, "N N"]:
        """Of the patches of the whole picture, row by row of the grid."""
        return self._correlation(frame)[0]

    def regions(self, frame: Frame, size: tuple[int, int]) -> Int[Tensor, "H W"] | None:
        """The region of every pixel, numbered from 0; None where no cluster was found.

        Args:
            frame: the image.
            size: (h, w) of the map.
        """
        # Frames of other sizes share their notes.
        key = ("cluster regions", self, tuple(frame.pixels.shape), size)
        return frame.once(key, lambda: self._regions(frame, size))

    def _regions(self, frame: Frame, size: tuple[int, int]) -> Tensor | None:
        correlation, grid = self._correlation(frame)
        clusters = row_clusters(correlation, eps=self.eps, min_samples=self.min_samples)
        maps = cluster_maps(correlation, clusters, grid)
        if not len(maps):
            return None
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)

    def _correlation(self, frame: Frame) -> tuple[Tensor, tuple[int, int]]:
        context = self._context(frame)
        correlation = self_cosine(context.qkv(self.layer), self.of)
        if self.denoise:
            return without_class_token(correlation, context.prefix)[0], context.grid
        return correlation[0, context.prefix :, context.prefix :], context.grid

    def _context(self, frame: Frame) -> Context:
        """The window that was segmented, if it is the whole picture; else a pass over the whole picture."""
        context, tower = frame.context, frame.model.image_tower
        site = Site("q", resolve_layer(self.layer, tower.depth))
        if context is not None and context.pixels.shape == frame.pixels.shape and site in context.sites:
            return context
        key = ("whole picture", tuple(frame.pixels.shape), self.layer)
        with torch.no_grad():
            return frame.once(key, lambda: open_windows(frame, frame.pixels, [(0, 0)], self.record))


def row_clusters(
    correlation: Float[Tensor, "N N"], *, eps: float | None = None, min_samples: int | None = None
) -> Int[np.ndarray, "N"]:
    """Cluster of every row by DBSCAN, -1 for noise; see `ClusterVote` for the settings."""
    from scipy.spatial.distance import cdist
    from sklearn.cluster import DBSCAN

    rows = correlation.float().cpu().numpy()
    least = max(3, round(len(rows) / 64)) if min_samples is None else min_samples
    distances = cdist(rows, rows)
    if eps is None:
        # A row is the nearest of its own, at 0. Rows that are all alike have the smallest distance there is.
        nearest = np.partition(distances, min(least, len(rows)) - 1, axis=1)[:, min(least, len(rows)) - 1]
        eps = max(float(np.median(nearest)), float(np.finfo(float).tiny))
    return DBSCAN(eps=eps, min_samples=least, metric="precomputed").fit_predict(distances)


def cluster_maps(
    correlation: Float[Tensor, "N N"], clusters: Int[np.ndarray, "N"], grid: tuple[int, int]
) -> Float[Tensor, "R h w"]:
    """The mean row of every cluster as a map, four times finer than the grid, median-filtered over 7 x 7.

    Args:
        correlation: of the patches.
        clusters: of its rows, -1 for none.
        grid: (h, w) of the patches.
    """
    from scipy.ndimage import median_filter

    fine = (SMOOTH * grid[0], SMOOTH * grid[1])
    rows = [correlation[torch.from_numpy(clusters == index)].mean(dim=0) for index in range(int(clusters.max()) + 1)]
    if not rows:
        return correlation.new_zeros(0, *fine)
    maps = F.interpolate(
        torch.stack(rows).float().unflatten(1, grid)[None], size=fine, mode="bilinear", align_corners=False
    )[0]
    side = 2 * SMOOTH - 1
    smooth = np.stack([median_filter(each, size=side) for each in maps.cpu().numpy()])
    return torch.from_numpy(smooth).to(correlation.device)


def best_mean(logits: Float[Tensor, "C h w"], ids: Int[Tensor, "H W"]) -> Int[Tensor, "H W"]:
    """The class with the largest mean logit in every region.

    Args:
        logits: of classes, enlarged bilinearly.
        ids: region of every pixel, from 0.
    """
    flat = ids.flatten().to(logits.device)
    count = torch.bincount(flat).clamp(min=1).double()
    means = []
    # One class at a time, as large pictures times many classes would not fit into memory.
    for score in logits.float():
        drawn = F.interpolate(score[None, None], size=tuple(ids.shape), mode="bilinear", align_corners=False)
        means.append(torch.bincount(flat, weights=drawn.flatten().double()) / count)
    return torch.stack(means).argmax(dim=0).to(ids.device)[ids]
