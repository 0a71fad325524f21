"""Does a detector that looks perfect on its own generator collapse on another, and do two experts beat each alone?"""

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

from binderclip.evaluate import DetectorSanityCheck
from binderclip.quality import AIDE, DetectorBatch, fit_detector
from binderclip.quality.forensics.training import drawn_rows
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.made_fakes import SEEN, UNSEEN, bench, rounded
from binderclip.vision import SRMFilter

SIDE, TRAIN, TEST = 96, 80, 60
STEPS, BATCH, RATE, LOOK = 60, 24, 3e-3, 64
FAINT, SHARE = "faint", 0.35
"""Copies by the training's generator, laid over their pictures with this share: hard fakes."""
NOISE, SHOWN, BOTH, LINE, RANDOM = "noise alone", "embedding alone", "both experts", "line on residuals", "random"
ARMS = (NOISE, SHOWN, BOTH, LINE)
TESTED = (SEEN, *UNSEEN, FAINT)
AP, CAUGHT, TRUE = "average precision", "fakes called fake", "real pictures called real"


def residuals(images: Float[Tensor, "N 3 s s"]) -> np.ndarray:
    """Logarithm of the mean absolute residual of each of the 30 filters: what a line can read of the noise."""
    return SRMFilter()(images).abs().mean((2, 3)).add(1e-6).log().numpy()


def trained(arm: str, features: tuple[Tensor, ...], labels: np.ndarray, seed: int) -> AIDE:
    """A detector with one or both experts; all see the same batches."""
    torch.manual_seed(seed)
    detector = detector_of(arm)
    rng = np.random.default_rng([seed, 4])

    def batches() -> Iterator[DetectorBatch]:
        while True:
            rows = drawn_rows("balanced", labels, BATCH, rng)
            yield DetectorBatch(tuple(part[rows] for part in features), torch.from_numpy(labels[rows]).float())

    fit_detector(detector, batches(), steps=STEPS, lr=RATE, seed=seed)
    return detector


def detector_of(arm: str) -> AIDE:
    """AIDE with the experts of an arm."""
    experts = {NOISE: ["noise"], SHOWN: ["semantic"]}.get(arm, ["noise", "semantic"])
    return AIDE(bundled(), experts=experts, channels=(8, 16, 32, 32), patch_side=32, side=LOOK, hidden=128)


@torch.no_grad()
def embedded(images: Float[Tensor, "N 3 s s"]) -> tuple[Tensor, ...]:
    """What all arms read: windows and embedding."""
    detector = detector_of(BOTH)
    parts = [detector.features(detector.view(part)) for part in images.split(40)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made = bench(seed, train=TRAIN, test=TEST, side=SIDE)
    fakes = {**made.fakes, FAINT: rounded(torch.lerp(made.test, made.fakes[SEEN], SHARE))}
    known = torch.cat([made.train, made.train_fakes])
    labels = np.array([0] * TRAIN + [1] * TRAIN)
    features, real = embedded(known), embedded(made.test)
    shown = {name: embedded(images) for name, images in fakes.items()}
    rows = []
    for arm in (NOISE, SHOWN, BOTH):
        detector = trained(arm, features, labels, seed)
        rows += figures(arm, detector.logits(real), {name: detector.logits(part) for name, part in shown.items()})
    line = make_pipeline(StandardScaler(), LogisticRegression()).fit(residuals(known), labels)
    said = {name: torch.from_numpy(line.decision_function(residuals(images))) for name, images in fakes.items()}
    rows += figures(LINE, torch.from_numpy(line.decision_function(residuals(made.test))), said)
    draw = np.random.default_rng([seed, 11])
    scores = {name: torch.from_numpy(draw.standard_normal(TEST)) for name in TESTED}
    return rows + figures(RANDOM, torch.from_numpy(draw.standard_normal(TEST)), scores)


def figures(arm: str, real: Float[Tensor, "N"], fakes: dict[str, Float[Tensor, "M"]]) -> list[Row]:
    """Rows of one arm by the sanity check."""
    check = DetectorSanityCheck(real, fakes, seen=[SEEN])
    rows = [Row(TRUE, arm, check.figures[0].real_accuracy)]
    for found in check.figures:
        rows.append(Row(AP, arm, found.average_precision, found.generator))
        rows.append(Row(CAUGHT, arm, found.fake_accuracy, found.generator))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Fakes that are called fake, generator by generator, and the average precision."""
    axes: Any = figure.subplots(1, 3, width_ratios=(1.4, 1.4, 1))
    for ax, metric in zip(axes, (CAUGHT, AP), strict=False):
        for number, arm in enumerate(ARMS):
            values = np.stack([table.values(metric, arm, name) for name in TESTED])
            ax.plot(range(len(TESTED)), values.mean(1), marker="o", markersize=4, color=f"C{number}", label=arm)
        ax.set_xticks(range(len(TESTED)), TESTED, rotation=30, ha="right", fontsize=8)
        ax.set_title(f"{metric}\n(trained on {SEEN})")
    axes[0].legend(fontsize=8)
    dots(axes[2], table, TRUE, ARMS)
    axes[2].set_title(TRUE)
    axes[2].set_xticks(range(len(ARMS)), ARMS, rotation=30, ha="right", fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="f37eda68e2c2")
