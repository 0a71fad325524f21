"""Does error feedback remove the bias of per-sample clipping, and does that pay under noise?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.privacy import DiceFeedback, FlatClip
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training.privacy_probe import best_flat, chosen, digits

SHARES = (0.1, 0.3, 1.0, 10.0)
NORMS = (0.01, 0.1, 1.0, 10.0)
EPSILON = 4.0
METHODS = ("DP-SGD", "DiceSGD")
DISTANCE, ACCURACY = "distance to the optimum, no noise", "accuracy, epsilon 4"
CHOSEN = "accuracy, epsilon 4, C by validation"


def _regression(seed: int) -> tuple[Float[Tensor, "256 9"], Float[Tensor, "256"]]:
    """Least squares with an intercept, whose residuals are shifted on 50 of the 256 samples."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(256, 8, generator=generator, dtype=torch.float64)
    x = torch.cat([features, torch.ones(256, 1, dtype=torch.float64)], dim=1)
    y = x @ torch.randn(9, generator=generator, dtype=torch.float64)
    y = y + 0.3 * torch.randn(256, generator=generator, dtype=torch.float64)
    y[:50] += 8
    return x, y


def _distance(x: Tensor, y: Tensor, norm: float, dice: bool, steps: int = 5000, lr: float = 0.05) -> float:
    """Distance to the least-squares solution of full-batch clipped descent from zero, without noise."""
    exact = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    rule, feedback = FlatClip(norm), DiceFeedback(norm) if dice else None
    lengths, weight = torch.linalg.vector_norm(x, dim=1), torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        error = x @ weight - y
        scales = rule.scales(error.abs() * lengths)
        total = (error * scales) @ x
        if feedback is not None:
            total = feedback.combine([total], [error @ x], len(x))[0]
        weight = weight - lr * total / len(x)
    return float(torch.linalg.vector_norm(weight - exact))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    x, y = _regression(seed)
    median = float((y.abs() * torch.linalg.vector_norm(x, dim=1)).median())
    data = digits(seed)
    for method in METHODS:
        dice = method == "DiceSGD"
        rows += [Row(DISTANCE, method, _distance(x, y, share * median, dice), _share(share)) for share in SHARES]
        runs = {norm: best_flat(data, norm, EPSILON, C2=norm if dice else None, seed=seed) for norm in NORMS}
        rows += [Row(ACCURACY, method, run.test, _norm(norm)) for norm, run in runs.items()]
        rows.append(Row(CHOSEN, method, chosen(runs.values()).test))
    return rows


def _share(share: float) -> str:
    return f"C {share:g} of the median norm"


def _norm(norm: float) -> str:
    return f"C {norm:g}"


def _distances(table: Table, method: str) -> list[float]:
    return [float(table.values(DISTANCE, method, _share(share)).max()) for share in SHARES]


def _unbiased(table: Table) -> tuple[bool, str]:
    worst = max(_distances(table, "DiceSGD"))
    return worst < 1e-6, f"largest distance {worst:.1e}"


def draw(table: Table, figure: Figure) -> None:
    """Distance to the optimum without noise, and accuracy with it, against C."""
    axes = figure.subplots(1, 2)
    for number, method in enumerate(METHODS):
        # exact solutions are drawn at the rounding error
        distances = np.maximum(_distances(table, method), 1e-16)
        axes[0].plot(SHARES, distances, marker="o", markersize=4, color=f"C{number}", label=method)
        axes[1].plot(
            NORMS, [table.mean(ACCURACY, method, _norm(norm)) for norm in NORMS], marker="o", markersize=4,
            color=f"C{number}", label=method,
        )  # fmt: skip
    axes[0].set(
        title="Least squares, no noise", xlabel="C / median gradient norm", ylabel="distance to the optimum",
        xscale="log", yscale="log",
    )  # fmt: skip
    axes[1].set(
        title="Digits, epsilon 4", xlabel="C", ylabel="accuracy, best of five learning rates", xscale="log", ylim=(0, 1)
    )
    axes[0].legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=None, registered="549ed025492c")
