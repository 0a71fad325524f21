"""Does a network become robust when its input gradients point where a person would expect, and nothing else is done?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.explain import gradient_alignment
from binderclip.explain.faithfulness.retrain import ShuffledBatches
from binderclip.fit import fit
from binderclip.losses import GradientAlignmentLoss, class_gradients
from binderclip.robust import PGD, PAGTargets, adversarial_step
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.data.clothing import clothing

SIDE, TRAIN, TEST, ATTACKED, STRONG = 14, 2000, 1000, 300, 150
EPOCHS, BATCH, RATE, CLASSES_PER_IMAGE, SUBSET = 10, 64, 3e-3, 3, 100
EPS, RADII, STEPS = 1.0, (0.25, 0.5, 1.0, 1.5), 10
PLAIN, ADVERSARIAL = "plain", "adversarial training"
KINDS = {"class mean": "class_mean", "nearest": "nearest"}
WEIGHTS = (0.5, 1.5)
CONTROLS = ("random, one a class", "random, new each time")
ATTACK, STRONGER = "accuracy under attack", "accuracy under 50 steps, 5 restarts"
Directions = Callable[[Tensor, Tensor], Tensor]


def named(kind: str, weight: float) -> str:
    """Name of a network in tables."""
    return f"{kind}, λ = {weight:g}"


MAIN = [named(kind, WEIGHTS[-1]) for kind in KINDS]
ALL = [PLAIN, *(named(k, w) for k in KINDS for w in WEIGHTS), *(named(c, WEIGHTS[-1]) for c in CONTROLS), ADVERSARIAL]


@lru_cache(maxsize=1)
def _pictures() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Fashion-MNIST at half its size: 12,000 training pictures to draw from, and the test pictures."""
    return clothing("train", 12_000, SIDE), clothing("test", TEST, SIDE)


def _train_set(seed: int) -> tuple[Tensor, Tensor]:
    images, labels = _pictures()[0]
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:TRAIN]
    return images[rows], labels[rows]


def network(seed: int) -> nn.Sequential:
    """Two convolutions of stride two and a hidden layer, smooth activations."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.SiLU(), nn.Linear(64, 10))


@lru_cache(maxsize=8)
def directions(kind: str, seed: int) -> Directions:
    """Where gradients should point; the controls point anywhere."""
    images, labels = _train_set(seed)
    if kind in KINDS:
        rule: Any = KINDS[kind]
        return PAGTargets(rule, images, labels, subset=SUBSET if rule == "nearest" else None, seed=seed)
    g = torch.Generator().manual_seed(seed)
    if kind == CONTROLS[0]:
        fixed = torch.randn(10, *images.shape[1:], generator=g)
        return lambda x, classes: fixed[classes]
    return lambda x, classes: torch.randn(*classes.shape, *x.shape[1:], generator=g)


@lru_cache(maxsize=64)
def trained(name: str, seed: int) -> nn.Module:
    """One of the networks of `ALL`: the same pictures, order, first weights and steps; only the loss differs."""
    images, labels = _train_set(seed)
    net = network(seed)
    batches = ShuffledBatches(images, labels, BATCH, seed)
    if name == ADVERSARIAL:
        attack = PGD(net, EPS, EPS / 2, 4, "l2", keep="last")
        step = adversarial_step(net, attack, seed=seed)
    else:
        kind, _, value = name.partition(", λ = ")
        weight = float(value or 0)
        targets = directions(kind, seed) if weight else None
        loss = GradientAlignmentLoss(targets, weight=weight, classes_per_image=CLASSES_PER_IMAGE, seed=seed)
        step = lambda batch: loss(net, *batch)  # noqa: E731
    fit(step, net, batches, steps=EPOCHS * len(batches), lr=RATE)
    return net.eval()


def _withstands(
    net: nn.Module, images: Tensor, labels: Tensor, eps: float = EPS, steps: int = STEPS, **how: Any
) -> float:
    found = PGD(net, eps, steps=steps, norm="l2", **how)(images, labels)
    return 1 - float(found.success.float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    images, labels = _pictures()[1]
    few = images[:ATTACKED], labels[:ATTACKED]
    carried = PGD(trained(PLAIN, seed), EPS, steps=STEPS, norm="l2")(*few).images
    for name in ALL:
        net = trained(name, seed)
        rows.append(Row("accuracy", name, float((net(images).argmax(1) == labels).float().mean())))
        rows += [Row(ATTACK, name, _withstands(net, *few, eps), _radius(eps)) for eps in RADII]
        moved = float((net(carried).argmax(1) == few[1]).float().mean())
        rows.append(Row("accuracy under attacks on the plain network", name, moved))
        for kind in KINDS:
            cosine = float(gradient_alignment(net, few[0], directions(kind, seed)).mean())
            rows.append(Row("alignment", name, cosine, kind))
        if name in (PLAIN, *MAIN):
            part = few[0][:STRONG], few[1][:STRONG]
            for objective in ("cross-entropy", "margin"):
                value = _withstands(net, *part, steps=50, restarts=5, objective=objective)
                rows.append(Row(STRONGER, name, value, objective))
            rows.append(Row(STRONGER, name, _withstands(net, *part), "10 steps, once"))
    return rows


def _radius(eps: float) -> str:
    return f"radius {eps:g}"


def draw(table: Table, figure: Figure) -> None:
    """Gradients towards four classes, accuracy against the radius, and robustness against alignment."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.15, 2])
    images, labels = _pictures()[1]
    row = int((labels == 8).nonzero()[0])
    image = images[row : row + 1]
    wanted = {"picture": None, "trousers": 1, "dress": 3, "sneaker": 7}
    nets = (PLAIN, MAIN[1], ADVERSARIAL)
    cells = halves[0].subplots(len(nets), len(wanted))
    for number, (line, name) in enumerate(zip(cells, nets, strict=True)):
        for ax, (title, target) in zip(line, wanted.items(), strict=True):
            bare(ax, frame=False)
            if target is None:
                ax.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
                ax.set_ylabel(name.replace(", ", ",\n").replace(" training", "\ntraining"), fontsize=8)
            else:
                found = class_gradients(trained(name, 0), image, torch.tensor([[target]]))[0, 0, 0]
                top = float(found.abs().max())
                ax.imshow(found, cmap="seismic", vmin=-top, vmax=top)
            if number == 0:
                ax.set_title(title if target is None else f"towards\n{title}", fontsize=8)
    left, right = halves[1].subplots(1, 2)
    shown = [PLAIN, *MAIN, *(named(c, WEIGHTS[-1]) for c in CONTROLS), ADVERSARIAL]
    for number, name in enumerate(shown):
        values = [table.values("accuracy", name), *(table.values(ATTACK, name, _radius(e)) for e in RADII)]
        style = "--" if "random" in name else "-"
        left.errorbar(
            (0, *RADII), [v.mean() for v in values], [v.std() for v in values], marker="o", markersize=4, label=name,
            color=f"C{number}", linestyle=style,
        )  # fmt: skip
    left.set(title="Accuracy under attack", xlabel="l2 radius", ylim=(-0.02, 1.25))
    left.legend(fontsize=7, loc="upper right")
    for kind, marker in zip(KINDS, "os", strict=True):
        names = [PLAIN, *(named(kind, weight) for weight in WEIGHTS)]
        x = [table.mean("alignment", name, kind) for name in names]
        y = [table.mean(ATTACK, name, _radius(EPS)) for name in names]
        right.plot(x, y, marker=marker, label=kind, color=f"C{1 + list(KINDS).index(kind)}")
        # The two curves meet at λ = 0 and class means stop gaining: labels on different sides stay apart.
        left_side = kind == "nearest"
        for place, value, weight in zip(x, y, (0, *WEIGHTS), strict=True):
            offset = (-6 if left_side else 6, {0: -3, 0.5: -10, 1.5: 4}[weight])
            right.annotate(
                f"λ = {weight:g}", (place, value), offset, textcoords="offset points", fontsize=8,
                ha="right" if left_side else "left",
            )  # fmt: skip
    right.set(title="More alignment", xlabel="mean cosine with targets", ylabel=f"accuracy, radius {EPS:g}")
    right.margins(x=0.35, y=0.15)
    right.legend(fontsize=8, loc="upper left")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="9a77e3998079")
