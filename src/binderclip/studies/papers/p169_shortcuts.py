"""Which of four cues that tell the class equally well does a network use, and are those cues simple and minima flat?"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import CueGrid, CueSet
from binderclip.evaluate import WCSTML, cue_complexity
from binderclip.fit import fit
from binderclip.landscape import solution_abundance
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, dots, random_rows

GRID = CueGrid()
CUES, K = GRID.cues, GRID.values
SOLVED = ("colour", "scale", "orientation")
EACH, APART, CODED = 200, 800, 256
STEPS, BATCH, RATE, FEW, LONG = 120, 128, 1e-3, 60, 250
RADIUS, DRAWS = 0.5, 20
MLP, CNN = "two layers", "convolutions"
USED, BITS, LOSS, ROOM = "agreement with the cue", "code length (bits)", "loss after noise", "share that stays solved"
DIAGONAL, ORDER = "accuracy where cues agree", "order of cues"
FOLLOWED, LINEAR = "agreement and code length", "agreement and linear error"


def network(kind: str, seed: int) -> nn.Sequential:
    """A small network for 32 x 32 pixels, new."""
    torch.manual_seed(seed)
    if kind == MLP:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                             nn.Linear(128, K))  # fmt: skip
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, K))


def learn(net: nn.Module, images: Tensor, labels: Tensor, seed: int = 0, steps: int = STEPS) -> nn.Module:
    """Train by Adam; batches come from the seed."""
    generator, size = torch.Generator().manual_seed(seed), min(BATCH, len(labels))
    batches = [torch.randint(len(labels), (size,), generator=generator) for _ in range(steps)]
    fit(
        lambda rows: F.cross_entropy(net(images[rows]), labels[rows]),
        net,
        batches,
        steps=steps,
        optimizer="adam",
        lr=RATE,
    )
    return net.eval()


@cache
def test() -> WCSTML:
    """Off-diagonal pictures that no training sees."""
    return WCSTML(GRID, n=900)


def solved_by(cue: str, together: CueSet, apart: CueSet, seed: int) -> nn.Module:
    """A network that has to use one cue: it also learns pictures where the cues disagree, labelled by that one."""
    images = torch.cat([together.images, apart.images])
    return learn(network(CNN, seed), images, torch.cat([together.labels(cue), apart.labels(cue)]), seed, LONG)


def linear_error(apart: CueSet, cue: str) -> float:
    """Of a linear classifier of pixels on held-out pictures: the cheap guess of how hard a cue is."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, K))
    cut = len(apart.images) // 2
    learn(net, apart.images[:cut], apart.labels(cue)[:cut])
    with torch.no_grad():
        return float((net(apart.images[cut:]).argmax(1) != apart.labels(cue)[cut:]).double().mean())


def diagonal_loss(net: nn.Module, together: CueSet) -> Tensor:
    """Where all cues agree, so that every solution is measured on the same loss."""
    return F.cross_entropy(net(together.images), together.cues[:, 0])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    together, apart = GRID.diagonal(EACH, seed), GRID.off_diagonal(APART, seed)
    coded = GRID.off_diagonal(CODED, seed + 500)
    rows, used = [], {}
    for kind in (MLP, CNN):
        found = test()(learn(network(kind, seed), together.images, together.labels("colour"), seed))
        rows += [Row(USED, cue, value, kind) for cue, value in found.by_cue.items()]
        rows.append(Row(DIAGONAL, kind, found.diagonal))
        used[kind] = found.by_cue
    bits, errors = {}, {}
    for cue in SOLVED:
        net = solved_by(cue, together, apart, seed)
        rows.append(Row(USED, cue, test()(net).by_cue[cue], "made to use it"))
        loss = partial(diagonal_loss, net, together)
        noisy = solution_abundance(loss, dict(net.named_parameters()), radii=(RADIUS,), draws=DRAWS, seed=seed)
        rows += [Row(LOSS, cue, float(noisy.mean_loss[0])), Row(ROOM, cue, float(noisy.share[0]))]
    for cue in CUES:
        make, train = partial(network, MLP, seed), partial(learn, seed=seed, steps=FEW)
        bits[cue] = cue_complexity(make, coded.images, coded.labels(cue), train, classes=K)
        errors[cue] = linear_error(apart, cue)
        rows.append(Row(BITS, cue, bits[cue]))
    mean = [np.mean([used[kind][cue] for kind in (MLP, CNN)]) for cue in CUES]
    rows.append(Row(ORDER, FOLLOWED, float(spearmanr(mean, [bits[cue] for cue in CUES]).statistic)))
    rows.append(Row(ORDER, LINEAR, float(spearmanr(mean, [errors[cue] for cue in CUES]).statistic)))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Examples; which cue is used; how long each is to tell; how flat the solutions of each are."""
    shown, first, second, third = figure.subplots(1, 4, width_ratios=(0.8, 1.4, 1, 1))
    grid = GRID.off_diagonal(9, 4).images.reshape(3, 3, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(96, 96, 3)
    shown.imshow(grid.numpy())
    bare(shown)
    shown.set_title("cues apart", fontsize=9)
    for number, kind in enumerate((MLP, CNN, "made to use it")):
        place = np.arange(len(CUES)) + 0.26 * (number - 1)
        values = [table.mean(USED, cue, kind) if table.has(USED, cue, kind) else 0.0 for cue in CUES]
        first.bar(place, values, 0.24, label=kind, color=f"C{number}")
    first.axhline(1 / K, color="grey", linestyle=":")
    first.set_xticks(range(len(CUES)), CUES, rotation=30, fontsize=8)
    first.set_title(USED, fontsize=9)
    first.legend(fontsize=6)
    for ax, metric, cues in ((second, BITS, CUES), (third, LOSS, SOLVED)):
        dots(ax, table, metric, cues)
        ax.set_xticks(range(len(cues)), cues, rotation=30, fontsize=8)
        ax.set_title(metric, fontsize=9)
        ax.set_ylim(0)


def null(seed: int) -> list[Row]:
    """Random numbers in the place of everything that is compared."""
    return [*random_rows(STUDY.criteria, seed), *(Row(DIAGONAL, kind, 1.0) for kind in (MLP, CNN))]


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(50, 66), null=null, registered="980f8e4817af")
