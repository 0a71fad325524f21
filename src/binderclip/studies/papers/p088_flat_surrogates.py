"""Do attacks carry over better from a surrogate trained in a flat region than from one that stopped early?"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.landscape import top_eigenvalue
from binderclip.optim import SAM
from binderclip.robust import TransferStudy
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, dots, random_rows, train_classifier
from binderclip.studies.protocols.data.clothing import clothing

SIDE, TRAIN, VALIDATION, TEST, EPOCHS, BATCH, CURVED = 14, 1500, 300, 400, 40, 64, 300
EPS, STEPS, RATE = 0.1, 20, 0.05
LAST, EARLY, AVERAGE, SMALL, LARGE = "SGD, last", "SGD, early stop", "SGD, averaged", "SAM, 0.05", "SAM, 0.2"
NAMES = (LAST, EARLY, AVERAGE, SMALL, LARGE)
SUCCESS, CURVATURE, OWN = "success on targets", "largest eigenvalue", "success on itself"


class SurrogatePictures(NamedTuple):
    """Fashion-MNIST of a seed: for surrogates, for targets, to stop early by, and to report on."""

    surrogate: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@cache
def _all() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return clothing("train", 12_000, SIDE), clothing("test", 4000, SIDE)


def pictures(seed: int) -> SurrogatePictures:
    """Drawn by the seed, none in two parts."""
    (x, y), (u, v) = _all()
    g = torch.Generator().manual_seed(seed)
    rows, held = torch.randperm(len(x), generator=g), torch.randperm(len(u), generator=g)
    parts = rows[:TRAIN], rows[TRAIN : 2 * TRAIN]
    kept = held[:VALIDATION], held[VALIDATION : VALIDATION + TEST]
    return SurrogatePictures(*[(x[part], y[part]) for part in parts], *[(u[part], v[part]) for part in kept])


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Rectified sum."""
        return torch.relu(x + self.inner(x))


def convolutional(width: int) -> nn.Sequential:
    """The surrogate's family: two convolutions of stride two and a hidden layer."""
    layers = [nn.Conv2d(1, width, 5, 2, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * width, 64), nn.ReLU(), nn.Linear(64, 10))


TARGETS = {
    "perceptron": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    ),
    "wider": lambda: convolutional(24),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), Residual(16), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(),
        nn.Linear(256, 10),
    ),
}  # fmt: skip


def decayed(progress: float) -> float:
    """The rate falls to a tenth at half the run and again at four fifths."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.8 else 0.01


class _Checkpoints:
    """A copy of the network after every epoch."""

    def __init__(self, net: nn.Module, every: int) -> None:
        self.net, self.every, self.kept = net, every, [copy.deepcopy(net)]
        self.kept.clear()

    def after_step(self, step: int) -> None:
        """Copies where an epoch ends."""
        if step % self.every == 0:
            self.kept.append(copy.deepcopy(self.net).eval())


def surrogate(seed: int, rho: float | None) -> list[nn.Module]:
    """The checkpoints of a run, first to last; all runs of a seed share first weights and batches."""
    images, labels = pictures(seed).surrogate
    torch.manual_seed(seed)
    net = convolutional(8)
    g = torch.Generator().manual_seed(seed)
    order = [rows for _ in range(EPOCHS) for rows in torch.randperm(TRAIN, generator=g).split(BATCH)]
    kept = _Checkpoints(net, len(order) // EPOCHS)
    options: dict[str, Any] = {"lr": RATE, "momentum": 0.9, "weight_decay": 5e-4}

    def step(rows: Tensor) -> Tensor:
        return F.cross_entropy(net(images[rows]), labels[rows])

    run: dict[str, Any] = {"steps": len(order), "schedule": decayed, "callbacks": [kept]}
    if rho is None:
        fit(step, net, order, optimizer=torch.optim.SGD(net.parameters(), **options), **run)
    else:
        sam = SAM(net.parameters(), torch.optim.SGD, rho=rho, **options)
        fit(sam.around(step), net, order, optimizer=sam, **run)
    return kept.kept


def averaged(nets: list[nn.Module]) -> nn.Module:
    """The mean of the weights of the last half of the checkpoints (SWA)."""
    found = copy.deepcopy(nets[-1])
    chosen = [dict(net.named_parameters()) for net in nets[len(nets) // 2 :]]
    with torch.no_grad():
        for name, value in found.named_parameters():
            value.copy_(torch.stack([each[name] for each in chosen]).mean(0))
    return found


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data = pictures(seed)
    targets = {
        name: train_classifier(make, *data.target, 1000 + seed, epochs=15, lr=3e-3) for name, make in TARGETS.items()
    }
    study = TransferStudy(targets=targets, eps=EPS, steps=STEPS)
    plain = surrogate(seed, None)
    early = study({str(place): net for place, net in enumerate(plain)}, *data.validation)
    nets = {
        LAST: plain[-1], EARLY: plain[int(early.best)], AVERAGE: averaged(plain),
        SMALL: surrogate(seed, 0.05)[-1], LARGE: surrogate(seed, 0.2)[-1],
    }  # fmt: skip
    found = study(nets, *data.test)
    x, y = (part[:CURVED] for part in data.surrogate)
    rows = [Row("accuracy", name, accuracy(net, *data.test)) for name, net in (targets | nets).items()]
    rows += [Row("epoch", str(place), float(value)) for place, value in enumerate(early.mean)]
    rows.append(Row("stopped after epoch", EARLY, float(early.best) + 1))
    for row, (name, net) in enumerate(nets.items()):
        rows += [
            Row(SUCCESS, name, float(found.mean[row])),
            Row(OWN, name, float(found.own[row])),
            Row(CURVATURE, name, _curvature(net, x, y)),
        ]
    return rows


def _curvature(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return top_eigenvalue(lambda: F.cross_entropy(net(x), y), list(net.parameters())).value


def draw(table: Table, figure: Figure) -> None:
    """Success by surrogate, along the run of SGD, and the curvature."""
    first, second, third = figure.subplots(1, 3)
    dots(first, table, SUCCESS, NAMES)
    first.set_title("success on other networks")
    epochs = [str(place) for place in range(EPOCHS)]
    values = [table.values("epoch", epoch) for epoch in epochs]
    means = torch.tensor([float(v.mean()) for v in values])
    spreads = torch.tensor([float(v.std()) for v in values])
    second.plot(range(1, EPOCHS + 1), means, color="C0")
    second.fill_between(range(1, EPOCHS + 1), means - spreads, means + spreads, alpha=0.2)
    second.set(title="along the run of SGD", xlabel="epoch", ylabel="success, validation pictures")
    dots(third, table, CURVATURE, NAMES)
    third.set(title="largest eigenvalue of the Hessian", yscale="log")
    for ax in (first, third):
        ax.tick_params(axis="x", rotation=30, labelsize=7)


def null(seed: int) -> list[Row]:
    """Random numbers under every name."""
    good = [Row(OWN, LAST, 1.0), *(Row("accuracy", name, 0.9) for name in TARGETS)]
    return [*random_rows(STUDY.criteria, seed), *good]


STUDY = declared_study(__name__, measure, null=null, seeds=range(8), draw=draw, registered="10d37dd392b9")
