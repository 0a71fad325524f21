"""Do walks along level sets end near pictures of other classes with the source's confidence?"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.robust import PGD, LevelSetPath, LevelSetTraversal, confidence_along
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import cluttered

PICTURES, PAIRS, STEPS, TOLERANCE, CLOSE = 40, 8, 100, 0.05, 0.05
WALK, STRAIGHT, NOISE = "along the level set", "straight", "a random direction"
ATTACK = "projected gradient ascent"
DISTANCE, KEPT, TARGET, LINE = "distance left", "confidence lost", "confidence in the target", "line above"
NEAR = "share that is near the target and keeps the confidence"


@cache
def pairs(seed: int) -> tuple[Tensor, Tensor, Any]:
    """Sources that are named rightly, targets of other classes, and the classifier of fifteen classes."""
    made = cluttered(seed, PICTURES, objects=1, size=128, area=(0.15, 0.4))
    names = list(made.classes)
    predictor = bundled().predictor(names)
    with torch.no_grad():
        said = predictor(made.images).argmax(1)
    right = [row for row in range(PICTURES) if names[int(said[row])] == made.names[row][0]]
    rng = np.random.default_rng([seed, 47])
    chosen = rng.permutation(right)[:PAIRS]
    others = [int(rng.choice([b for b in range(PICTURES) if said[b] != said[a]])) for a in chosen]
    return made.images[chosen], made.images[others], predictor


def walks(seed: int) -> dict[str, LevelSetPath]:
    """The walk, the straight way, and a walk towards noise added to the source, as long as the way to the target."""
    sources, targets, predictor = pairs(seed)
    drawn = torch.randn(sources.shape, generator=torch.Generator().manual_seed(seed))
    far = (targets - sources).flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
    aside = (sources + drawn * far[:, None, None, None]).clamp(0, 1)
    options: dict[str, Any] = {"steps": STEPS, "tolerance": TOLERANCE, "seed": seed}
    return {
        WALK: LevelSetTraversal(predictor, **options)(sources, targets),
        STRAIGHT: LevelSetTraversal(predictor, straight=True, **options)(sources, targets),
        NOISE: LevelSetTraversal(predictor, **options)(sources, aside),
    }


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    sources, targets, predictor = pairs(seed)
    rows = [Row("pairs", "named rightly", float(len(sources)))]
    way = (sources - targets).flatten(1).norm(dim=1)
    for name, path in walks(seed).items():
        # The walk beside the target is judged by how near it came to the target all the same.
        left = (path.images - targets).flatten(1).norm(dim=1) / way
        rows += [
            Row(DISTANCE, name, float(left.median())),
            Row(KEPT, name, float((path.start - path.confidence).median())),
            Row(TARGET, name, float(confidence_along(predictor, path.images, path.images, _said(predictor, targets),
                                                     points=2)[:, 0].median())),
        ]  # fmt: skip
        near = (left <= CLOSE) & (path.start - path.confidence <= TOLERANCE)
        rows.append(Row(NEAR, name, float(near.float().mean())))
        line = confidence_along(predictor, sources, path.images, path.labels, points=21)
        rows.append(Row(LINE, name, float((line.amin(1) >= path.start - 2 * TOLERANCE).float().mean())))
    rows.append(Row(NEAR, ATTACK, _attacked(sources, targets, predictor)))
    return rows


def _attacked(sources: Tensor, targets: Tensor, predictor: Any) -> float:
    """The share of targets that an attack within the same distance brings to the source's confidence."""
    labels, kept = _said(predictor, sources), []
    for source, target, label in zip(sources, targets, labels, strict=True):
        eps = CLOSE * float((source - target).norm())
        found = PGD(predictor, eps, steps=20, norm="l2", targeted=True)(target[None], label[None])
        with torch.no_grad():
            start, end = (predictor(each[None]).softmax(1)[0, label] for each in (source, found.images[0]))
        kept.append(float(start - end) <= TOLERANCE)
    return float(np.mean(kept))


def _said(predictor: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return predictor(images).argmax(1)


def draw(table: Table, figure: Figure) -> None:
    """How far is left, what became of the confidence, and four walks."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.2))
    left, right = halves
    for ax, metric in zip(left.subplots(2, 2).flat, (DISTANCE, KEPT, TARGET, LINE), strict=True):
        dots(ax, table, metric, (WALK, STRAIGHT, NOISE))
        ax.set_title(metric, fontsize=8)
        ax.tick_params(axis="x", rotation=30, labelsize=6)
    seed = table.rows[0].seed
    sources, targets, _ = pairs(seed)
    found = walks(seed)
    for row, axes in enumerate(right.subplots(4, 4)):
        shown = (sources[row], targets[row], found[WALK].images[row], found[STRAIGHT].images[row])
        titles = ("source", "target", "walk", "straight") if row == 0 else ()
        pictures(axes, [each.permute(1, 2, 0).numpy() for each in shown], titles)


STUDY = declared_study(__name__, measure, seeds=range(8), draw=draw, registered="293cec420205")
