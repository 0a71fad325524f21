"""Do fused tokens of several layers and triplets find unseen generators better than a line on the embedding?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.data.distortions.kinds import compressed
from binderclip.evaluate.detectors import detection_average_precision
from binderclip.quality import DeeCLIP, Detector, DetectorBatch, LinearDetector, PanopticPatchDetector, fit_detector
from binderclip.quality.forensics.training import drawn_rows
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.data.made_fakes import SEEN, UNSEEN, bench, rounded

TOWER, SIDE, TRAIN, TEST = "small-dino", 32, 120, 80
STEPS, TRIPLETS, RATE, RANK, LAYERS = 60, 10, 3e-3, 4, (0, 1, 2)
LINE, ADAPTED, FUSED, FULL, RANDOM = "line on the embedding", "adapted, one line", "fused", "fused, triplets", "random"
ARMS = (LINE, ADAPTED, FUSED, FULL)
AP, JPEG, BLUR = "average precision", "JPEG 60", "blur 1 px"
DEGRADED = {JPEG: lambda images: compressed(images, 60), BLUR: lambda images: gaussian_blur(images, 1.0)}


def made_detector(arm: str) -> Detector:
    """An untrained detector of an arm, on the same tower and the same crop."""
    if arm == LINE:
        return LinearDetector(TOWER, side=SIDE)
    if arm == ADAPTED:
        return PanopticPatchDetector(TOWER, side=SIDE, contrast=0.0, r=RANK, lora_alpha=2 * RANK)
    return DeeCLIP(
        TOWER, layers=LAYERS, view="crop", side=SIDE, width=128, r=RANK, lora_alpha=2 * RANK,
        triplet=1.0 if arm == FULL else 0.0,
    )  # fmt: skip


@torch.no_grad()
def embedded(detector: Detector, images: Float[Tensor, "N 3 s s"]) -> tuple[Tensor, ...]:
    """The part that training never changes."""
    parts = [detector.features(detector.view(part)) for part in images.split(64)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def scores(arm: str, known: Tensor, labels: np.ndarray, asked: dict[str, Tensor], seed: int) -> dict[str, np.ndarray]:
    """Logits of every test set by a detector of one arm; all draw the same triplets, the line converges on all."""
    torch.manual_seed(seed)
    detector = made_detector(arm)
    features = embedded(detector, known)
    if arm == LINE:
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features[0].numpy(), labels)
        return {name: line.decision_function(embedded(detector, x)[0].numpy()) for name, x in asked.items()}
    rng = np.random.default_rng([seed, 6])

    def batches() -> Iterator[DetectorBatch]:
        while True:
            rows = drawn_rows("triplets", labels, 3 * TRIPLETS, rng)
            yield DetectorBatch(tuple(part[rows] for part in features), torch.from_numpy(labels[rows]).float())

    fit_detector(detector, batches(), steps=STEPS, lr=RATE, seed=seed)
    return {name: detector.logits(embedded(detector, x)).numpy() for name, x in asked.items()}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made = bench(seed, train=TRAIN, test=TEST, side=SIDE)
    asked = {"real": made.test, **made.fakes}
    for name, change in DEGRADED.items():
        asked |= {f"real, {name}": rounded(change(made.test)), name: rounded(change(made.fakes[SEEN]))}
    labels = np.array([0] * TRAIN + [1] * TRAIN)
    known, rows = torch.cat([made.train, made.train_fakes]), []
    draw = np.random.default_rng([seed, 11])
    for arm in (*ARMS, RANDOM):
        if arm == RANDOM:
            found = {name: draw.standard_normal(TEST) for name in asked}
        else:
            found = scores(arm, known, labels, asked, seed)
        rows += [
            Row(AP, arm, detection_average_precision(found["real"], found[name]), name) for name in (SEEN, *UNSEEN)
        ]
        rows += [
            Row(AP, arm, detection_average_precision(found[f"real, {name}"], found[name]), name) for name in DEGRADED
        ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Average precision of every arm on each test set."""
    names = (SEEN, *UNSEEN, *DEGRADED)
    axes: Any = figure.subplots(1, len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        dots(ax, table, AP, ARMS, name)
        ax.set_xticks(range(len(ARMS)), ARMS, rotation=60, ha="right", fontsize=7)
        kind = "trained on" if name == SEEN else "unseen" if name in UNSEEN else "both after"
        ax.set_title(f"{kind}\n{name}", fontsize=9)
    axes[0].set_ylabel(AP)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 26), registered="e61ad9646e65")
