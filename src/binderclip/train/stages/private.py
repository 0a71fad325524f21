"""A classifier head trained within a privacy budget, as a stage of a recipe.

    model = "small"
    data = ["noto-emoji"]
    batch_size = 152
    epochs = 20
    [[stage]]
    name = "head"
    kind = {name = "private-head", epsilon = 2.0}

The towers stay as they are, so only the head has seen the private pictures. The budget and what it does not cover
stand in the run's summary, under the stage's notes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from binderclip.data import ImageTextDataset
from binderclip.errors import DataError, UsageError
from binderclip.evaluate.model import encode_set
from binderclip.files import make_folder, write_whole
from binderclip.models import ImageTextModel
from binderclip.privacy import PrivateLinearProbe
from binderclip.train.engine.context import StageContext
from binderclip.train.engine.evaluator import set_names
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.passes import Passes, TowerPasses, Uncounted
from binderclip.train.recipe.recipe import DataSpec, Stage
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register

__all__ = ["private_head"]

HEAD, REPORT = "head.safetensors", "privacy.json"


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if len(stages[index].data) != 1:
        raise UsageError(f"private-head needs one data set, got {len(stages[index].data)}")


@register(STAGES, "private-head")
@demands(check=_check, one_process=True, keeps_model=True)
def private_head(
    context: StageContext,
    *,
    epsilon: float,
    delta: float = 1e-5,
    tau: float | Literal["auto"] = "auto",
    lr: float | Literal["auto"] = "auto",
    accountant: Literal["rdp", "pld"] = "rdp",
    seeded: bool = True,
) -> dict[str, Any]:
    """Train a softmax layer on the frozen features of labelled pictures by DP-SGD, each picture one record.

    The recipe's `batch_size` is the expected size of the Poisson batches and `epochs` or `samples` the length. Sets of
    `evaluation.data` with the same classes are scored. `head.safetensors` (weight (C, E), bias (C,), for features of
    unit length) and `privacy.json` are left in the stage's folder.

    Args:
        context: of the stage.
        epsilon, delta: the budget.
        tau: clip norm; "auto": a quarter of the smallest Lipschitz constant of unit rows.
        lr: of the head; "auto": 4 / tau.
        accountant: "rdp" or "pld".
        seeded: batches and noise follow the recipe's seed, which stands in the run's folder: for experiments. False
            takes both from the system, as a head that leaves the house needs; no run then repeats another.

    Raises:
        UsageError: data without classes, or with several sets.
        NotSupported: several processes.
        DataError: no labelled picture can be read.

    Paper: Beyond Uniform Lipschitz Condition in Differentially Private Optimization, arXiv 2206.10713.
    """
    dataset = _labelled(context.stage.data[0])
    features, labels = _features(context.model, dataset)
    context.outcome.skipped, context.outcome.data_hash = list(dataset.skipped), dataset.data_hash
    sample_rate = min(1.0, context.stage.batch_size / len(labels))
    seen = context.stage.samples or (context.stage.epochs or 0) * len(labels)
    probe = PrivateLinearProbe(
        epsilon,
        delta,
        tau=tau,
        lr=lr,
        steps=max(1, round(seen / (sample_rate * len(labels)))),
        sample_rate=sample_rate,
        classes=range(len(dataset.classes)),
        accountant=accountant,
        seed=context.seed if seeded else None,
    ).fit(features, labels)
    folder = make_folder(context.folder("stages"))
    state = {"weight": torch.from_numpy(probe.coef_).float(), "bias": torch.from_numpy(probe.intercept_).float()}
    header = {"classes": json.dumps(list(dataset.classes))}
    write_whole(folder / HEAD, lambda draft: save_file(state, draft, header))
    write_whole(folder / REPORT, probe.report_.json() + "\n")
    return {
        "pictures": len(labels),
        "classes": len(dataset.classes),
        "noise_multiplier": probe.noise_multiplier_,
        "clip_norm": probe.tau_,
        "accuracy": _scores(context, probe, dataset.classes),
        "privacy": json.loads(probe.report_.json()),
    }


@register(PASSES, "private-head")
def _passes(stage: Stage, **settings: object) -> Passes:
    """Every picture, as if all had labels, is encoded once, however often the head sees its features; of a length in
    samples nobody knows how many pictures there are."""
    if stage.epochs is None:
        return Uncounted("each picture is encoded once, and a length in samples does not say how many there are")
    return TowerPasses(pictures=0, captions=0, copied_pictures=1 / stage.epochs)


def _labelled(spec: DataSpec) -> ImageTextDataset:
    dataset = open_sources([spec])[0][0]
    if not isinstance(dataset, ImageTextDataset) or len(dataset.classes) < 2:
        raise UsageError(f"private-head needs pictures with classes, and data {spec.name!r} has none")
    return dataset


def _features(model: ImageTextModel, dataset: ImageTextDataset) -> tuple[Float[Tensor, "N E"], Tensor]:
    """Features and labels of the pictures that have a label and can be read; the set notes the others as skipped."""
    parts, read, _ = encode_set(model, dataset.subset(dataset.labels >= 0))
    if not parts:
        raise DataError(f"private-head: no labelled picture can be read: {dataset.report()}")
    return torch.cat(parts), torch.as_tensor(read.labels)


def _scores(context: StageContext, probe: PrivateLinearProbe, classes: Any) -> dict[str, float]:
    """Accuracy on each set of `evaluation.data` with the same classes; such pictures must not be private."""
    scores = {}
    specs = context.recipe.evaluation.data
    for name, dataset in zip(set_names(specs), open_sources(specs)[0], strict=True):
        if isinstance(dataset, ImageTextDataset) and tuple(dataset.classes) == tuple(classes):
            features, labels = _features(context.model, dataset)
            scores[name] = float((torch.from_numpy(probe.predict(features)) == labels).float().mean())
    return scores
