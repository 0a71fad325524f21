"""Do full gradients account for the whole score, and does their map know which pixels matter?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.explain import (
    FullGrad,
    GradCAM,
    Saliency,
    from_scratch,
    full_gradients,
    pixel_perturbation,
    remove_and_retrain,
)
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, one_thread, random_rows
from binderclip.studies.protocols.data.clothing import clothing, standardised
from binderclip.studies.protocols.photo_classifier import photo_classifier

SCENES, SIDE, CHECKED = 16, 128, 4
FRACTIONS = (0.01, 0.03, 0.1)
TRAIN, TEST, EPOCHS, RATE = 1000, 500, 3, 3e-3
ERROR = "relative error of the sum"
REMOVED = (0.5, 0.9)
GRADIENT = Saliency(reduce="abs-sum")
MAPS: dict[str, Any] = {"FullGrad": FullGrad(), "gradient": GRADIENT, "Grad-CAM": GradCAM()}
LEFT_OUT = "`small`, layer biases only"
SUMS = ("`lite0` (biases, BN)", "CNN of clothing (biases, BN)", "`small`, cosine", "`small`, logit")


def _scenes(seed: int, side: int, count: int) -> Any:
    from binderclip.data.synthetic_scenes.stream import scenes
    from binderclip.data.synthetic_scenes.vocabulary import vocabulary

    return scenes(
        seed, count, side, vocabulary=vocabulary("scenes15", split="val"), objects=1, area=(0.06, 0.4),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


@lru_cache(maxsize=1)
def _clothing() -> dict[str, tuple[Tensor, Tensor]]:
    """Fashion-MNIST with mean 0 and deviation 1, the first pictures of both parts."""
    parts = {split: clothing(split, count) for split, count in (("train", 4 * TRAIN), ("test", 3 * TEST))}
    return {split: (standardised(images), labels) for split, (images, labels) in parts.items()}


def _network() -> nn.Module:
    layers: list[nn.Module] = []
    for fed, width in ((1, 12), (12, 24)):
        layers += [nn.Conv2d(fed, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 49, 10))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    network = photo_classifier(SIDE)
    with one_thread():
        clothing = [
            (images[rows], labels[rows])
            for count, (images, labels) in zip((TRAIN, TEST), _clothing().values(), strict=True)
            for rows in [torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]]
        ]
        train_anew = from_scratch(_network, epochs=EPOCHS, lr=RATE)
        trained: Any = train_anew(*clothing[0], seed)
        rows = _sums(seed, network, trained, clothing[1][0])
        rows += _perturbed(seed, network)
        return rows + _retrained(seed, trained, train_anew, clothing)


def _sums(seed: int, network: nn.Module, trained: nn.Module, clothes: Tensor) -> list[Row]:
    """The largest relative error of each network's sum over a few pictures."""
    from binderclip.models import load

    model = load("small")
    found = _scenes(100 + seed, 128, CHECKED)
    texts = [f"a {names[0]}" for names in found.names]
    classes = sorted(set(texts))
    parts = (
        full_gradients(network, _scenes(seed, SIDE, CHECKED).images),
        full_gradients(trained, clothes[:CHECKED]),
        full_gradients(model, found.images, texts),
        full_gradients(model.predictor(classes), found.images, [classes.index(text) for text in texts]),
    )
    rows = [
        Row("relative error of the sum", name, float(part.completeness_error().max()))
        for name, part in zip(SUMS, parts, strict=True)
    ]
    cosine = parts[2]
    explicit = cosine.input.flatten(1).double().sum(1) + sum(t.total() for t in cosine.terms if not t.implicit)
    missed = float(((explicit - cosine.value) / cosine.value).abs().mean())
    return [*rows, Row("relative error of the sum", LEFT_OUT, missed)]


def _perturbed(seed: int, network: nn.Module) -> list[Row]:
    images = _scenes(seed, SIDE, SCENES).images
    change = {}
    for name, method in MAPS.items():
        maps = torch.cat([method(network, part).maps() for part in images.split(8)])
        # Random pixels are the same for all methods, so they are removed once.
        draws = 0 if "random" in change else 1
        found = pixel_perturbation(network, images, maps=maps, fractions=FRACTIONS, draws=draws, seed=seed)
        change[name] = found.mean
        if draws:
            change["random"] = found.random_mean
    return [
        Row("change of the logit", name, float(value), f"{fraction:.1%}")
        for name, values in change.items()
        for fraction, value in zip(FRACTIONS, values, strict=True)
    ]


def _retrained(seed: int, trained: nn.Module, train_anew: Any, clothing: list[tuple[Tensor, Tensor]]) -> list[Row]:
    """Maps explain the predicted class: the true one would tell the holes of a test picture what its label is."""
    methods = {"FullGrad": MAPS["FullGrad"], "gradient": GRADIENT}
    maps: list[dict[str, Tensor]] = [
        {
            name: torch.cat([method(trained, part).maps() for part in images.split(250)])
            for name, method in methods.items()
        }
        for images, _ in clothing
    ]
    found = remove_and_retrain(
        maps[0], maps[1], clothing[0], clothing[1], train_anew, fractions=[1 - share for share in REMOVED],
        keep="bottom", seeds=[seed],
    )  # fmt: skip
    with torch.no_grad():
        whole = float((trained(clothing[1][0]).argmax(1) == clothing[1][1]).float().mean())
    rows = [Row("accuracy after retraining", "nothing removed", whole, f"{share:.0%} removed") for share in REMOVED]
    return rows + [
        Row("accuracy after retraining", name, float(value), f"{share:.0%} removed")
        for name in found.methods
        for share, value in zip(REMOVED, found.mean(name), strict=True)
    ]


def _adds_up(table: Table) -> tuple[bool, str]:
    worst = {name: float(table.values("relative error of the sum", name).max()) for name in SUMS}
    rest = table.mean("relative error of the sum", LEFT_OUT)
    text = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
    return max(worst.values()) < 1e-4, f"{text}; {LEFT_OUT}: {rest:.2f}"


def null(seed: int) -> list[Row]:
    """Random maps: sums that miss, changes and accuracies as those of random pixels."""
    return [Row(ERROR, name, 0.5) for name in (*SUMS, LEFT_OUT)] + random_rows(STUDY.criteria, seed, 0.4, 0.6)


def draw(table: Table, figure: Figure) -> None:
    """Some scenes with three maps each, the perturbation curves, and accuracies after retraining."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.35])
    pictures, plots = halves
    found = _scenes(STUDY.seeds[0], SIDE, 3)
    network = photo_classifier(SIDE)
    axes = pictures.subplots(3, 4)
    for column, (name, method) in enumerate(MAPS.items(), 1):
        attribution = method(network, found.images)
        for row in range(3):
            shown = (found.images[row].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            axes[row, 0].imshow(shown)
            axes[row, column].imshow(attribution.overlay(shown, row))
        axes[0, column].set_title(name, fontsize=8)
    axes[0, 0].set_title("scene", fontsize=8)
    for ax in axes.flat:
        bare(ax, frame=False)
    left, right = plots.subplots(1, 2)
    _curves(left, table)
    _bars(right, table)


def _curves(ax: Any, table: Table) -> None:
    metric = "change of the logit"
    for number, name in enumerate([*MAPS, "random"]):
        values = [table.mean(metric, name, f"{fraction:.1%}") for fraction in FRACTIONS]
        colour = "0.5" if name == "random" else f"C{number}"
        ax.plot([100 * f for f in FRACTIONS], values, marker="o", markersize=3, label=name, color=colour)
    ax.set(xscale="log", yscale="log", xlabel="least salient pixels removed (%)")
    ax.set_title("relative change of the logit", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=7)


def _bars(ax: Any, table: Table) -> None:
    metric, methods = "accuracy after retraining", ("FullGrad", "gradient", "random")
    for number, name in enumerate(methods):
        values = [table.values(metric, name, f"{share:.0%} removed") for share in REMOVED]
        colour = "0.5" if name == "random" else f"C{number}"
        places = np.arange(len(REMOVED)) + 0.26 * (number - 1)
        ax.bar(places, [v.mean() for v in values], 0.24, yerr=[v.std() for v in values], color=colour, label=name)
    whole = table.mean(metric, "nothing removed", f"{REMOVED[0]:.0%} removed")
    ax.axhline(whole, color="black", linestyle="--", linewidth=1, label="nothing removed")
    ax.set_xticks(range(len(REMOVED)), [f"{share:.0%} removed" for share in REMOVED], fontsize=8)
    ax.set_ylim(0, 1)
    ax.set_title("accuracy after retraining", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=7, loc="lower left")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), null=null, registered="c2468865512b")
