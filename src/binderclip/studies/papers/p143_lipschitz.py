"""Is the smallest per-sample Lipschitz constant the end of the useful clip norms?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binderclip.privacy import AdaptiveClip, clip_norm_range, per_sample_lipschitz
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import Quantity, value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.training.privacy_probe import best_accuracy, best_flat, chosen, digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
EPSILONS = (1.0, 4.0)
KINDS = ("unit rows", "scaled rows")
TUNED, MEDIAN = "tau up to G_min, by validation", "private median of norms"
PILOT = (0, 1, 2)
SETTINGS = tuple(f"{kind}, eps {epsilon:g}" for kind in KINDS for epsilon in EPSILONS)


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


def _accuracy(share: float, *settings: str) -> Quantity:
    return value_of("accuracy", _method(share), *settings)


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


STUDY = Study(
    paper="p143",
    claim="Per-sample Lipschitz constants bound the useful clip norms: look for tau below the smallest of them; beyond "
    "it accuracy falls, because the noise grows with tau and nothing is gained.",
    protocol="A softmax head on 1,200 of scikit-learn's digits (rows of unit length; the same rows times exp(u), u "
    "uniform in [-1, 1]), DP-SGD with 200 Poisson batches at rate .1, delta 1e-5, noise from the Renyi accountant; "
    "clip norms from .03 to 10 times G_min, each at the one of five learning rates a / tau that is best on 200 "
    "validation rows; 397 rows are tested. The spreads are those of the first measurement, which chose the rates by "
    "test accuracy.",
    baseline="The other clip norms, and the private median of the norms (Andrew et al.) with the same five rates.",
    lower_bound="Guessing: 0.10.",
    upper_bound="",
    measure=measure,
    criteria=(
        *(
            Criterion.paired(
                f"{setting}: tau = G_min is more accurate than tau = 3 G_min",
                _accuracy(1.0, setting),
                _accuracy(3.0, setting),
                expected=0.15,
                pilot=Pilot(spread, PILOT),
                essential=True,
            )
            for setting, spread in zip(SETTINGS, (0.092, 0.0231, 0.0229, 0.0182), strict=True)
        ),
        *(
            Criterion.paired(
                f"{setting}: 10 G_min costs at least ten points against G_min",
                _accuracy(1.0, setting),
                _accuracy(10.0, setting),
                margin=0.1,
                expected=0.2,
                pilot=Pilot(spread, PILOT),
                essential=True,
            )
            for setting, spread in zip(SETTINGS, (0.0524, 0.0789, 0.0388, 0.0524), strict=True)
        ),
        Criterion.paired(
            "a tenth of G_min is no more than two points below G_min, mean over settings: smaller is safe",
            _accuracy(0.1, *SETTINGS),
            _accuracy(1.0, *SETTINGS),
            margin=-0.02,
        ),
    ),
    rival=Criterion.paired(
        "tau up to G_min, chosen by validation, is more accurate than the private median of norms, mean over settings",
        value_of("accuracy", TUNED, *SETTINGS),
        value_of("accuracy", MEDIAN, *SETTINGS),
    ),
    draw=draw,
    seeds=tuple(range(10, 18)),
    one_thread=True,
    registered="c2d44db7a08a",
    stand_in=(
        "8 x 8 digits instead of features of pretrained networks",
        "choosing the learning rate on validation rows, for every clip norm alike and without counting it as a cost",
    ),
)
