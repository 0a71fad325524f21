"""Labels cut out of a picture along its edges, from maps or clicks that say only about where things are: GrabCut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.cut.colours import ColourMixture
from binderclip.segment.cut.grid import Links, contrast_edges, expand

__all__ = ["CutSettings", "Seeds", "cut_labels", "cut_seeds", "otsu_threshold", "scaled_size"]

# Cost of a label where it is ruled out: above any sum of links and colours.
_NEVER = 1e5
CRUMB = 0.05
"""Of a label's largest part: smaller parts are dropped."""
QUARTER, LEAST_UNLIKE = 0.25, 0.1
"""Of a label's region: most that is sure, and least that must be unlike the ground to be told from it by colour."""


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
        maps: one a label, on any grid over the picture; high where the label is. A constant one takes nothing. Where
            several are above their own thresholds the highest counts, so that a surer label may have a higher map.
        settings: of the cut.
        inside, outside: as in `GrabCut`.
    """
    settings = settings or CutSettings()
    size = (image.shape[-2], image.shape[-1])
    grid = scaled_size(size, settings.side)
    evidence = F.interpolate(maps[None].cpu().float(), size=grid, mode="bilinear", antialias=True)[0].double().numpy()
    # Resizing leaves rounding in a constant map, in proportion to its height.
    seen = [place for place, own in enumerate(evidence) if np.ptp(own) > 1e-5 * (1 + np.abs(own).max())]
    if not seen:
        return torch.full(size, -1, dtype=torch.int32)
    # Otsu's threshold and quantiles follow offset and scale of a map; its weight as a prior must not change with them.
    splits = np.stack([(own - otsu_threshold(own)) / own.std() for own in evidence[seen]])
    seeds = seeds_of(splits, evidence[seen], _colours(image, grid), inside, outside, settings.components)
    labels = cut_seeds(image, splits, seeds, settings)
    return torch.from_numpy(np.array([-1, *seen], dtype=np.int32)[labels])


@dataclass(frozen=True)
class Seeds:
    """What is known before the cut, of K labels of which the first is none of the others.

    Attributes:
        labels: (h, w) first guess.
        sure: (h, w) pixels whose label stays as it is.
        never: (K, h, w) pixels that a label may not take.
        around: (h, w) pixels from which the colours of none of the labels are learned.
    """

    labels: Int[np.ndarray, "h w"]
    sure: Bool[np.ndarray, "h w"]
    never: Bool[np.ndarray, "K h w"]
    around: Bool[np.ndarray, "h w"]


def seeds_of(
    splits: Float[np.ndarray, "C h w"],
    heights: Float[np.ndarray, "C h w"],
    colours: Float[np.ndarray, "h w 3"],
    inside: float = 0.03,
    outside: float = 0.2,
    components: int = 5,
) -> Seeds:
    """Seeds of maps whose threshold is 0.

    A label's region is where its map is above 0 and of such labels the highest, as the maps were given. It is sure in
    the highest `inside` of the picture, but in no more than a quarter of the region; it may not go where its map is in
    the lowest `outside`, nor farther from the region than the radius of a disc of the region's area (of each part, on
    average). Maps are coarse: around a small thing the region holds ground, too. So pixels of it whose colour is
    likelier in its surroundings than in it are no seeds, unless next to nothing would be left.

    Args:
        splits: one map a label.
        heights: the maps as they were given.
        colours: of the same grid, in [0, 1].
        inside, outside: shares of the picture's pixels.
        components: of the colour models.
    """
    best, above = np.where(splits > 0, heights, -np.inf).argmax(axis=0), (splits > 0).any(axis=0)
    regions = above & (best == np.arange(len(splits))[:, None, None])
    near = np.stack([_near(region) for region in regions])
    around = np.asarray(near.any(axis=0))
    elsewhere = np.logical_not(above)
    ground: np.ndarray = np.logical_and(around, elsewhere)
    ground = ground if ground.any() else elsewhere
    labels, sure = np.zeros(best.shape, dtype=np.int64), np.zeros(best.shape, dtype=bool)
    never = ~near | (splits <= np.quantile(splits, outside, axis=(1, 2))[:, None, None])
    for place, (split, region) in enumerate(zip(splits, regions, strict=True)):
        if not region.any():
            continue
        most = max(1, round(min(inside * region.size, QUARTER * region.sum())))
        seeds = region & (split >= np.partition(split[region], -most)[-most])
        unlike = _unlike(colours, region, ground, components) if ground.any() else region
        if unlike.sum() >= LEAST_UNLIKE * region.sum():
            region, seeds = unlike, seeds & unlike
        never[place] &= ~seeds
        labels[region & ~never[place]] = place + 1
        sure |= seeds
    nothing = np.zeros((1, *best.shape), dtype=bool)
    settled: np.ndarray = np.logical_or(sure, never.all(axis=0))
    return Seeds(labels, settled, np.concatenate([nothing, never]), around)


def _near(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """A region and what is no farther from it than the radius of its parts."""
    if not region.any():
        return region
    parts = max(1, ndimage.label(region)[1])
    return ndimage.distance_transform_edt(~region) <= np.sqrt(region.sum() / np.pi / parts)


def _unlike(
    colours: Float[np.ndarray, "h w 3"],
    region: Bool[np.ndarray, "h w"],
    ground: Bool[np.ndarray, "h w"],
    components: int,
) -> Bool[np.ndarray, "h w"]:
    """Pixels of a region whose colours are likelier in it than in the ground around it."""
    unlike = region.copy()
    own = colours[region]
    models = (ColourMixture(own, components), ColourMixture(colours[ground], components))
    unlike[region] = models[0].log_density(own) > models[1].log_density(own)
    return unlike


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
            own = rows[(labels == label).ravel()]
            if label == 0 and (near := (labels == 0) & seeds.around).any():
                own = rows[near.ravel()]
            if label in models:
                models[label].refit(own)
            else:
                models[label] = ColourMixture(own, settings.components)
        costs = _costs(rows, models, splits, settings.prior) + _NEVER * seeds.never
        changed = expand(costs, links, labels, free=~seeds.sure, sweeps=2)
        if np.array_equal(changed, labels):
            break
        labels = changed
    return _finer(image, _without_crumbs(labels, ground=0 in models), models, settings)


def _without_crumbs(labels: Int[np.ndarray, "h w"], *, ground: bool) -> Int[np.ndarray, "h w"]:
    """Parts of a label that are next to nothing beside its largest one become none of the labels.

    Args:
        labels: of the cut.
        ground: whether any pixel was ever none of the labels. Where sky, sea and sand are all that there is, nothing is
            known of what else there could be, and a crumb takes the label of the nearest pixel.
    """
    kept = labels.copy()
    crumbs = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels[labels > 0]).tolist():
        parts, count = ndimage.label(labels == label)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        small = sizes < CRUMB * sizes[1:].max()
        small[0] = False
        crumbs |= small[parts]
    if not crumbs.any():
        return kept
    if ground:
        kept[crumbs] = 0
        return kept
    nearest = ndimage.distance_transform_edt(crumbs, return_distances=False, return_indices=True)
    return kept[tuple(nearest)]


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
    best, enlarged = np.full(size, -1.0), np.zeros(size, dtype=labels.dtype)
    for label in present:
        mask = torch.from_numpy((labels == label).astype(np.float32))[None, None]
        drawn = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
        enlarged = np.where(drawn > best, label, enlarged)
        best = np.maximum(drawn, best)
    return enlarged


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
