"""Do large input gradients mark what decides the class, in ordinary and in adversarially trained networks?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import BlockDataset
from binderclip.explain import DiffROAR, from_scratch, input_gradient, signal_null_energy
from binderclip.explain.faithfulness.retrain import ShuffledBatches
from binderclip.fit import fit
from binderclip.robust import PGD, adversarial_step
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, one_thread
from binderclip.studies.protocols.data.clothing import clothing

MODELS, RANDOM = ("standard", "robust"), "random"
# (a) the synthetic set of the theory: one coordinate out of ten is the label, the others are zero
COORDINATES, POINTS, WIDTH, EPOCHS_A, EPS_A, RATE_A = 10, 4000, 500, 30, 0.45, 1.0
# (b) blocks of two kinds of clothing
PAIR, BLOCKS, EPOCHS_B, EPS_B = ("trousers", "bag"), 1500, 12, 0.1
# (c) DiffROAR on all ten kinds
TRAIN, TEST, EPOCHS_C, EPS_C, RETRAIN = 3000, 2000, 10, 2.0, 6
FRACTIONS = (0.1, 0.3)
# The explained loss is of the predicted class: the true one tells the mask, also of a test picture, what the label is.
TARGET = "predicted class"
STEPS = 4
VARIANTS = ("random place", "always on top")
MATCHES = ("at the largest gradient", "at the smallest gradient")


def train(
    net: nn.Module, images: Tensor, labels: Tensor, attack: PGD | None, epochs: int, seed: int, **how: Any
) -> Any:
    """A network trained on images, or on attacked ones; otherwise the same."""
    batches = ShuffledBatches(images, labels, how.pop("batch", 64), seed)

    def plain(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    step: Callable[..., Any] = plain if attack is None else adversarial_step(net, attack, seed=seed)
    fit(step, net, batches, steps=epochs * len(batches), **how)
    return net.eval()


def network(seed: int, inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """One hidden layer of ReLUs."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@lru_cache(maxsize=2)
def _pictures(split: int) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST, the first 12,000 training or 3,000 test pictures."""
    return clothing("train", 12_000) if split == 0 else clothing("test", 3_000)


def _share(n: int, of: int, seed: int) -> Tensor:
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:n]


def synthetic(seed: int) -> list[Row]:
    """(a) Is the one coordinate that decides the one with the largest gradient, or with the smallest?"""
    g = torch.Generator().manual_seed(seed)
    place = torch.randint(0, COORDINATES, (POINTS + 1000,), generator=g)
    y = torch.randint(0, 2, (POINTS + 1000,), generator=g)
    x = F.one_hot(place, COORDINATES).float() * (2 * y - 1)[:, None]
    rows = []
    for name in MODELS:
        net = network(seed, COORDINATES, WIDTH, 2)
        attack = PGD(net, EPS_A, EPS_A / 2, STEPS, random_start=False, keep="last", box=(-1, 1))
        used = None if name == "standard" else attack
        how = {"optimizer": "sgd", "lr": RATE_A, "schedule": "constant", "batch": 500}
        train(net, x[:POINTS], y[:POINTS], used, EPOCHS_A, seed, **how)
        size = input_gradient(net, x[POINTS:], y[POINTS:])
        for where, found in zip(MATCHES, (size.argmax(1), size.argmin(1)), strict=True):
            rows.append(Row("(a) signal coordinate", name, float((found == place[POINTS:]).float().mean()), where))
        stronger = PGD(net, EPS_A, steps=10, random_start=False, box=(-1, 1))
        rows.append(_robust_accuracy("(a)", name, stronger, x[POINTS:], y[POINTS:]))
    size = torch.rand(x[POINTS:].shape, generator=g)
    for where, found in zip(MATCHES, (size.argmax(1), size.argmin(1)), strict=True):
        rows.append(Row("(a) signal coordinate", RANDOM, float((found == place[POINTS:]).float().mean()), where))
    return rows


@lru_cache(maxsize=32)
def block_networks(seed: int, variant: str) -> tuple[BlockDataset, dict[str, nn.Module]]:
    """(b) Held-out blocks, and the two networks trained on others."""
    from binderclip.data import load_data

    where: Any = "random" if variant == VARIANTS[0] else "top"
    names = list(load_data("fashion-mnist", "test").classes)
    parts = []
    for split, n in ((0, BLOCKS), (1, 400)):
        images, labels = _pictures(split)
        classes = [names.index(name) for name in PAIR]
        rows = torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0]
        rows = rows[_share(n, len(rows), seed)]
        keys = [f"{split}-{row}" for row in rows.tolist()]
        wanted = (labels[rows] == classes[1]).long()
        parts.append(BlockDataset(images[rows], wanted, keys, signal_at=where, seed=seed))
    nets: dict[str, nn.Module] = {}
    for name in MODELS:
        net = network(seed, parts[0].images[0].numel(), 128, 2)
        attack = PGD(net, EPS_B, EPS_B / 2, STEPS, keep="last") if name == "robust" else None
        nets[name] = train(net, parts[0].images, parts[0].labels, attack, EPOCHS_B, seed, lr=1e-3)
    return parts[1], nets


def blocks(seed: int) -> list[Row]:
    """(b) How much of the gradient lies in the block that decides."""
    rows = []
    for variant in VARIANTS:
        data, nets = block_networks(seed, variant)
        for name, net in nets.items():
            maps = input_gradient(net, data.images, data.labels)
            found = signal_null_energy(maps, data.signal)
            rows.append(Row("(b) gradient in the signal block", name, float(found.energy.mean()), variant))
            rows.append(Row("(b) top 10 % in the signal block", name, float(found.top.mean()), variant))
            rows.append(_robust_accuracy("(b)", name, PGD(net, EPS_B, steps=10), data.images, data.labels, variant))
        maps = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(seed))
        energy = signal_null_energy(maps, data.signal).energy
        rows.append(Row("(b) gradient in the signal block", RANDOM, float(energy.mean()), variant))
    return rows


def diffroar(seed: int) -> list[Row]:
    """(c) DiffROAR of the gradients of both networks, and of a random order."""
    (images, labels), (held, truth) = _pictures(0), _pictures(1)
    chosen = _share(TRAIN, len(images), seed)
    first, second = (images[chosen], labels[chosen]), (held[:TEST], truth[:TEST])
    maps: dict[str, Any] = {}
    rows = []
    for name in MODELS:
        net = network(seed, 784, 128, 10)
        attack = PGD(net, EPS_C, EPS_C / 2, STEPS, "l2", keep="last") if name == "robust" else None
        train(net, *first, attack, EPOCHS_C, seed, lr=1e-3)
        maps[name] = tuple(input_gradient(net, x) for x, _ in (first, second))
        rows.append(_robust_accuracy("(c)", name, PGD(net, EPS_C, steps=10, norm="l2"), *second))
        rows.append(Row("(c) accuracy", name, float((net(second[0]).argmax(1) == second[1]).float().mean())))
    anew = from_scratch(partial(network, seed, 784, 128, 10), epochs=RETRAIN)
    result = DiffROAR(anew, FRACTIONS, seeds=[seed])(None, maps, first, second)
    for method in result.methods:
        for i, fraction in enumerate(FRACTIONS):
            setting = _kept(fraction)
            rows.append(Row("(c) DiffROAR", method, float(result.of(method)[i, 0]), setting))
            rows.append(Row("(c) retrained accuracy, top", method, float(result.top.of(method)[i, 0]), setting))
            rows.append(Row("(c) retrained accuracy, bottom", method, float(result.bottom.of(method)[i, 0]), setting))
    return rows


def _robust_accuracy(part: str, name: str, attack: PGD, images: Tensor, labels: Tensor, setting: str = "") -> Row:
    found = attack(images[:400], labels[:400])
    return Row(f"{part} accuracy under attack", name, 1 - float(found.success.float().mean()), setting)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        return synthetic(seed) + blocks(seed) + diffroar(seed)


def _kept(fraction: float) -> str:
    return f"{fraction:.0%} kept"


def draw(table: Table, figure: Figure) -> None:
    """Blocks with the gradients of both networks, and the three measurements."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 2.6])
    data, nets = block_networks(STUDY.seeds[0], VARIANTS[0])
    rows = [int(((data.labels == c) & (data.signal_on_top == (c == 0))).nonzero()[0]) for c in (0, 1)]
    axes = halves[0].subplots(2, 3)
    for line, row in zip(axes, rows, strict=True):
        image = data.images[row : row + 1]
        cells = [image[0, 0]] + [input_gradient(net, image)[0, 0] for net in nets.values()]
        for ax, cell, style in zip(line, cells, ("gray", "magma", "magma"), strict=True):
            ax.imshow(cell, cmap=style, vmin=0, vmax=float(cell.quantile(0.995)))
            bare(ax, frame=False)
    for ax, title in zip(axes[0], ("picture", *MODELS), strict=True):
        ax.set_title(title, fontsize=9)
    left, middle, right = halves[1].subplots(1, 3)
    _bars(left, table, "(a) signal coordinate", MATCHES, MODELS)
    left.set(title="(a) Where the signal is", ylabel="share of points", ylim=(0, 1.02))
    left.set_xticks((0, 1), ("largest\ngradient", "smallest\ngradient"))
    _bars(middle, table, "(b) gradient in the signal block", VARIANTS, MODELS)
    middle.axhline(0.5, color="C7", linestyle=":")
    middle.set(title="(b) In the signal block", ylabel="share of the gradient", ylim=(0, 1.02))
    middle.set_xticks((0, 1), ("random\nplace", "always\non top"))
    _bars(right, table, "(c) DiffROAR", [_kept(f) for f in FRACTIONS], [*MODELS, RANDOM])
    right.axhline(0, color="C7", linewidth=1)
    right.set(title="(c) DiffROAR", ylabel="top minus bottom accuracy", ylim=(-0.09, 0.26))
    right.legend(fontsize=7, loc="upper right", labelspacing=0.25)
    for ax in (left, middle, right):
        ax.title.set_fontsize(10)
        ax.grid(axis="x", visible=False)


def _bars(ax: Any, table: Table, metric: str, settings: Any, methods: Any) -> None:
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        values = [table.values(metric, method, setting) for setting in settings]
        place = np.arange(len(settings)) + width * (number - (len(methods) - 1) / 2)
        colour = "C7" if method == RANDOM else f"C{method.startswith('robust'):d}"
        means, errors = [v.mean() for v in values], [v.std() for v in values]
        ax.bar(place, means, 0.92 * width, yerr=errors, color=colour, label=method, error_kw={"lw": 1})
    ax.set_xticks(range(len(settings)), settings)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="fe995654d4fa")
