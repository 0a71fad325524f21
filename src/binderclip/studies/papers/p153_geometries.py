"""Do squared Euclidean distances train as well as cosines, and do Euclidean cones put texts above their pictures?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from binderclip.losses import ContrastiveLoss, SquaredEuclidean, clip, euclip, meru
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training import contrastive_towers as towers

STEPS, BATCH, RATE, RADIUS = 250, 128, 3e-3, 0.1
COSINE, ARC, PLAIN, SQUARED, CONES, LORENTZ, MERU, UNTRAINED = (
    "cosine", "arc", "distance", "squared distance", "squared distance, cones", "hyperbolic", "hyperbolic, cones",
    "squared distance, untrained",
)  # fmt: skip
LOSSES: dict[str, Callable[[], ContrastiveLoss]] = {
    COSINE: clip,
    ARC: lambda: ContrastiveLoss(similarity="arc"),
    PLAIN: lambda: ContrastiveLoss(similarity="euclidean"),
    SQUARED: euclip,
    CONES: lambda: euclip(entailment=0.2, radius=RADIUS),
    LORENTZ: lambda: meru(entailment=0.0),
    MERU: lambda: meru(entailment=0.2, radius=RADIUS),
    UNTRAINED: euclip,
}
METHODS = tuple(LOSSES)
ACCURACY, RECALL = "zero-shot accuracy", "R@5, mean of both directions"
OUTSIDE, LENGTHS = "mean angle outside of the cone of the text (rad)", "log of mean lengths, texts over pictures"


@torch.no_grad()
def cones(model: towers.Towers, geometry: SquaredEuclidean) -> tuple[float, float]:
    """By how much held-out pictures lie outside of their texts' cones, and how long texts are beside pictures."""
    image, text = model.embed(towers.held_out())
    point, apex = geometry.embed(image, "image"), geometry.embed(text, "text")
    angle, half = geometry.cone_angles(apex, point, RADIUS)
    text_length, image_length = (float(each.norm(dim=1).mean()) for each in (apex, point))
    return float((angle - half).relu().mean()), math.log(text_length / image_length)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for name, make in LOSSES.items():
        steps = 0 if name == UNTRAINED else STEPS
        model, loss = towers.train_towers(make, seed, steps=steps, batch=BATCH, rate=RATE, unit=True)
        geometry = loss.similarity
        rows.append(Row(ACCURACY, name, towers.accuracy(model, geometry)))
        rows.append(Row(RECALL, name, towers.recall(model, geometry)))
        if isinstance(geometry, SquaredEuclidean) and name != PLAIN:
            outside, longer = cones(model, geometry)
            rows += [Row(OUTSIDE, name, outside), Row(LENGTHS, name, longer)]
    return rows


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels(
        (ACCURACY, METHODS), (RECALL, METHODS), (OUTSIDE, (SQUARED, CONES, UNTRAINED)), widths=(2, 2, 1), size=8
    ),
    seeds=range(10, 26),
    registered="bb8bd7226a0c",
)
