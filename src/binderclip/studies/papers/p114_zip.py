"""Do clusters of a middle layer part instances that touch, and give better boxes than the activation alone?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.segment import Segmenter
from binderclip.segment.metrics import box_overlaps, coco_average_precision
from binderclip.segment.parts.resolution import Whole
from binderclip.segment.task import FragmentBoxes, VocabularyScorer, WordMaps, lloyd, middle_features, unit_range
from binderclip.segment.task.fragments import map_at_size
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.data.task_scenes import ANIMALS, HELD_OUT, models

SCENES, SIZE, SIDE, CLUSTERS, THRESHOLD = 6, 256, 512, 12, 2.0
BORDERS, AP = "F of borders between instances", "AP50 of boxes"
BLOCKS = ("block 0", "block 1", "block 2", "block 3, the last")
MIDDLE, LAST, RANDOM = BLOCKS[1], BLOCKS[3], "random clusters"
ZIP, ZIP_LAST, ZIP_RANDOM, COMPONENTS, PICTURE, ORACLE = (
    "Zip", "Zip, last layer", "Zip, random clusters", "parts of the activation", "the whole picture",
    "Zip, exact clusters",
)  # fmt: skip


def herds(seed: int) -> list[tuple[Scenes, str]]:
    """Scenes of 2 to 4 held-out drawings of one kind each, which touch or hide each other a little."""
    known = vocabulary(list(ANIMALS), split=HELD_OUT)
    kinds = np.random.default_rng([seed, 12]).choice(len(ANIMALS), SCENES, replace=False)
    return [
        (scenes(seed, 1, SIZE, vocabulary=known.only([ANIMALS[kind]]), objects=(2, 4), area=(0.06, 0.15),
                occlusion=(0.01, 0.2), background=["plain", "gradient"], first=number), ANIMALS[kind])
        for number, kind in enumerate(kinds)
    ]  # fmt: skip


def border_f(clusters: Int[np.ndarray, "h w"], instances: Int[np.ndarray, "h w"]) -> float:
    """F1 of pairs of neighbouring cells of animals: those in two clusters against those of two instances.

    Args:
        clusters: of each cell.
        instances: number of the instance, -1 for the ground, whose pairs do not count.
    """
    apart, different = [], []
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        both = (instances[one] >= 0) & (instances[other] >= 0)
        apart.append((clusters[one] != clusters[other])[both])
        different.append((instances[one] != instances[other])[both])
    found, true = np.concatenate(apart), np.concatenate(different)
    return float(2 * (found & true).sum() / max(1, found.sum() + true.sum()))


def outlined(instances: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Exact clusters as the paper hopes for them: instances, ground, and one of all outlines, one cell wide."""
    edge = np.zeros(instances.shape, dtype=bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        apart = instances[one] != instances[other]
        edge[one] |= apart & (instances[one] >= 0)
        edge[other] |= apart & (instances[other] >= 0) & (instances[one] < 0)
    return np.where(edge, instances.max() + 1, instances)


def _components(heat: Float[Tensor, "H W"], share: float, least: float) -> list[tuple[float, ...]]:
    """Boxes of the connected parts above a share of the map's mean."""
    numbers, _ = ndimage.label((heat > share * heat.mean()).numpy())
    places = ndimage.find_objects(numbers)
    return [
        (float(x.start), float(y.start), float(x.stop), float(y.stop)) for n, (y, x) in enumerate(places, start=1)
        if (numbers[y, x] == n).sum() >= least * numbers.size
    ]  # fmt: skip


def _scored(boxes: Sequence[tuple[float, ...]], heat: Float[Tensor, "H W"]) -> list[float]:
    """Mean of the map in each box."""
    return [float(heat[int(y0) : round(y1), int(x0) : round(x1)].mean()) for x0, y0, x1, y1 in boxes]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, _ = models()
    localiser = WordMaps(Segmenter(model, "sclip", resolution=Whole(SIDE)))
    blocks = [middle_features(model, layer, size=SIDE) for layer in range(len(BLOCKS))]
    zips = FragmentBoxes(blocks[1], VocabularyScorer(model, ANIMALS), CLUSTERS, threshold=THRESHOLD)
    random = np.random.default_rng([seed, 13])
    borders: dict[str, list[float]] = {}
    overlaps: dict[str, list[Any]] = {}
    for made, kind in herds(seed):
        picture = Image.fromarray((made.images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
        heat = unit_range(localiser(picture, [kind]))[0].cpu()
        full, true = map_at_size(heat, (SIZE, SIZE)), made.boxes[0][made.present[0]]
        clusters = {}
        for name, features in zip(BLOCKS, blocks, strict=True):
            maps = features(picture)
            unit = torch.nn.functional.normalize(maps.flatten(1).T, dim=1)
            clusters[name] = lloyd(unit, CLUSTERS).view(maps.shape[-2:]).numpy()
        grid = clusters[MIDDLE].shape
        cell = SIZE // grid[0]
        instances = made.instances[0][cell // 2 :: cell, cell // 2 :: cell].numpy()
        clusters[RANDOM] = random.integers(0, CLUSTERS, grid)
        for name, own in clusters.items():
            borders.setdefault(name, []).append(border_f(own, instances))
        answers: dict[str, Sequence[tuple[float, ...]]] = {
            ZIP: zips.instances(clusters[MIDDLE], heat, (SIZE, SIZE)),
            ZIP_LAST: zips.instances(clusters[LAST], heat, (SIZE, SIZE)),
            ZIP_RANDOM: zips.instances(clusters[RANDOM], heat, (SIZE, SIZE)),
            ORACLE: zips.instances(outlined(instances), heat, (SIZE, SIZE)),
            COMPONENTS: _components(full, zips.threshold, zips.min_cells),
            PICTURE: [(0.0, 0.0, float(SIZE), float(SIZE))],
        }
        for name, boxes in answers.items():
            given = np.array(boxes, dtype=float).reshape(-1, 4)
            overlaps.setdefault(name, []).append(box_overlaps(given, true.numpy(), scores=_scored(boxes, full)))
    rows = [Row(BORDERS, name, float(np.mean(values))) for name, values in borders.items()]
    return rows + [Row(AP, name, coco_average_precision(o, thresholds=(0.5,)).map_50) for name, o in overlaps.items()]


def draw(table: Table, figure: Figure) -> None:
    """Borders by block, precision of boxes, and one scene with its clusters."""
    axes: Any = figure.subplots(1, 4, width_ratios=(1, 1, 0.7, 0.7))
    dots(axes[0], table, BORDERS, (*BLOCKS, RANDOM))
    dots(axes[1], table, AP, (ZIP, ZIP_LAST, ZIP_RANDOM, COMPONENTS, PICTURE, ORACLE))
    for ax, label in zip(axes, (BORDERS, AP), strict=False):
        ax.tick_params(axis="x", rotation=40, labelsize=7)
        ax.set_ylabel(label)
    made, kind = herds(table.rows[0].seed)[0]
    picture = Image.fromarray((made.images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    model, _ = models()
    shown = FragmentBoxes(middle_features(model, 1, size=SIDE), VocabularyScorer(model, ANIMALS), CLUSTERS)
    pictures(axes[2:], [picture, shown.clusters(picture) / CLUSTERS], [kind, MIDDLE])


STUDY = declared_study(__name__, measure, seeds=range(8), draw=draw, registered="dccd7d7a4622")
