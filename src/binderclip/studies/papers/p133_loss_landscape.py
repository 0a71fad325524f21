"""Do filter-normalised curves of the loss ignore a rescaling of layers, and are small-batch minima wider in them?"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from binderclip.landscape import LossCurve, loss_line, random_direction
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study

WIDTH, TRAIN, EPOCHS, RATE, DIRECTIONS, FACTOR, RISE = 48, 1000, 40, 0.1, 5, 4.0, 1.0
BATCHES = (32, 256)
GRID = tuple(step / 8 - 2 for step in range(33))
FILTER, PLAIN = "filter-normalised", "not normalised"
CHANGE, BASIN, TEST = "largest relative change of the curve", "width of the curve", "test accuracy"
LOSS = "training loss"


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pictures = load_digits()
    return torch.tensor(pictures.data).float() / 16, torch.tensor(pictures.target).long()


def network(seed: int) -> nn.Sequential:
    """Two hidden ReLU layers."""
    torch.manual_seed(seed)
    layers = [nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)]
    return nn.Sequential(*layers)


def train(seed: int, batch: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network trained by SGD, and which pictures are training and test."""
    images, labels = _digits()
    g = torch.Generator().manual_seed(seed)
    own, test = torch.randperm(len(images), generator=g).split([TRAIN, len(images) - TRAIN])
    net = network(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    for _ in range(EPOCHS):
        for chosen in own[torch.randperm(TRAIN, generator=g)].split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return net.eval(), own, test


def rescaled(net: nn.Sequential) -> nn.Sequential:
    """The same function of other weights: the first layer is multiplied, and the second divided."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.mul_(FACTOR)  # type: ignore[operator, union-attr]
        twin[0].bias.mul_(FACTOR)  # type: ignore[operator, union-attr]
        twin[2].weight.div_(FACTOR)  # type: ignore[operator, union-attr]
    return twin


def curves(net: nn.Module, rows: Tensor, normalised: str) -> list[LossCurve]:
    """The training loss along random directions, the same draws for every network."""
    images, labels = _digits()
    directions = (
        random_direction(net, "filter" if normalised == FILTER else None, seed=seed) for seed in range(DIRECTIONS)
    )
    return [loss_line(net, [(images[rows], labels[rows])], each, alphas=GRID) for each in directions]


def relative_change(first: LossCurve, second: LossCurve) -> float:
    """Largest difference over the grid, as a share of the larger of both losses."""
    return float(((first.loss - second.loss).abs() / torch.maximum(first.loss, second.loss)).max())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows: list[Row] = []
    images, labels = _digits()
    for batch in BATCHES:
        net, own, test = train(seed, batch)
        name = f"batch {batch}"
        rows.append(Row(TEST, name, accuracy(net, images[test], labels[test])))
        for kind in (FILTER, PLAIN):
            lines = curves(net, own, kind)
            # the whole grid where the loss does not rise so far
            widths = [min(line.width(RISE), GRID[-1] - GRID[0]) for line in lines]
            rows.append(Row(BASIN, name, sum(widths) / len(widths), kind))
            if batch == BATCHES[0]:
                again = curves(rescaled(net), own, kind)
                changes = (relative_change(a, b) for a, b in zip(lines, again, strict=True))
                rows.append(Row(CHANGE, kind, max(changes)))
        rows.append(Row(LOSS, name, float(lines[0].loss[len(GRID) // 2])))
    return rows


def unchanged(table: Table) -> tuple[bool, str]:
    """Whether filter-normalised curves stay the same on every seed."""
    worst = float(table.values(CHANGE, FILTER).max())
    return worst < 1e-4, f"largest relative change {worst:.1e}"


def draw(table: Table, figure: Figure) -> None:
    """Curves of a network and its rescaled twin, and the widths of the basins."""
    net, own, _ = train(STUDY.seeds[0], BATCHES[0])
    axes = figure.subplots(1, 3)
    for ax, kind in zip(axes, (FILTER, PLAIN), strict=False):
        for model, name, style in ((net, "as trained", "-"), (rescaled(net), "rescaled", "--")):
            line = curves(model, own, kind)[0]
            ax.semilogy(line.alphas, line.loss, style, label=name)
        ax.set(title=kind, xlabel="step along the direction", ylabel="training loss")
        ax.legend()
    for number, values in enumerate(table.values(BASIN, f"batch {batch}", FILTER) for batch in BATCHES):
        axes[2].plot([number] * len(values), values, "o", markersize=4, alpha=0.5, color="C0")
        axes[2].plot([number - 0.2, number + 0.2], [values.mean()] * 2, color="C3")
    axes[2].set_xticks(range(len(BATCHES)), [f"batch {batch}" for batch in BATCHES])
    axes[2].set(title=f"Width, {FILTER}", ylabel="between losses that are higher by 1")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 24), registered="5dda3ca3e818")
