"""Masks with the edges of the picture from maps that say only about where things are: GrabCut of several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.parts.context import Frame
from binderclip.segment.refine.colour_mixture import ColourMixture
from binderclip.segment.refine.grid_cut import Links, contrast_edges, expand

__all__ = ["CutSettings", "GrabCut", "cut_labels", "otsu_threshold"]

# Cost of a label where it is ruled out: above any sum of links and colours.
_NEVER = 1e5


@dataclass(frozen=True)
class CutSettings:
    """How labels are cut out.

    Args:
        side: longer side of the grid on which all is decided, in pixels.
        fine: longer side up to which the edge is then cut again, in a band as wide as it is unsure.
        rounds: of colour models and cuts.
        components: Gaussians of each colour model.
        gamma: weight of the edges' smoothness.
        prior: weight of the map beside the colours, per standard deviation of the map above its threshold.

    Raises:
        UsageError: a number out of its range.

    Paper: Rother, Kolmogorov, Blake, GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts (SIGGRAPH
    2004), whose gamma and components are the defaults.
    """

    side: int = 192
    fine: int = 384
    rounds: int = 3
    components: int = 5
    gamma: float = 25.0
    prior: float = 0.0

    def __post_init__(self) -> None:
        if min(self.side, self.rounds, self.components) < 1 or self.fine < self.side:
            raise UsageError(
                f"side {self.side}, rounds {self.rounds} and components {self.components} must be at least 1, "
                f"fine {self.fine} at least side"
            )
        if not (0 <= self.gamma < 1e4 and 0 <= self.prior < 1e4):
            raise UsageError(f"gamma {self.gamma} and prior {self.prior} must be at least 0 and below 10,000")


@dataclass(frozen=True)
class GrabCut(CutSettings):
    """A `relabel` part: every label's map is split, its colours are learned, and a minimum cut draws the edges.

    Works with the maps of any preset. The map of a label is how far its logit is above those of the others (alone: the
    logit itself). Otsu's threshold splits it; its highest `inside` is surely the label, its lowest `outside` surely is
    not; colour models of both sides and the edges of the picture decide the rest, in some rounds. Several labels are
    cut at once, against each other and against one background, which is what no label takes. A constant map is of a
    label that is not there. Words of the background keep the pixels that they win.

    Args:
        inside, outside: shares of the picture's pixels.

    Raises:
        UsageError: shares out of order.
    """

    inside: float = 0.03
    outside: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.inside > 0 and self.outside >= 0 and self.inside + self.outside < 1):
            raise UsageError(f"inside {self.inside} and outside {self.outside} are shares that leave some pixels over")

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], frame: Frame) -> Int[Tensor, "H W"]:
        """The label map, anew from the logits; -1, or 0 where there is a background, is none of the labels."""
        first = int(frame.background)
        maps = logits[first:].float()
        if len(logits) > 1:
            maps = torch.stack([own - _best_other(logits, place + first) for place, own in enumerate(maps)])
        found = cut_labels(frame.image[0], maps, self, inside=self.inside, outside=self.outside)
        return (found + first).to(labels)


def cut_labels(
    image: Float[Tensor, "3 H W"],
    maps: Float[Tensor, "C h w"],
    settings: CutSettings | None = None,
    *,
    inside: float = 0.03,
    outside: float = 0.2,
) -> Int[Tensor, "H W"]:
    """Cut out what each of some maps says, all at once: index of the map at every pixel, -1 for none.

    Args:
        image: in [0, 1].
        maps: one a label, on any grid over the picture; high where the label is. A constant one takes nothing.
        settings: of the cut.
        inside, outside: as in `GrabCut`.
    """
    settings = settings or CutSettings()
    size = (image.shape[-2], image.shape[-1])
    grid = scaled_size(size, settings.side)
    evidence = F.interpolate(maps[None].cpu().float(), size=grid, mode="bilinear", antialias=True)[0].double().numpy()
    seen = [place for place, own in enumerate(evidence) if np.ptp(own) > 1e-6]
    if not seen:
        return torch.full(size, -1, dtype=torch.int32)
    # Otsu's threshold and quantiles follow offset and scale of a map; its weight as a prior must not change with them.
    splits = np.stack([(own - otsu_threshold(own)) / own.std() for own in evidence[seen]])
    seeds = seeds_of(splits, inside, outside)
    labels = cut_seeds(image, splits, seeds, settings)
    return torch.from_numpy(np.array([-1, *seen], dtype=np.int32)[labels])


@dataclass(frozen=True)
class Seeds:
    """What is known before the cut, of K labels of which the first is none of the others.

    Attributes:
        labels: (h, w) first guess.
        sure: (h, w) pixels whose label stays as it is.
        never: (K, h, w) pixels that a label may not take.
    """

    labels: Int[np.ndarray, "h w"]
    sure: Bool[np.ndarray, "h w"]
    never: Bool[np.ndarray, "K h w"]


def seeds_of(splits: Float[np.ndarray, "C h w"], inside: float, outside: float) -> Seeds:
    """Seeds of maps whose threshold is 0: the highest and the lowest pixels of each, the best label between them."""
    best = splits.argmax(axis=0)
    high, low = (np.quantile(splits, q, axis=(1, 2))[:, None, None] for q in (1 - inside, outside))
    own = best == np.arange(len(splits))[:, None, None]
    sure = (splits >= high) & own
    never = (splits <= low) & ~sure
    labels = np.where(splits.max(axis=0) > 0, best + 1, 0)
    labels = np.where(sure.any(axis=0), sure.argmax(axis=0) + 1, labels)
    nowhere, nothing = never.all(axis=0), np.zeros((1, *labels.shape), dtype=bool)
    return Seeds(np.where(nowhere, 0, labels), sure.any(axis=0) | nowhere, np.concatenate([nothing, never]))


def cut_seeds(
    image: Float[Tensor, "3 H W"], splits: Float[np.ndarray, "C h w"], seeds: Seeds, settings: CutSettings
) -> Int[np.ndarray, "H W"]:
    """Rounds of colour models and cuts from seeds, then the edge at finer grids; 0 for none of the labels.

    Args:
        image: in [0, 1].
        splits: of the labels, for `prior`.
        seeds: on the same grid.
        settings: of the cut.
    """
    colours = _colours(image, (splits.shape[1], splits.shape[2]))
    links = Links(contrast_edges(colours, settings.gamma), colours.shape[:2])
    rows, labels = colours.reshape(-1, 3), seeds.labels
    models: dict[int, ColourMixture] = {}
    for _ in range(settings.rounds):
        for label in np.unique(labels).tolist():
            own = rows[labels.ravel() == label]
            if label in models:
                models[label].refit(own)
            else:
                models[label] = ColourMixture(own, settings.components)
        costs = _costs(rows, models, splits, settings.prior) + _NEVER * seeds.never
        changed = expand(costs, links, labels, free=~seeds.sure, sweeps=2)
        if np.array_equal(changed, labels):
            break
        labels = changed
    return _finer(image, labels, models, settings)


def _costs(
    rows: Float[np.ndarray, "n 3"], models: dict[int, ColourMixture], splits: Float[np.ndarray, "C h w"], prior: float
) -> Float[np.ndarray, "K h w"]:
    """Minus the log density of each label's colours, and what its map says; a label without a pixel costs too much."""
    shape = splits.shape[1:]
    costs = np.full((len(splits) + 1, *shape), _NEVER)
    for label, model in models.items():
        costs[label] = -model.log_density(rows).reshape(shape)
        if label and prior:
            costs[label] -= prior * splits[label - 1]
    return costs


def _finer(
    image: Float[Tensor, "3 H W"],
    labels: Int[np.ndarray, "h w"],
    models: dict[int, ColourMixture],
    settings: CutSettings,
) -> Int[np.ndarray, "H W"]:
    """The edge cut again at twice the side, and again, in a band around it; then enlarged to the picture."""
    size = (image.shape[-2], image.shape[-1])
    side = max(labels.shape)
    while side < min(settings.fine, max(size)):
        side = min(2 * side, settings.fine, max(size))
        grid = scaled_size(size, side)
        labels = _enlarged(labels, grid)
        band = _edges(labels, width=2)
        if not band.any():
            continue
        colours = _colours(image, grid)
        links = Links(contrast_edges(colours, settings.gamma), grid)
        present = np.unique(labels).tolist()
        costs = np.full((len(present), *grid), _NEVER)
        for place, label in enumerate(present):
            costs[place][band] = -models[label].log_density(colours[band])
        numbers = np.searchsorted(present, labels)
        labels = np.array(present)[expand(costs, links, numbers, free=band, sweeps=1)]
    return _enlarged(labels, size)


def _edges(labels: Int[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels within `width` of another label."""
    window = 2 * width + 1
    return ndimage.maximum_filter(labels, window) != ndimage.minimum_filter(labels, window)


def _enlarged(labels: Int[np.ndarray, "h w"], size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    """Labels at another size: the one whose mask, enlarged bilinearly, is highest."""
    present = np.unique(labels)
    best, found = np.full(size, -1.0), np.zeros(size, dtype=labels.dtype)
    for label in present:
        mask = torch.from_numpy((labels == label).astype(np.float32))[None, None]
        drawn = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
        found = np.where(drawn > best, label, found)
        best = np.maximum(drawn, best)
    return found


def _colours(image: Float[Tensor, "3 H W"], grid: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    small = F.interpolate(image[None].cpu().float(), size=grid, mode="bilinear", antialias=True, align_corners=False)
    return small[0].clamp(0, 1).permute(1, 2, 0).double().numpy()


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(h, w) with a longer side of at most `side`, the aspect kept."""
    ratio = min(1.0, side / max(size))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def otsu_threshold(values: Float[np.ndarray, "..."], bins: int = 256) -> float:
    """The threshold between two groups of values whose means lie farthest apart for their sizes.

    Paper: Otsu, A Threshold Selection Method from Gray-Level Histograms (1979).
    """
    counts, borders = np.histogram(values, bins)
    middles = (borders[1:] + borders[:-1]) / 2
    below, total = counts.cumsum(), counts.sum()
    sums = (counts * middles).cumsum()
    above = total - below
    inner = (below > 0) & (above > 0)
    between = np.zeros(bins)
    between[inner] = (sums[-1] * below[inner] / total - sums[inner]) ** 2 / (below[inner] * above[inner])
    # The upper border of the best bin: all values of the lower group are at most it.
    return float(borders[1 + between.argmax()])


def _best_other(logits: Float[Tensor, "C h w"], place: int) -> Float[Tensor, "h w"]:
    return torch.cat([logits[:place], logits[place + 1 :]]).float().amax(dim=0)
