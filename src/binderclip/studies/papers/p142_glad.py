"""Does steering low-rank tuning by the sharpness-aware gradient transfer better to classes and styles not seen?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.adapt import GLAD, LoRAModule, LoRATuning, features_for
from binderclip.models.layers.freezing import frozen
from binderclip.studies.harness import Figure, Row, Table, bars, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set

SHOTS, TESTED, CLASSES = 4, 40, 10
SETTINGS: dict[str, Any] = {"blocks": 2, "steps": 150, "lr": 3e-3, "batch_size": 16}
METHODS: dict[str, tuple[type[LoRATuning], dict[str, Any]]] = {
    "zero-shot": (LoRATuning, {"steps": 0}),
    "LoRA": (LoRATuning, {}),
    "LoRA + SAM": (GLAD, {"rule": "sam"}),
    "LoRA + blend": (GLAD, {"rule": "blend"}),
    "GLAD": (GLAD, {}),
}
METRICS = ("base accuracy", "new accuracy", "harmonic mean", "shifted base accuracy")
SHARPNESS = "sharpness at 0.05"
COSINE = "mean cosine of the two gradients"
DIRECTIONS, RADIUS = 20, 0.05


def _pixels(rows: np.ndarray) -> Tensor:
    data = few_shot_set("OpenMoji subgroups", each=TESTED + 8, pool=8)
    return features_for("images", bundled(), [data.data[int(data.indices[row])].image for row in rows])


def _shifted(images: Tensor, seed: int) -> Tensor:
    """Grey, with Gaussian noise of standard deviation 0.1."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.mean(dim=1, keepdim=True).expand_as(images) + 0.1 * noise).clamp(0, 1)


def measure(seed: int) -> list[Row]:
    """All rows of one seed: its own base and new classes, shots and test pictures."""
    data = few_shot_set("OpenMoji subgroups", each=TESTED + 8, pool=8)
    y = data.labels
    order = np.random.default_rng([142, seed]).permutation(data.bank.names).tolist()
    base, new = order[:CLASSES], order[CLASSES : 2 * CLASSES]
    pool, test = data.split(seed)

    def some(part: np.ndarray, names: list[str], count: int) -> np.ndarray:
        return np.concatenate([part[y[part] == name][:count] for name in names])

    train, on_base, on_new = some(pool, base, SHOTS), some(test, base, TESTED), some(test, new, TESTED)
    pixels, asked = _pixels(train), _pixels(on_base)
    cached = LoRATuning(bundled(), **SETTINGS)
    states = {
        name: cached.states(images)
        for name, images in (
            ("train", pixels),
            ("base", asked),
            ("new", _pixels(on_new)),
            ("shift", _shifted(asked, seed)),
        )
    }
    rows = []
    for method, (kind, options) in METHODS.items():
        head = kind(bundled(), data.bank.select(base), seed=seed, **{**SETTINGS, **options}).fit(pixels, y[train])
        known = _accuracy(head, states["base"], y[on_base])
        other = _accuracy(head.classifier_for(new), states["new"], y[on_new])
        shift = _accuracy(head, states["shift"], y[on_base])
        values = (known, other, 2 * known * other / max(known + other, 1e-12), shift)
        rows += [Row(metric, method, value) for metric, value in zip(METRICS, values, strict=True)]
        rows.append(Row("training accuracy", method, _accuracy(head, states["train"], y[train])))
        if method != "zero-shot":
            rows.append(Row(SHARPNESS, method, _sharpness(head, states["train"], y[train], seed)))
        if isinstance(head, GLAD):
            rows.append(Row(COSINE, method, head.cosine_))
    return rows


def _accuracy(head: LoRATuning, states: Tensor, labels: np.ndarray) -> float:
    found = head.classes_[head.from_states(states).argmax(dim=1).cpu().numpy()]
    return float((found == labels).mean())


@torch.no_grad()
def _sharpness(head: LoRATuning, states: Tensor, labels: np.ndarray, seed: int) -> float:
    """Largest rise of the training loss over random steps of one length from the trained factors."""
    targets = torch.from_numpy(np.searchsorted(head.classes_, labels))
    generator = torch.Generator().manual_seed(seed)
    texts = [head.template.format(name) for name in head.classes_]
    with frozen(head.model), head.adapted() as lora:
        module = LoRAModule(lora, head.model, texts, head.towers, head.blocks, head.scale_).eval()
        losses = []
        for number in range(DIRECTIONS + 1):
            step = torch.randn(head.adapter_.shape, generator=generator) if number else torch.zeros_like(head.adapter_)
            lora.load_vector(head.adapter_ + RADIUS * step / step.norm().clamp_min(1e-12))
            losses.append(float(F.cross_entropy(module.logits(states), targets)))
    return max(losses[1:]) - losses[0]


def draw(table: Table, figure: Figure) -> None:
    """The four accuracies by method, and the sharpness."""
    left, right = figure.subplots(1, 2, width_ratios=[3, 1.3])
    bars(left, table, METRICS, list(METHODS))
    left.set_xticks(range(4), ["base", "new", "harmonic mean", "base, grey and noisy"])
    left.set(title="Accuracy", ylabel="accuracy", ylim=(0, 0.85))
    left.legend(ncols=5, fontsize=8, loc="upper center", columnspacing=1, handlelength=1)
    methods = [method for method in METHODS if method != "zero-shot"]
    values = [table.values(SHARPNESS, method) for method in methods]
    right.bar(
        range(4), [v.mean() for v in values], yerr=[v.std() for v in values], color=[f"C{n}" for n in range(1, 5)]
    )
    right.set_xticks(range(4), ["LoRA", "+ SAM", "+ blend", "GLAD"])
    right.set(title="Sharpness", ylabel="largest rise of the loss")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="58d55f645b42")
