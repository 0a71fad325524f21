"""Does a policy that learns during private training choose clip norms and noise better than chance?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from binderclip.privacy import (
    Controller,
    GroupClip,
    Ledger,
    PoissonSampler,
    PrivateOptimizer,
    RLDPController,
    SACPolicy,
    noise_multiplier_for,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study

PRIVATE, PUBLIC = 1100, 300
RATE, STEPS, ACTIONS, DELTA, LR = 0.1, 240, 60, 1e-5, 5e-3
EPSILONS = (2.0, 8.0)
CONSTANTS = (0.2, 1.0, 5.0)
"""Clip norm of each of the two layers; controllers start from the middle one."""
ORDERS = (*(float(order) for order in range(2, 25)), 28.0, 32.0, 40.0, 48.0, 63.0)
BASELINES = tuple(f"constant C = {c:g}" for c in CONSTANTS)
WHOLE = "constant C = 1, whole budget"
METHODS = ("RLDP", "random actions", *BASELINES, WHOLE)
"""The first one is trained first: the constants may spend what it has spent."""


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1], 8 x 8 flat, and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One a sample."""
    return cross_entropy(model(x), y, reduction="none")


def train(method: str, epsilon: float, seed: int) -> tuple[float, float, list[float]]:
    """Test accuracy, epsilon spent, and sigma at each action, of one run."""
    x, y = digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    private, public, test = order[:PRIVATE], order[PRIVATE : PRIVATE + PUBLIC], order[PRIVATE + PUBLIC :]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    ledger = Ledger(orders=ORDERS)
    sigma = noise_multiplier_for(epsilon, DELTA, RATE, STEPS, spent=ledger)
    start = CONSTANTS[BASELINES.index(method)] if method in BASELINES else CONSTANTS[1]
    rule = GroupClip({"0.*": start, "2.*": start})

    def public_loss() -> float:
        with torch.no_grad():
            return float(losses(model, x[public], y[public]).mean())

    controller = _controller(method, rule, public_loss, epsilon, sigma, seed)
    optimizer = PrivateOptimizer(
        torch.optim.Adam(model.parameters(), lr=LR), rule, sigma, RATE * PRIVATE, model=model, sample_rate=RATE,
        controller=controller, ledger=ledger, generator=torch.Generator().manual_seed(seed + 1),
    )  # fmt: skip
    sampler = PoissonSampler(PRIVATE, RATE, steps=STEPS, seed=seed)
    for number in range(STEPS):
        rows = private[sampler.batch(number)]
        optimizer.accumulate(losses, x[rows], y[rows])
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = float((model(x[test]).argmax(1) == y[test]).float().mean())
    history = controller.history if isinstance(controller, RLDPController) else []
    return right, ledger.epsilon(DELTA), [decision.noise_multiplier for decision in history]


def _controller(
    method: str, rule: GroupClip, public_loss: Callable[[], float], epsilon: float, sigma: float, seed: int
) -> Controller | None:
    if method not in ("random actions", "RLDP"):
        return None
    # A policy that never leaves its warm-up acts at random, with the same projection onto the budget.
    policy = SACPolicy(11, 3, warmup=10**9 if method == "random actions" else 5, seed=seed)
    return RLDPController(
        rule, public_loss, epsilon=epsilon, delta=DELTA, steps=STEPS, interval=STEPS // ACTIONS, policy=policy,
        noise_multiplier=sigma, updates=2,
    )  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for epsilon in EPSILONS:
        budget = epsilon
        for method in METHODS:
            right, spent, sigmas = train(method, budget if method in BASELINES else epsilon, seed)
            budget = spent if method == "RLDP" else budget
            setting = f"epsilon {epsilon:g}"
            rows += [Row("accuracy", method, right, setting), Row("epsilon spent", method, spent, setting)]
            if sigmas:
                rows += [Row("last sigma / first", method, sigmas[-1] / sigmas[0], setting)]
    return rows


def _within_budget(table: Table) -> tuple[bool, str]:
    shares = [table.values("epsilon spent", m, f"epsilon {e:g}").max() / e for e in EPSILONS for m in METHODS]
    return max(shares) <= 1, f"largest share of the budget {max(shares):.4f}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy at both budgets, and what each run spent."""
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    places = np.arange(len(METHODS))
    colours = ["C0", "C2", *["C7"] * len(BASELINES), "C1"]
    for ax, epsilon in zip(axes, EPSILONS, strict=False):
        values = [table.values("accuracy", m, f"epsilon {epsilon:g}") for m in METHODS]
        ax.barh(places, [v.mean() for v in values], xerr=[v.std() for v in values], color=colours, height=0.7)
        for place, each in zip(places, values, strict=True):
            ax.plot(each, [place] * len(each), "k.", markersize=4)
        low = min(v.min() for v in values)
        ax.set(title=f"epsilon {epsilon:g}", xlabel="test accuracy", xlim=(max(0, low - 0.1), 1))
        ax.set_yticks(places, METHODS if epsilon == EPSILONS[0] else [""] * len(METHODS))
        ax.invert_yaxis()
    for number, epsilon in enumerate(EPSILONS):
        shares = [table.values("epsilon spent", m, f"epsilon {epsilon:g}").mean() / epsilon for m in METHODS]
        axes[2].plot(shares, places, "os"[number], label=f"budget {epsilon:g}", color=f"C{number + 3}", alpha=0.8)
    axes[2].axvline(1, color="black", linewidth=1)
    axes[2].set_yticks(places, [""] * len(METHODS))
    axes[2].invert_yaxis()
    axes[2].set(title="Share of epsilon spent", xlabel="spent / budget")
    axes[2].legend(loc="upper left")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 50), null=None, registered="a21ba0bf26ea")
