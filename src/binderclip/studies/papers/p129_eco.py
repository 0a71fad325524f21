"""Do several short learned contexts make a better classifier than one long one of as many vectors?"""

from __future__ import annotations

from typing import Any

import numpy as np

from binderclip.adapt import ECO, PromptLearning, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, declared_study, lines
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set

EPOCHS = {1: 40, 4: 40, 16: 16}
"""By shots: 40, 80 and 80 steps."""
SHAPES = {"1 x 8 (CoOp)": (1, 8), "2 x 4": (2, 4), "4 x 2": (4, 2)}
SETS = ("OpenMoji subgroups", "Fashion-MNIST")
EMOJI = (
    "flag", "clock", "heart", "building", "land vehicle", "mammal", "meal", "tool", "weather", "worker"
)  # fmt: skip
SEPARATE = "4 x 2, trained apart"
HAND = "hand template"
NEW = "accuracy, classes without pictures"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [row for name in SETS for row in _measure_set(name, seed)] + _new_classes(seed)


def _measure_set(name: str, seed: int) -> list[Row]:
    from binderclip.models import load

    model = load("small")
    data = few_shot_set(name, each=36, pool=16) if name == SETS[0] else few_shot_set(name)
    classes = list(EMOJI) if name == SETS[0] else list(data.bank.names)
    x, y, bank = data.features, data.labels, data.bank.select(classes)
    pool, test = (part[np.isin(y[part], classes)] for part in data.split(seed))
    rows = []
    for shots, epochs in EPOCHS.items():
        setting = _setting(name, shots)
        train = np.concatenate([pool[y[pool] == label][:shots] for label in classes])
        rows.append(Row("accuracy", HAND, ZeroShotClassifier(bank).score(x[test], y[test]), setting))
        heads: dict[str, Any] = {
            method: (PromptLearning if p == 1 else ECO)(
                model, bank, n_prompts=p, n_ctx=m, init=None, epochs=epochs, seed=seed
            )
            for method, (p, m) in SHAPES.items()
        }
        if shots == 4:
            heads[SEPARATE] = ECO(model, bank, n_prompts=4, n_ctx=2, loss="per-prompt", epochs=epochs, seed=seed)
        for method, head in heads.items():
            head.fit(x[train], y[train])
            rows.append(Row("accuracy", method, head.score(x[test], y[test]), setting))
            if head.n_prompts == 1:
                continue
            rows.append(Row("diversity (1 - cosine)", method, head.diversity_, setting))
            singles = [ZeroShotClassifier(part, classes=head.classes_.tolist()) for part in head.prompt_coef_]
            value = np.mean([single.score(x[test], y[test]) for single in singles])
            rows.append(Row("mean accuracy of its single contexts", method, float(value), setting))
    return rows


def _new_classes(seed: int) -> list[Row]:
    """Contexts learned on a random half of the subgroups, at 4 shots, around the names of the other half."""
    from binderclip.models import load

    model, data = load("small"), few_shot_set(SETS[0], each=36, pool=16)
    order = [EMOJI[i] for i in np.random.default_rng([seed, 7]).permutation(len(EMOJI))]
    base, new = sorted(order[:5]), sorted(order[5:])
    x, y = data.features, data.labels
    pool, test = data.split(seed)
    train = np.concatenate([pool[y[pool] == label][:4] for label in base])
    asked = test[np.isin(y[test], new)]
    rows = [Row(NEW, HAND, ZeroShotClassifier(data.bank.select(new)).score(x[asked], y[asked]))]
    for method, (p, m) in SHAPES.items():
        kind, prior = PromptLearning if p == 1 else ECO, data.bank.select(base)
        options: dict[str, Any] = {"n_prompts": p, "n_ctx": m, "init": None, "epochs": EPOCHS[4], "seed": seed}
        head = kind(model, prior, **options).fit(x[train], y[train])
        rows.append(Row(NEW, method, head.classifier_for(new).score(x[asked], y[asked])))
    return rows


def _setting(name: str, shots: int) -> str:
    return f"{name}, {shots} shot{'s' * (shots > 1)}"


def _settings(shots: int | None = None) -> list[str]:
    return [_setting(name, n) for name in SETS for n in EPOCHS if shots in (None, n)]


def _mean(table: Table, method: str, metric: str = "accuracy", shots: int | None = None) -> float:
    return float(np.mean([table.mean(metric, method, setting) for setting in _settings(shots)]))


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against shots on both sets; the ensemble and its parts."""
    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, SETS, strict=False):
        lines(ax, table, "accuracy", [_setting(name, n) for n in EPOCHS], list(EPOCHS), [HAND, *SHAPES])
        ax.set(title=name, xlabel="shots a class", ylabel="accuracy")
        ax.set_xscale("log", base=2)
        ax.set_xticks(list(EPOCHS), [str(n) for n in EPOCHS])
    axes[0].legend(fontsize=8)
    methods = ["2 x 4", "4 x 2", SEPARATE]
    parts = [_mean(table, m, "mean accuracy of its single contexts", 4) for m in methods]
    axes[2].bar(np.arange(3) - 0.2, parts, 0.38, label="a context by itself", color="C7")
    axes[2].bar(np.arange(3) + 0.2, [_mean(table, m, shots=4) for m in methods], 0.38, label="ensemble", color="C3")
    axes[2].set_xticks(range(3), ["2 x 4", "4 x 2", "4 x 2,\ntrained apart"])
    axes[2].set(title="The ensemble and its parts", ylabel="accuracy, 4 shots, both sets", ylim=(0, 0.85))
    axes[2].legend(fontsize=8, ncols=2, loc="upper center")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 30), registered="3f525a8b2cf8")
