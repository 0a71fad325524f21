"""Does pruning in rounds end more accurate, sharper and less tied to classes than pruning once?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import entropy, norm
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress import GradualPruner, OneShotPruner, SensitivityRegularizer, SparseTraining
from binderclip.fit import fit
from binderclip.landscape import Neighbourhood, psp_entropy, worst_case_sharpness
from binderclip.studies.harness import Row, Table, accuracy, declared_study
from binderclip.studies.protocols.training.spike import digits, perceptron

TRAIN, STEPS, BATCH, RATE, L2, SENSITIVITY = 1100, 1500, 32, 0.1, 5e-4, 1e-4
EVERY, PATIENCE, TOLERANCE, TARGET, RADIUS = 20, 2, 0.2, 0.95, 5e-4
QUANTILES, MEANS = 20_001, tuple(np.linspace(-2, 2, 9).tolist())
LAYERS = ["0", "2", "4"]
ACCURACY, ENTROPY, SHARPNESS = "test accuracy", "PSP-entropy of test pictures (bits)", "sharpness"
ZEROS, ERROR = "share of zeros", "error of the entropy (bits)"
DENSE, ONCE, GRADUAL, RIVAL = "dense", "one-shot", "gradual", "one-shot, sensitivity"


def entropy_error() -> float:
    """Largest difference to the closed form, of neurons whose potentials are normal in each class."""
    noise = norm.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)
    # A neuron for each shift; classes are at it and at its negative half.
    shifts = np.stack([np.array(MEANS), -0.5 * np.array(MEANS)])  # (classes, neurons)
    potentials = torch.from_numpy((shifts[:, None] + noise[None, :, None]).reshape(-1, len(MEANS)))
    found = psp_entropy(potentials, torch.arange(2).repeat_interleave(QUANTILES)).entropy
    on = norm.cdf(shifts)
    expected = entropy(np.stack([on, 1 - on]), base=2).sum(0)
    return float(np.abs(found.numpy() - expected).max())


def train(method: str, seed: int, amount: float = 0.0) -> tuple[nn.Sequential, float]:
    """The trained network, its pruned weights still masked, and its share of zeros."""
    x, y, _, _ = digits()
    net = perceptron(seed)
    held = partial(_loss_of, net, (x[TRAIN:], y[TRAIN:]))
    sparse: SparseTraining | None = None
    if method == GRADUAL:
        options: dict[str, Any] = {"every": EVERY, "patience": PATIENCE, "tolerance": TOLERANCE, "target": TARGET}
        sparse = GradualPruner(net, lambda: float(held()), **options, layers=LAYERS)
    elif method in (ONCE, RIVAL):
        sparse = OneShotPruner(net, amount, layers=LAYERS)
    sensitive = method in (GRADUAL, RIVAL)
    callbacks = ([] if sparse is None else [sparse]) + ([SensitivityRegularizer(net, SENSITIVITY)] if sensitive else [])
    rows = torch.randint(TRAIN, (STEPS, BATCH), generator=torch.Generator().manual_seed(seed))
    fit(
        partial(_loss_of, net), net, [(x[row], y[row]) for row in rows], steps=STEPS, lr=RATE, schedule="constant",
        optimizer={"name": "sgd", "momentum": 0.0, "weight_decay": 0.0 if sensitive else L2}, callbacks=callbacks,
    )  # fmt: skip
    return net.eval(), 0.0 if sparse is None else sparse.report().prunable


def _loss_of(net: nn.Sequential, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def measure(seed: int) -> list[Row]:
    """All rows of one seed; that of the closed form is the same in each."""
    x, y, test_x, test_y = digits()
    rows = [Row(ERROR, "psp_entropy", entropy_error())]
    amount = 0.0
    for method in (GRADUAL, DENSE, ONCE, RIVAL):
        net, zeros = train(method, seed, amount)
        amount = zeros if method == GRADUAL else amount
        # The weights are masked still, so that what is pruned cannot move.
        box = Neighbourhood(net, RADIUS, norm="linf", scale="box")
        sharp = worst_case_sharpness(partial(_loss_of, net), [(x[:TRAIN], y[:TRAIN])], box)
        rows += [
            Row(ACCURACY, method, accuracy(net, test_x, test_y)),
            Row(ZEROS, method, zeros),
            Row(ENTROPY, method, psp_entropy(net[:3](test_x).detach(), test_y).mean),
            Row(SHARPNESS, method, float((100 * sharp.values / (1 + sharp.losses)).mean())),
        ]
    return rows


def close(table: Table) -> tuple[bool, str]:
    """Whether entropies are those of the closed form."""
    most = float(table.values(ERROR, "psp_entropy").max())
    return most < 0.001, f"within {most:.2g} bits"


def random_numbers(seed: int) -> list[Row]:
    """The null: everything at random."""
    draw = np.random.default_rng([seed, 182]).uniform
    metrics = (ACCURACY, ENTROPY, SHARPNESS, ZEROS)
    rows = [Row(metric, method, draw()) for metric in metrics for method in (GRADUAL, ONCE, RIVAL)]
    return [*rows, Row(ERROR, "psp_entropy", draw())]


STUDY = declared_study(__name__, measure, null=random_numbers, seeds=range(30, 54), registered="b5c615b9e7b7")
