"""Do the examples whose losses swing most pull in opposite directions, and does their balance unsettle training?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.landscape import TwoFeatureToy, opposing_signals, top_eigenvalue
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.data.clothing import clothing, standardised

TRAIN, SIDE, WIDTH, RATE, STEPS, GROUP, WINDOW = 1000, 14, 64, 0.1, 1500, 10, 10
TOY_RATES, ALPHA, BETA = (0.05, 0.15, 0.3, 0.35), 10.0, 1.0
OPPOSING, RANDOM, NONE = "opposing groups", "random groups of the same classes", "no example left out"
COSINE, WITHIN, TURNS = "cosine of the groups' gradients", "cosine within a group", "correlation of the groups' changes"
SIZE = "size of that cosine"
SHARPNESS, EDGE, SPIKE = "sharpness", "sharpness times learning rate / 2", "loss after it has settled, at most"


def trained(seed: int) -> tuple[nn.Module, Tensor, Tensor, torch.optim.Optimizer]:
    """A perceptron by full-batch gradient descent."""
    pictures, labels = clothing("train", 8 * TRAIN, SIDE)
    rows = torch.from_numpy(np.random.default_rng([seed, 99]).permutation(len(labels))[:TRAIN])
    inputs, targets = standardised(pictures[rows]).flatten(1), labels[rows]
    torch.manual_seed(seed)
    layers = [nn.Linear(SIDE * SIDE, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        step(model, inputs, targets, optimizer)
    return model, inputs, targets, optimizer


def step(model: nn.Module, inputs: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step on all examples."""
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def of_the_same_classes(groups: list[Tensor], targets: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """As many random examples of each class as each group has: none of any group, and none twice."""
    left = rng.permutation(np.setdiff1d(np.arange(len(targets)), torch.cat(groups).numpy())).tolist()
    drawn = []
    for group in groups:
        places = (next(place for place, i in enumerate(left) if targets[i] == label) for label in targets[group])
        drawn.append(torch.tensor([left.pop(place) for place in places]))
    return drawn


def summed_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of a group's losses, in all weights."""
    loss = F.cross_entropy(model(inputs), targets, reduction="sum")
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, inputs, targets, optimizer = trained(seed)

    def sharpness(rows: Tensor) -> float:
        loss = lambda: F.cross_entropy(model(inputs[rows]), targets[rows], reduction="sum") / TRAIN  # noqa: E731
        return top_eigenvalue(loss, list(model.parameters()), iterations=200).value

    everything = torch.arange(TRAIN)
    edge = sharpness(everything) * RATE / 2
    signals = opposing_signals(
        model, inputs, targets, lambda: step(model, inputs, targets, optimizer), k=GROUP, steps=WINDOW
    )
    groups = [signals.rising, signals.falling]
    random = of_the_same_classes(groups, targets, np.random.default_rng([seed, 100]))
    up, down = (summed_gradient(model, inputs[group], targets[group]) for group in random)
    cosine = float(F.cosine_similarity(up, down, dim=0))
    rows = [
        Row(EDGE, NONE, edge),
        Row(COSINE, OPPOSING, signals.cosine),
        Row(COSINE, RANDOM, cosine),
        Row(SIZE, RANDOM, abs(cosine)),
        Row(WITHIN, OPPOSING, signals.within),
        Row(TURNS, OPPOSING, signals.correlation),
        Row(SHARPNESS, NONE, sharpness(everything)),
    ]
    changes = [signals.losses[WINDOW:].diff(dim=0)[:, group].mean(1) for group in random]
    rows.append(Row(TURNS, RANDOM, float(torch.corrcoef(torch.stack(changes))[0, 1])))
    for name, pair in ((OPPOSING, groups), (RANDOM, random)):
        left = torch.from_numpy(np.setdiff1d(everything.numpy(), torch.cat(pair).numpy()))
        rows.append(Row(SHARPNESS, name, sharpness(left)))
    for rate in TOY_RATES:
        path = TwoFeatureToy(ALPHA, beta=BETA, seed=seed).descend(rate)
        settled = int((path.loss < 0.05).nonzero()[0])
        rows.append(Row(SPIKE, f"rate {rate:g}", float(path.loss[settled:].max())))
        rows.append(Row(EDGE, f"rate {rate:g}", float(path.sharpness[-1]) * rate / 2))
    return rows


def _toy_spikes(table: Table) -> tuple[bool, str]:
    """Whether the loss rises again where 2 / rate < alpha |beta|, and only there, and ends in a valley wide enough."""
    largest = {rate: table.values(SPIKE, f"rate {rate:g}") for rate in TOY_RATES}
    fits = all(bool(((values > 0.05) == (2 / rate < ALPHA * BETA)).all()) for rate, values in largest.items())
    wide = all(table.values(EDGE, f"rate {rate:g}").max() <= 1 for rate in TOY_RATES)
    return fits and wide, ", ".join(f"{rate:g}: {values.max():.2f}" for rate, values in largest.items())


def draw(table: Table, figure: Figure) -> None:
    """The toy at a rate that spikes and one that does not, cosines of the groups, and sharpness without groups."""
    toy, *others = figure.subplots(1, 3)
    for rate in (TOY_RATES[0], TOY_RATES[2]):
        toy.plot(TwoFeatureToy(ALPHA, beta=BETA).descend(rate, 150).loss, label=f"2 / rate = {2 / rate:.2g}")
    toy.set(title=f"Toy: spikes where 2 / rate < {ALPHA * BETA:g}", xlabel="step", ylabel="loss", ylim=(-0.02, 0.75))
    toy.legend(fontsize=8)
    shown = ((COSINE, (OPPOSING, RANDOM), -0.5), (f"{SHARPNESS} without groups", (NONE, RANDOM, OPPOSING), 2 / RATE))
    for ax, (title, names, bound) in zip(others, shown, strict=True):
        dots(ax, table, title.removesuffix(" without groups"), names)
        ax.axhline(bound, color="0.3", linewidth=1, linestyle=":")
        ax.set(title=title.capitalize(), ylabel=f"dotted: {bound:g}", xticklabels=[name.split()[0] for name in names])


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 44), registered="e8a8a899e490")
