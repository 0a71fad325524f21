"""Does a trained model learn more in the same further steps when its MLPs become experts that start as copies?"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from binderclip.losses import Cosine, RouterLosses, clip
from binderclip.models import MoEMLP
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training import contrastive_towers as towers

EXPERTS, TOP_K, STEPS, BATCH, RATE, ON = 8, 2, 200, 128, 1e-3, 3e-4
BEFORE, DENSE, UPCYCLED, SCRATCH = "dense, first half", "dense", "upcycled", "experts from scratch"
METHODS = (BEFORE, DENSE, UPCYCLED, SCRATCH)
ACCURACY, RECALL, SAME = (
    "zero-shot accuracy",
    "R@5, mean of both directions",
    "largest change of an embedding at the start",
)
ENTROPY = "entropy of the load, 1 is even"


def sparse(dense: towers.Towers, seed: int) -> towers.Towers:
    """A copy whose towers, each an MLP, are mixtures of copies of themselves."""
    other = copy.deepcopy(dense)
    generator = torch.Generator().manual_seed(seed)
    for side in ("image", "text"):
        setattr(other, side, MoEMLP(getattr(dense, side), EXPERTS, TOP_K, generator=generator))
    return other


def renewed(model: towers.Towers, seed: int) -> towers.Towers:
    """The same with every expert as a new tower starts."""
    for number in range(EXPERTS):
        fresh = towers.Towers(seed * 100 + number)
        for side in ("image", "text"):
            getattr(model, side).experts[number] = getattr(fresh, side)
    return model


def trained(model: towers.Towers, seed: int, *, steps: int, rate: float, routed: bool = False) -> towers.Towers:
    """Train in place; the batches come from the seed, the same for every model."""
    from binderclip.fit import fit

    pairs = towers.training()
    loss = clip(terms=[RouterLosses(model)] if routed else [])
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(pairs.captions), generator=generator)[:BATCH] for _ in range(steps)]

    def step(rows: torch.Tensor) -> torch.Tensor:
        return loss(model.image(pairs.pictures[rows]), model.text(pairs.words[rows])).total

    fit(step, [*model.train().parameters(), *loss.parameters()], batches, steps=steps, lr=rate, warmup=0.1)
    model.eval()
    return model


def figures(model: nn.Module, name: str) -> list[Row]:
    """Accuracy and recall on held-out clip art; of experts, how evenly they were used in the last batch."""
    assert isinstance(model, towers.Towers)
    rows = [Row(ACCURACY, name, towers.accuracy(model, Cosine())), Row(RECALL, name, towers.recall(model, Cosine()))]
    loads = [layer.last.entropy for layer in model.modules() if isinstance(layer, MoEMLP) and layer.last is not None]
    return [*rows, Row(ENTROPY, name, sum(loads) / len(loads))] if loads else rows


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    first = trained(towers.Towers(seed, unit=True), seed, steps=STEPS, rate=RATE)
    rows = figures(first, BEFORE)
    start = sparse(first, seed).eval()
    moved = [(a - b).abs().max() for a, b in zip(*(m.embed(towers.held_out()) for m in (first, start)), strict=True)]
    rows.append(Row(SAME, UPCYCLED, float(max(moved))))
    further = partial(trained, seed=seed + 5000, steps=STEPS, rate=ON)
    rows += figures(further(copy.deepcopy(first)), DENSE)
    rows += figures(further(sparse(first, seed), routed=True), UPCYCLED)
    new = renewed(sparse(first, seed), seed)
    return rows + figures(trained(new, seed, steps=2 * STEPS, rate=RATE, routed=True), SCRATCH)


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((ACCURACY, METHODS), (RECALL, METHODS), (ENTROPY, (UPCYCLED, SCRATCH))),
    seeds=range(10, 24),
    registered="3eb9b142005c",
)
