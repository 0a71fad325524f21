"""Does a network learn in fewer steps when its first layer's outputs are trained and not its weights?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.optim import TrAct, tract_weight_grad
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, one_thread, random_rows

TRACT, PLAIN, WHITE = "TrAct", "plain", "plain, every pixel standardised"
RATES = {TRACT: 0.1, PLAIN: 0.1, WHITE: 0.1}
"""Learning rates: for each method the best of 0.01, 0.03, 0.1 and 0.3 on the pilot's seeds."""
STEPS, BATCH, TEST, EVERY, WIDTH, LAM, GOAL = 150, 64, 597, 5, 64, 0.1, 0.94
SHOWN = (25, 50, 100, 150)
REACHED, ACCURACY, ERROR = "steps to the accuracy", "test accuracy", "largest error of an identity"
RIDGE, ORDINARY = "ridge regression of the outputs' step", "ordinary gradient at a large lam"


@lru_cache(maxsize=1)
def _digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels of mean 0 and deviation 1, of all together or each of its own, and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    each = (pixels - pixels.mean(0)) / pixels.std(0).clamp_min(1e-3)
    whole = (pixels - pixels.mean()) / pixels.std()
    return {TRACT: (whole, labels), PLAIN: (whole, labels), WHITE: (each, labels)}


def curve(method: str, seed: int, rate: float) -> list[float]:
    """Test accuracy after every `EVERY` steps."""
    x, y = _digits()[method]
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=g)
    train, test = order[TEST:], order[:TEST]
    batches = [train[torch.randint(len(train), (BATCH,), generator=g)] for _ in range(STEPS)]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    tract = TrAct(net, lam=LAM) if method == TRACT else None
    found: list[float] = []

    class Watch:
        def after_step(self, step: int) -> None:
            if step % EVERY == 0:
                found.append(accuracy(net, x[test], y[test], batch=TEST))

    fit(
        lambda rows: F.cross_entropy(net(x[rows]), y[rows]), net, batches, steps=STEPS, lr=rate, schedule="constant",
        optimizer={"name": "sgd", "momentum": 0.9}, grad_transform=tract, callbacks=[Watch()],
    )  # fmt: skip
    return found


def identities(seed: int) -> list[Row]:
    """How far the gradient is from the regression that defines it, and from the ordinary one in the limit; float64."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    x, d = (torch.randn(40, width, generator=g, dtype=torch.float64) for width in (12, 5))
    # argmin of ||X V^T - b D||^2 + b lam ||V||^2, as least squares with rows for the penalty
    a = np.vstack([x.numpy(), (40 * LAM) ** 0.5 * np.eye(12)])
    b = np.vstack([40 * d.numpy(), np.zeros((12, 5))])
    ridge = np.linalg.lstsq(a, b, rcond=None)[0].T
    rows.append(Row(ERROR, RIDGE, float(np.abs(tract_weight_grad(x, d, LAM).numpy() - ridge).max())))
    large = 1e12 * tract_weight_grad(x, d, 1e12) - d.T @ x
    return [*rows, Row(ERROR, ORDINARY, float(large.abs().max()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = identities(seed)
    with one_thread():
        curves = {method: curve(method, seed, rate) for method, rate in RATES.items()}
    for method, found in curves.items():
        first = next((k for k, value in enumerate(found, 1) if value >= GOAL), len(found) + 1)
        rows.append(Row(REACHED, method, first * EVERY))
        rows += [Row(ACCURACY, method, found[step // EVERY - 1], f"after {step} steps") for step in SHOWN]
    return rows


def _holds(table: Table) -> tuple[bool, str]:
    worst = {name: float(table.values(ERROR, name).max()) for name in (RIDGE, ORDINARY)}
    return max(worst.values()) < 1e-9, "; ".join(f"{name}: {value:.0e}" for name, value in worst.items())


def null(seed: int) -> list[Row]:
    """Random steps and accuracies, and identities that miss."""
    return [Row(ERROR, n, 0.5) for n in (RIDGE, ORDINARY)] + random_rows(STUDY.criteria, seed, 0.2, 1.0)


def draw(table: Table, figure: Figure) -> None:
    """Accuracy by step, and the steps to the one asked for."""
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(RATES):
        means = [table.mean(ACCURACY, method, f"after {step} steps") for step in SHOWN]
        left.plot(SHOWN, means, "o-", markersize=4, color=f"C{number}", label=method)
        values: Any = table.values(REACHED, method)
        right.plot([number] * len(values), values, "o", markersize=4, alpha=0.4, color=f"C{number}")
        right.plot([number - 0.2, number + 0.2], [values.mean()] * 2, color="C3")
    left.set(xlabel="steps", ylabel=ACCURACY)
    left.legend(fontsize=8)
    right.set_xticks(range(len(RATES)), ["TrAct", "plain", "pixels\nstandardised"], fontsize=8)
    right.set(ylabel=REACHED, ylim=(0, None))


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 46), null=null, registered="82a92ed7c88c")
