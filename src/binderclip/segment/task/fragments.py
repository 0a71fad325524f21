"""Instances of a class out of clusters of a middle layer: fragments, and the boxes that they make (Zip)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.segment.maps import unit_range
from binderclip.segment.metrics import mask_iou
from binderclip.segment.promptable import Prompts, predict_masks
from binderclip.segment.task.candidates import CandidateMasks, Look, Rectangle
from binderclip.segment.task.choosing import cutouts
from binderclip.segment.task.vocabulary import meant_words
from binderclip.segment.task.words import VocabularyScorer

__all__ = ["FragmentBoxes", "UnionOfMasks", "best_first", "fragment_boxes", "lloyd", "middle_features"]


def lloyd(points: Float[Tensor, "N D"], k: int, *, rounds: int = 100) -> Int[Tensor, "N"]:
    """k-means from the points at k places spread evenly over their order, so that it is deterministic.

    Args:
        points: any.
        k: clusters; one that loses all its points keeps its centre.
        rounds: at most; it ends when centres move by less than 1e-5 of their size.

    Returns:
        The cluster of each point.

    Raises:
        UsageError: k below 1 or above the number of points.
    """
    if not 1 <= k <= len(points):
        raise UsageError(f"k must be in 1 to {len(points)}, the number of points, got {k}")
    centres = points[torch.linspace(0, len(points) - 1, k).round().long()].clone()
    owner = torch.cdist(points, centres).argmin(1)
    for _ in range(rounds):
        total = torch.zeros_like(centres).index_add_(0, owner, points)
        count = torch.bincount(owner, minlength=k)[:, None]
        moved = torch.where(count > 0, total / count.clamp(min=1), centres)
        still = torch.allclose(moved, centres, rtol=1e-5)
        centres = moved
        owner = torch.cdist(points, centres).argmin(1)
        if still:
            break
    return owner


def fragment_boxes(
    clusters: Int[np.ndarray, "h w"],
    active: Bool[np.ndarray, "h w"],
    *,
    gain: float = 0.3,
    looseness: float = 3.0,
    min_cells: float = 0.006,
) -> list[tuple[int, int, int, int]]:
    """Boxes of instances: connected fragments that are active and compact, put together where they touch.

    Clusters that trace outlines make loose fragments, which are dropped, and so cut touching instances apart.

    Args:
        clusters: number of the cluster of each cell.
        active: cells where the class is.
        gain: least share of a fragment that is active.
        looseness: most area of a fragment's box over its own.
        min_cells: share of all cells that an instance covers at least (the paper's 100 of 128 x 128).

    Returns:
        xyxy in cells, half-open, the largest instance first.
    """
    kept = np.zeros(clusters.shape, dtype=bool)
    for cluster in np.unique(clusters):
        numbers, _ = ndimage.label(clusters == cluster)
        for number, place in enumerate(ndimage.find_objects(numbers), start=1):
            fragment = numbers[place] == number
            area = int(fragment.sum())
            if active[place][fragment].mean() > gain and fragment.size / area < looseness:
                kept[place] |= fragment
    numbers, _ = ndimage.label(kept)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
        area = int((numbers[rows, columns] == number).sum())
        if area >= min_cells * clusters.size:
            boxes.append((area, (columns.start, rows.start, columns.stop, rows.stop)))
    return [box for _, box in sorted(boxes, key=lambda item: -item[0])]


def middle_features(
    model: Any, layer: int | None = None, *, size: int | None = None
) -> Callable[[Image.Image], Tensor]:
    """(picture) -> patch tokens of a middle block of an image-text model's tower as a map (C, h, w).

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        layer: number of the block; None for the one in the middle.
        size: shorter side at which the tower sees the picture; None for 64 patches. Outlines are told from fragments
            by their looseness, for which an instance has to be several cells wide.

    Raises:
        NotSupported: (at once) an image tower that cannot be opened.
    """
    refuse_bare_module(model, "middle_features")
    tower = model.image_tower
    chosen = tower.depth // 2 - 1 if layer is None else layer

    @torch.no_grad()
    def features(image: Image.Image) -> Float[Tensor, "C h w"]:
        pixels = model.preprocess(image, size=64 * tower.patch if size is None else size).to(model.device)
        tokens = tower.run(tower.embed(pixels), stop=chosen + 1)
        return tokens.patches.mT.unflatten(2, tower.grid_of(pixels))[0].float()

    return features


@dataclass(frozen=True)
class FragmentBoxes:
    """Zip: every instance's box, with the hottest point in it, asks for a mask; masks are named, scored, thinned out.

    A mask's class is the word that its cut-out, on the picture's mean colour, shows most probably; its score that
    probability times the mean of the class's map inside; of two that overlap, whatever their classes, the better stays.
    A task that names words of the vocabulary, or their kind, is answered by instances of these alone ("every fox", "all
    animals"; see `meant_words`).

    Args:
        features: (picture) -> map of features; see `middle_features`.
        scorer: probabilities of the vocabulary.
        k: clusters (20 for the paper's 128 x 128 cells, 8 to 12 for small grids).
        threshold: share of a map's mean above which a cell is active.
        gain, looseness, min_cells: of `fragment_boxes`.
        overlap: IoU of masks above which the one with the lower score is dropped.
        unit: whether features are made unit vectors before they are clustered. The released code clusters them as they
            are (False); on tokens of the bundled `small` unit vectors draw better borders between instances (F 0.12
            against 0.10 on three seeds of drawn herds) and make better boxes (AP50 0.12 against 0.07).

    Paper: The devil is in the object boundary (ICLR 2024, arXiv 2404.11957).
    """

    features: Callable[[Image.Image], Float[Tensor, "C h w"]]
    scorer: VocabularyScorer
    k: int = 10
    threshold: float = 0.7
    gain: float = 0.3
    looseness: float = 3.0
    min_cells: float = 0.006
    overlap: float = 0.5
    unit: bool = True

    @torch.no_grad()
    def __call__(self, look: Look) -> CandidateMasks:
        """See `Candidates`: the instances, the one with the highest score first."""
        if look.words and look.maps is None:
            raise UsageError("fragments are chosen by heatmaps: give a localiser")
        masks = self._masks(look)
        there = (masks.logits > 0).flatten(1).any(1).nonzero()[:, 0]
        if not len(there):
            return CandidateMasks(masks.logits[:0], masks.scores[:0], ())
        logits = masks.logits[there]
        names, scores = self._named(look, logits > 0)
        meant = meant_words(look.task, self.scorer.vocabulary)
        kept = [i for i in best_first(logits > 0, scores, self.overlap) if names[i] in meant]
        return CandidateMasks(logits[kept], scores[kept], tuple(names[i] for i in kept))

    def instances(
        self, clusters: Int[np.ndarray, "i j"], heat: Float[Tensor, "h w"], size: tuple[int, int]
    ) -> list[Rectangle]:
        """Boxes of one class in pixels, the largest instance first.

        Args:
            clusters: of the features.
            heat: of the class.
            size: (H, W) of the picture.
        """
        full = map_at_size(heat, size)
        active = (full > self.threshold * full.mean()).float()
        active = torch.nn.functional.interpolate(active[None, None], size=clusters.shape, mode="nearest")[0, 0] > 0
        cells = fragment_boxes(
            clusters, active.cpu().numpy(), gain=self.gain, looseness=self.looseness, min_cells=self.min_cells
        )
        sx, sy = size[1] / clusters.shape[1], size[0] / clusters.shape[0]
        return [(x0 * sx, y0 * sy, x1 * sx, y1 * sy) for x0, y0, x1, y1 in cells]

    def clusters(self, image: Image.Image) -> Int[np.ndarray, "i j"]:
        """Number of the cluster of each cell of the features."""
        maps = self.features(image)
        points = maps.flatten(1).T  # (h w, C)
        if self.unit:
            points = torch.nn.functional.normalize(points, dim=1)
        return lloyd(points, min(self.k, len(points))).view(maps.shape[-2:]).cpu().numpy()

    def _masks(self, look: Look) -> CandidateMasks:
        """A mask for each instance of each word."""
        none = CandidateMasks(torch.zeros(0, *look.state.size), torch.zeros(0))
        if look.maps is None:
            return none
        clusters, size = self.clusters(look.image), look.state.size
        asked = [
            (box, _hottest(heat, box, size))
            for heat in unit_range(look.maps) for box in self.instances(clusters, heat, size)
        ]  # fmt: skip
        if not asked:
            return none
        prompts = Prompts(
            torch.tensor([point for _, point in asked])[:, None], torch.ones(len(asked), 1, dtype=torch.long),
            torch.tensor([box for box, _ in asked], dtype=torch.float32),
        )  # fmt: skip
        logits, scores = predict_masks(look.segmenter, look.state, prompts, multimask=False)
        return CandidateMasks(logits.cpu(), scores.cpu())

    def _named(self, look: Look, masks: Bool[Tensor, "N H W"]) -> tuple[list[str], Float[Tensor, "N"]]:
        """Class and score of each mask."""
        assert look.maps is not None
        probs = self.scorer.probabilities(cutouts(look.image, masks, "mean"), self.scorer.vocabulary).cpu()
        places = [self.scorer.vocabulary.index(word) for word in look.words]
        best, own = probs[:, places].max(1)
        heat = torch.stack([map_at_size(each, look.state.size) for each in unit_range(look.maps)])[own]  # (N, H, W)
        inside = (heat * masks).sum((1, 2)) / masks.sum((1, 2))
        return [look.words[int(n)] for n in own], inside * best


def best_first(masks: Bool[Tensor, "N H W"], scores: Float[Tensor, "N"], overlap: float = 0.5) -> list[int]:
    """Numbers of the masks by falling score, without those that a better one overlaps by more than an IoU."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not kept or float(mask_iou(masks[kept], masks[i].expand(len(kept), -1, -1)).max()) <= overlap:
            kept.append(i)
    return kept


def map_at_size(heat: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """A map at the picture's size."""
    return torch.nn.functional.interpolate(heat[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _hottest(heat: Float[Tensor, "h w"], box: Rectangle, size: tuple[int, int]) -> tuple[float, float]:
    """Centre of the hottest cell of a heatmap whose centre lies in a box; the box's own centre where there is none."""
    sy, sx = size[0] / heat.shape[0], size[1] / heat.shape[1]
    y = (torch.arange(heat.shape[0]) + 0.5) * sy
    x = (torch.arange(heat.shape[1]) + 0.5) * sx
    inside = ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))[None]
    if not bool(inside.any()):
        return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    at = int(torch.where(inside, heat, -1.0).argmax())
    return float(x[at % heat.shape[1]]), float(y[at // heat.shape[1]])


@dataclass(frozen=True)
class UnionOfMasks:
    """Every candidate counts: the largest of their probabilities at each pixel."""

    def __call__(self, image: Image.Image, candidates: CandidateMasks, words: Sequence[str]) -> Float[Tensor, "H W"]:
        """See `Chooser`."""
        return candidates.logits.sigmoid().amax(0) if len(candidates) else torch.zeros(image.height, image.width)
