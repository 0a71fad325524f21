"""Does a prompt whose gradient never opposes the zero-shot predictions forget less about classes it has not seen?"""

from __future__ import annotations

from typing import Any

import numpy as np

from binderclip.adapt import ProGrad, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, bars, declared_study
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set

SHOTS, EPOCHS, EACH = (4,), 100, 100
BASE = NEW = 17
LEARNED: dict[str, dict[str, Any]] = {"CoOp": {"strength": 0.0}, "CoOp + KL": {"combine": "add"}, "ProGrad": {}}
METRICS = ("base accuracy", "new accuracy", "harmonic mean")


def measure(seed: int) -> list[Row]:
    """All rows of one seed: its own base and new classes, shots and test pictures."""
    from binderclip.models import load

    data, model = few_shot_set("OpenMoji subgroups", each=EACH, pool=8), load("small")
    x, y = data.features, data.labels
    order = np.random.default_rng([61, seed]).permutation(data.bank.names).tolist()
    base, new = order[:BASE], order[BASE : BASE + NEW]
    pool, test = data.split(seed)
    on_base, on_new = test[np.isin(y[test], base)], test[np.isin(y[test], new)]
    prior = data.bank.select(base)
    zero = ZeroShotClassifier(prior), ZeroShotClassifier(data.bank.select(new))
    rows = []
    for shots in SHOTS:
        setting = _setting(shots)
        train = np.concatenate([pool[y[pool] == name][:shots] for name in base])
        rows += _scores(
            "zero-shot", setting, zero[0].score(x[on_base], y[on_base]), zero[1].score(x[on_new], y[on_new])
        )
        for method, options in LEARNED.items():
            head = ProGrad(model, prior, epochs=EPOCHS, seed=seed, **options).fit(x[train], y[train])
            other = head.classifier_for(new)
            rows += _scores(method, setting, head.score(x[on_base], y[on_base]), other.score(x[on_new], y[on_new]))
            if head.conflict_rate_ is not None:
                # With strength 0 conflicts are counted and left alone.
                rows.append(Row("share of steps in conflict", method, head.conflict_rate_, setting))
    return rows


def _setting(shots: int) -> str:
    return f"{shots} shot{'s' * (shots > 1)}"


def _scores(method: str, setting: str, base: float, new: float) -> list[Row]:
    values = (base, new, 2 * base * new / max(base + new, 1e-12))
    return [Row(metric, method, value, setting) for metric, value in zip(METRICS, values, strict=True)]


def draw(table: Table, figure: Figure) -> None:
    """Base, new and harmonic mean by method, one panel a number of shots; the share of conflicts."""
    axes = figure.subplots(1, 2, width_ratios=[3, 1.6])
    methods = ["zero-shot", *LEARNED]
    for ax, shots in zip(axes, SHOTS, strict=False):
        bars(ax, table, METRICS, methods, _setting(shots))
        ax.set(title=f"{_setting(shots)} a class", ylabel="accuracy", ylim=(0, 0.8))
        ax.set_xticks(range(3), ["base", "new", "harmonic mean"])
    axes[0].legend(ncols=4, fontsize=8, loc="upper center", columnspacing=1, handlelength=1)
    values = [table.values("share of steps in conflict", m, _setting(4)) for m in ("CoOp", "ProGrad")]
    axes[1].bar(["CoOp", "ProGrad"], [v.mean() for v in values], color=["C1", "C3"], width=0.6)
    axes[1].set(title="Gradients in conflict", ylabel="share of steps, 4 shots", ylim=(0, 1))


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 30), registered="9ddf256884f3")
