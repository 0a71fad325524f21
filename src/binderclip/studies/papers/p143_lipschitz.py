"""Is the smallest per-sample Lipschitz constant the end of the useful clip norms?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binderclip.privacy import AdaptiveClip, clip_norm_range, per_sample_lipschitz
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import combined, value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.privacy_probe import best_accuracy, best_flat, digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
EPSILONS = (1.0, 4.0)
KINDS = ("unit rows", "scaled rows")
SETTINGS = tuple(f"{kind}, eps {epsilon:g}" for kind in KINDS for epsilon in EPSILONS)


def _method(share: float) -> str:
    return f"tau = {share:g} G_min"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    with one_thread():
        for kind in KINDS:
            data = digits(seed, kind)
            upper = clip_norm_range(per_sample_lipschitz(data.train)).upper
            rows.append(Row("smallest constant G_min", "of the training rows", upper, kind))
            for epsilon in EPSILONS:
                setting = f"{kind}, eps {epsilon:g}"
                for share in SHARES:
                    value = best_flat(data, share * upper, epsilon, seed=seed)
                    rows.append(Row("accuracy", _method(share), value, setting))
                adaptive = best_accuracy(data, lambda: AdaptiveClip(1.0), epsilon, 1.0, seed=seed)
                rows.append(Row("accuracy", "private median of norms", adaptive, setting))
    return rows


def _means(table: Table, setting: str) -> list[float]:
    return [table.mean("accuracy", _method(share), setting) for share in SHARES]


def _loss_at(table: Table, share: float, points: float) -> tuple[bool, str]:
    place = SHARES.index(share)
    gaps = [100 * (max(_means(table, s)) - _means(table, s)[place]) for s in SETTINGS]
    return min(gaps) >= points, "points lost " + ", ".join(f"{gap:.1f}" for gap in gaps)


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against the clip norm in units of G_min."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, kind in zip(axes, KINDS, strict=True):
        for number, epsilon in enumerate(EPSILONS):
            setting = f"{kind}, eps {epsilon:g}"
            values = np.stack([table.values("accuracy", _method(share), setting) for share in SHARES])
            ax.plot(SHARES, values.mean(1), marker="o", markersize=4, color=f"C{number}", label=f"epsilon {epsilon:g}")
            ax.fill_between(SHARES, values.min(1), values.max(1), color=f"C{number}", alpha=0.2)
            ax.axhline(
                table.mean("accuracy", "private median of norms", setting), color=f"C{number}", linestyle=":",
                label=f"private median, epsilon {epsilon:g}",
            )  # fmt: skip
        ax.axvline(1, color="grey", linewidth=1)
        ax.annotate("G_min", (1, 0.12), xytext=(3, 0), textcoords="offset points", color="grey")
        ax.set_xscale("log")
        ax.set(title=f"Digits, {kind}", xlabel="clip norm / smallest Lipschitz constant", ylim=(0.1, 1))
    axes[0].set_ylabel("accuracy, best of five learning rates")
    axes[0].legend(loc="lower left")


STUDY = Study(
    paper="p143",
    claim="Per-sample Lipschitz constants bound the useful clip norms: look for tau below the smallest of them; beyond "
    "it accuracy falls, because the noise grows with tau and nothing is gained.",
    protocol="A softmax head on 1,400 of scikit-learn's digits (rows of unit length; the same rows times exp(u), u "
    "uniform in [-1, 1]), DP-SGD with 200 Poisson batches at rate .1, delta 1e-5, noise from the Renyi accountant; "
    "clip norms from .01 to 10 times G_min, each at the best of five learning rates a / tau.",
    baseline="The other clip norms, and the private median of the norms (Andrew et al.) with the same five rates.",
    lower_bound="Guessing: 0.10.",
    upper_bound="",
    measure=measure,
    criteria=(
        *(
            Criterion.paired(
                f"{setting}: the best clip norm up to G_min beats the best above",
                combined("most", *(value_of("accuracy", _method(s), setting) for s in SHARES if s <= 1)),
                combined("most", *(value_of("accuracy", _method(s), setting) for s in SHARES if s > 1)),
                essential=True,
            )
            for setting in SETTINGS
        ),
        Criterion("3 G_min costs at least one point everywhere", lambda t: _loss_at(t, 3.0, 1.0)),
        *(
            Criterion.paired(
                f"{setting}: 10 G_min costs at least ten points",
                combined("most", *(value_of("accuracy", _method(s), setting) for s in SHARES)),
                value_of("accuracy", _method(10.0), setting),
                margin=0.1,
                essential=True,
            )
            for setting in SETTINGS
        ),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "8 x 8 digits instead of features of pretrained networks",
        "choosing the learning rate by test accuracy, for every clip norm alike and without counting it as a cost",
    ),
)
