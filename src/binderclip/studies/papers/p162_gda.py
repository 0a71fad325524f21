"""Does a closed-form Gaussian head compete with tuned and trained few-shot heads?"""

from __future__ import annotations

from typing import Any

import numpy as np

from binderclip.adapt import GaussianHead, LinearProbe, TipAdapter, ZeroShotClassifier, compare_heads
from binderclip.studies.harness import Figure, Row, Table, declared_study, lines
from binderclip.studies.protocols.data.few_shot_sets import FewShotSet, few_shot_set

SHOTS = (1, 2, 4, 8, 16)
SETS = ("OpenMoji", "digits")
HEADS = ("zero-shot", "linear probe", "Tip-Adapter", "GaussianHead")


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    sets = {name: few_shot_set(name) for name in SETS}
    return [row for name, data in sets.items() for row in _measure_set(name, data, seed)]


def _measure_set(name: str, data: FewShotSet, seed: int) -> list[Row]:
    rows = []
    x, y, bank = data.features, data.labels, data.bank
    pool, test = data.split(seed)
    prior = ZeroShotClassifier(bank).fit()
    heads = {
        "zero-shot": prior,
        "linear probe": LinearProbe(),
        "Tip-Adapter": TipAdapter(prior),
        "GaussianHead": GaussianHead(prior),
        "identity precision": GaussianHead(prior, precision="identity"),
        "no shrinkage": GaussianHead(prior, precision="empirical"),
    }
    for score in compare_heads(heads, x[pool], y[pool], x[test], y[test], shots=SHOTS, seeds=[seed]):
        setting = f"{name}, {score.shots} shots"
        rows.append(Row("accuracy", score.head, score.accuracy, setting))
        if score.head in HEADS and score.shots == 16:
            rows.append(Row("fit time with tuning (CPU s)", score.head, score.fit_seconds, setting))
    return rows + _variants(name, x, y, bank, pool, test)


def _variants(name: str, x: np.ndarray, y: np.ndarray, bank: Any, pool: np.ndarray, test: np.ndarray) -> list[Row]:
    """The paper's extensions: unlabelled pictures of all classes, and classes without any picture."""
    prior = ZeroShotClassifier(bank).fit()
    unlabelled = GaussianHead(prior).fit_unlabelled(x[pool])
    rows = [
        Row("accuracy, no labels", "zero-shot", prior.score(x[test], y[test]), name),
        Row("accuracy, no labels", "GaussianHead by EM", unlabelled.score(x[test], y[test]), name),
    ]
    half = len(bank.names) // 2
    base, new = bank.names[:half], bank.names[half:]
    seen, asked = np.isin(y[pool], base), np.isin(y[test], new)
    head = GaussianHead(bank.select(base)).fit(x[pool][seen], y[pool][seen])
    answers = {"zero-shot": ZeroShotClassifier(bank.select(new)), "GaussianHead": head.new_classes(bank.select(new))}
    for method, model in answers.items():
        value = model.score(x[test][asked], y[test][asked])
        rows.append(Row("accuracy, classes without pictures", method, value, name))
    return rows


def _settings(shots: int | None = None) -> list[str]:
    return [f"{name}, {n} shots" for name in SETS for n in SHOTS if shots in (None, n)]


def _mean(table: Table, method: str, shots: int) -> float:
    return float(np.mean([table.mean("accuracy", method, setting) for setting in _settings(shots)]))


def _fast(table: Table) -> tuple[bool, str]:
    times = [np.median(table.values("fit time with tuning (CPU s)", "GaussianHead", s)) for s in _settings(16)]
    return max(times) < 0.1, f"median {max(times):.3f} s at 16 shots"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against shots for both sets, and the two ablations."""
    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, SETS, strict=False):
        settings = [f"{name}, {n} shots" for n in SHOTS]
        lines(ax, table, "accuracy", settings, [float(n) for n in SHOTS], list(HEADS))
        ax.set(title=name, xlabel="shots a class", ylabel="accuracy")
        ax.set_xscale("log", base=2)
        ax.set_xticks(SHOTS, [str(n) for n in SHOTS])
    axes[0].legend()
    methods = ["GaussianHead", "identity precision", "no shrinkage"]
    values = [[_mean(table, method, n) for n in SHOTS] for method in methods]
    for number, (method, line) in enumerate(zip(methods, values, strict=True)):
        axes[2].plot(SHOTS, line, marker="o", markersize=4, label=method, color=f"C{(3, 4, 5)[number]}")
    axes[2].set(title="The shrunk precision, both sets", xlabel="shots a class", ylabel="accuracy")
    axes[2].set_xscale("log", base=2)
    axes[2].set_xticks(SHOTS, [str(n) for n in SHOTS])
    axes[2].legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="12c0a26d8e10")
