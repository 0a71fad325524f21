"""Is the smallest per-sample Lipschitz constant the end of the useful clip norms?"""

from __future__ import annotations

import numpy as np

from binderclip.privacy import AdaptiveClip, clip_norm_range, per_sample_lipschitz
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training.privacy_probe import best_accuracy, best_flat, chosen, digits

SHARES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
EPSILONS = (1.0, 4.0)
KINDS = ("unit rows", "scaled rows")
TUNED, MEDIAN = "tau up to G_min, by validation", "private median of norms"


def _method(share: float) -> str:
    return f"tau = {share:g} G_min"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for kind in KINDS:
        data = digits(seed, kind)
        upper = clip_norm_range(per_sample_lipschitz(data.train)).upper
        rows.append(Row("smallest constant G_min", "of the training rows", upper, kind))
        for epsilon in EPSILONS:
            found = {share: best_flat(data, share * upper, epsilon, seed=seed) for share in SHARES}
            others = {
                TUNED: chosen(run for share, run in found.items() if share <= 1),
                MEDIAN: best_accuracy(data, lambda: AdaptiveClip(1.0), epsilon, 1.0, seed=seed),
            }
            made = {**{_method(share): run for share, run in found.items()}, **others}
            rows += [Row("accuracy", name, run.test, f"{kind}, eps {epsilon:g}") for name, run in made.items()]
    return rows


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
                table.mean("accuracy", MEDIAN, setting), color=f"C{number}", linestyle=":",
                label=f"private median, epsilon {epsilon:g}",
            )  # fmt: skip
        ax.axvline(1, color="grey", linewidth=1)
        ax.annotate("G_min", (1, 0.12), xytext=(3, 0), textcoords="offset points", color="grey")
        ax.set_xscale("log")
        ax.set(title=f"Digits, {kind}", xlabel="clip norm / smallest Lipschitz constant", ylim=(0.1, 1))
    axes[0].set_ylabel("accuracy, best of five learning rates")
    axes[0].legend(loc="lower left")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="c2d44db7a08a")
