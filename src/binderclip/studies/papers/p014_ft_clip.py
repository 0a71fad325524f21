"""Is it the hyper-parameters that decide whether fine-tuning a CLIP tower is good?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from binderclip.adapt import FullFineTune, LinearProbe, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set
from binderclip.studies.protocols.data.picture_sets import picture_set, unit_features

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

SIDE, TRAIN, TEST, OTHERS, EPOCHS, BATCH = 64, 160, 300, 150, 30, 16
ONE, SMALL, LAYERS, AVERAGE, MIXUP = (
    "one rate, 1e-3",
    "one rate, 3e-4",
    "rates by layer",
    "rates by layer, averaged",
    "... with mixup",
)
RUNS: dict[str, dict[str, Any]] = {
    ONE: {"layer_decay": 1.0, "ema": 0.0},
    SMALL: {"layer_decay": 1.0, "ema": 0.0, "lr": 3e-4},
    AVERAGE: {},
    MIXUP: {"mixup": 0.8},
}
BEFORE, PROBE = "not fine-tuned", "linear probe"
OTHER = "zero-shot accuracy on OpenMoji"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    data = picture_set("Fashion-MNIST", model, seed, train=TRAIN, test=TEST, side=SIDE)
    probe = LinearProbe(C=100.0).fit(unit_features(model, data.images), data.labels)
    features = unit_features(model, data.test_images)
    others, names, prior = _others(model, seed)
    rows = [
        Row("accuracy", "zero-shot", float(ZeroShotClassifier(data.bank).fit().score(features, data.test_labels))),
        Row("accuracy", PROBE, float(probe.score(features, data.test_labels))),
        Row(OTHER, BEFORE, float(prior.score(unit_features(model, others), names))),
    ]
    for name, options in RUNS.items():
        head = FullFineTune(model, size=SIDE, epochs=EPOCHS, batch_size=BATCH, seed=seed, **options)
        head.fit(data.images, data.labels)
        if name == AVERAGE:
            last = head.without_average()
            rows.append(Row("accuracy", LAYERS, float(last.score(data.test_images, data.test_labels))))
        rows.append(Row("accuracy", name, float(head.score(data.test_images, data.test_labels))))
        with torch.no_grad():
            seen = torch.cat([head.image_features(part) for part in others.split(50)])
        rows.append(Row(OTHER, name, float(prior.score(seen.double().numpy(), names))))
    return rows


def _others(model: ImageTextModel, seed: int) -> tuple[torch.Tensor, np.ndarray, ZeroShotClassifier]:
    """Pictures of nine groups that are not fine-tuned on, and the texts that tell them apart."""
    kept = few_shot_set("OpenMoji")
    rows = np.random.default_rng([seed, 3]).permutation(len(kept.labels))[:OTHERS]
    steps = model.preprocess.at(SIDE)
    pixels = [torch.from_numpy(steps.pixels(kept.data[kept.indices[row]].image).copy()) for row in rows]
    images = torch.stack(pixels).permute(0, 3, 1, 2).float() / 255
    return images, kept.labels[rows], ZeroShotClassifier(kept.bank).fit()


def draw(table: Table, figure: Figure) -> None:
    """Accuracy on the task, and what is left of the zero-shot classifier on other pictures."""
    left, right = figure.subplots(1, 2)
    methods = ["zero-shot", PROBE, ONE, SMALL, LAYERS, AVERAGE, MIXUP]
    _bars(left, table, "accuracy", methods, ["C7", "C2", "C1", "C1", "C0", "C0", "C4"])
    left.set(title="Fashion-MNIST, fine-tuned", xlabel="accuracy", xlim=(0, 1))
    _bars(right, table, OTHER, [BEFORE, ONE, SMALL, AVERAGE, MIXUP], ["C7", "C1", "C1", "C0", "C4"])
    right.axvline(1 / 9, color="k", linewidth=0.8, linestyle=":")
    right.set(title="OpenMoji, zero-shot afterwards", xlabel="accuracy (dotted: guessing)", xlim=(0, 1))


def _bars(ax: Any, table: Table, metric: str, methods: list[str], colours: list[str]) -> None:
    for place, (method, colour) in enumerate(zip(methods, colours, strict=True)):
        values = table.values(metric, method)
        ax.barh(place, values.mean(), 0.7, xerr=values.std(), color=colour)
        ax.text(values.mean() + values.std() + 0.01, place, f"{values.mean():.2f}", va="center")
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="97c86ca35fb4")
