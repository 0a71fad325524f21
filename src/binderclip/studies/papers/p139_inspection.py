"""How many examples does inspection by the nearest example need, on the real textile pictures?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

from binderclip.adapt import (
    GaussianHead,
    LinearProbe,
    NearestExampleClassifier,
    Tiles,
    ZeroShotClassifier,
    conformal_sets,
    conformal_thresholds,
)
from binderclip.evaluate import learning_set_curve
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.few_shot_sets import TEXTILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (5, 10, 25, 50, 100)
REPEATS = 2
TASKS = ("local", "global")
COUNTS = {"nominal": 500, "local": 250, "global": 250}
FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auroc")
NEAREST, TILES, ONE_CLASS = "nearest example", "nearest example, 4 tiles", "good parts only, 4 tiles"
METHODS = (NEAREST, TILES, ONE_CLASS, "5 nearest neighbours", "GDA", "linear probe")


class TileNearest(ClassifierMixin, BaseEstimator):
    """The nearest example among tiles (N, T, d): the best tile counts; or how far the worst tile is from good ones.

    Args:
        good: name of the good class.
        one_class: learn from good parts alone, with a threshold that 5% of them would pass.
    """

    def __init__(self, good: str = "nominal", one_class: bool = False) -> None:
        self.good = good
        self.one_class = one_class

    def fit(self, X: np.ndarray, y: np.ndarray) -> TileNearest:
        """Store the tiles of all learning pictures, or of the good ones."""
        self.classes_ = np.unique(y)
        kept = X[y == self.good] if self.one_class else X
        labels = np.repeat(y[y == self.good] if self.one_class else y, X.shape[1])
        self.head_ = NearestExampleClassifier(tau=1.0).fit(kept.reshape(-1, X.shape[2]), labels)
        self.limit_ = 0.0
        if self.one_class:
            scores = [self._farthest(kept[i], np.delete(kept, i, axis=0)) for i in range(len(kept))]
            self.limit_ = float(np.quantile(scores, 0.95, method="higher"))
        return self

    @staticmethod
    def _farthest(tiles: np.ndarray, others: np.ndarray) -> float:
        return float(1 - (tiles @ others.reshape(-1, tiles.shape[1]).T).max(axis=1).min())

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Logits (N, 2) in the order of `classes_`."""
        scores = self.head_.predict_logits(X.reshape(-1, X.shape[2])).reshape(len(X), X.shape[1], -1)
        if not self.one_class:
            return scores.max(axis=1)
        bad = 1 - scores[:, :, 0].min(axis=1)
        columns = np.stack([bad, np.full(len(X), self.limit_)], axis=1)
        return columns if self.classes_[1] == self.good else columns[:, ::-1]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class that leads."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]


@cache
def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Unit features of whole pictures (N, d) and of their 2 x 2 tiles (N, 4, d), kinds (N,), and the texts' bank."""
    import torch
    import torch.nn.functional as F

    from binderclip.data import FeatureCache, load_data
    from binderclip.models import load

    clip, data = load("small"), load_data("textile")
    kinds = np.array([str(kind) for kind in data.attributes["kind"]])
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(kinds == k))[:n] for k, n in COUNTS.items()])
    cache_of = FeatureCache(clip.fingerprint, "whole and tiles, 2 a side")
    keys = [data.content_hash(int(row)) for row in chosen]

    def encode(missing: list[int]) -> torch.Tensor:
        return Tiles(2).features(clip, [data[int(chosen[i])].image for i in missing]).features

    rows = cache_of.fetch(keys, encode)
    unit = F.normalize(torch.as_tensor(rows).double(), dim=-1).numpy()
    return unit[:, 0], unit[:, 1:], kinds[chosen], clip.text_bank(TEXTILE)


def measure(seed: int) -> list[Row]:
    """Learning-set curves of both tasks, zero-shot on the same test pictures, and conformal sets."""
    pictures()
    with one_thread():
        return [row for task in TASKS for row in [*_curves(task, seed), *_conformal(task, seed)]]


def _curves(task: str, seed: int) -> list[Row]:
    whole, tiles, kinds, bank = pictures()
    part = np.isin(kinds, ["nominal", task])
    y = kinds[part]
    models: dict[str, tuple[Any, np.ndarray]] = {
        NEAREST: (NearestExampleClassifier(), whole[part]),
        TILES: (TileNearest(), tiles[part]),
        ONE_CLASS: (TileNearest(one_class=True), tiles[part]),
        "5 nearest neighbours": (KNeighborsClassifier(5, metric="cosine"), whole[part]),
        "GDA": (GaussianHead(), whole[part]),
        "linear probe": (LinearProbe(C=100.0), whole[part]),
        "zero-shot": (ZeroShotClassifier(bank.select(["nominal", task])), whole[part]),
    }
    rows = []
    for method, (model, x) in models.items():
        sizes = (50,) if method == "zero-shot" else SIZES
        curve = learning_set_curve(model, x, y, sizes=sizes, repeats=REPEATS, positive=task, seed=seed)
        for figure in FIGURES:
            for size, mean, _ in curve.summary(figure):
                rows.append(Row(figure, method, mean, _place(task, size)))
    return rows


def _conformal(task: str, seed: int) -> list[Row]:
    """50 pictures a class to learn, 50 to calibrate, the rest to test; sets that miss 10% in each class."""
    whole, _, kinds, _ = pictures()
    rng = np.random.default_rng([seed, 7])
    orders = {name: rng.permutation(np.flatnonzero(kinds == name)) for name in (task, "nominal")}
    learn, calibrate, test = (
        np.concatenate([order[part] for order in orders.values()])
        for part in (slice(0, 50), slice(50, 100), slice(100, None))
    )
    head = NearestExampleClassifier().fit(whole[learn], kinds[learn])
    column = {name: index for index, name in enumerate(head.classes_.tolist())}
    known, asked = (np.array([column[name] for name in kinds[rows]]) for rows in (calibrate, test))
    thresholds = conformal_thresholds(head.predict_proba(whole[calibrate]), known, alpha=0.1, per_class=True)
    sets = conformal_sets(head.predict_proba(whole[test]), thresholds)
    hit = sets[np.arange(len(test)), asked]
    rows = [Row("share of sets with the true class", name, hit[asked == column[name]].mean(), task) for name in column]
    return [*rows, Row("classes in a set", "mean", float(sets.sum(axis=1).mean()), task)]


def _place(task: str, size: int) -> str:
    return f"nominal against {task}, {size} a class"


def _enough(table: Table) -> tuple[bool, str]:
    found = {t: table.mean("accuracy", NEAREST, _place(t, 100)) for t in TASKS}
    return min(found.values()) >= 0.9, ", ".join(f"{t} {value:.3f}" for t, value in found.items()) + " at 100 a class"


def _tiles_help(table: Table) -> tuple[bool, str]:
    methods = (NEAREST, TILES, ONE_CLASS)
    found = {m: table.mean("auroc", m, _place("local", 50)) for m in methods}
    text = ", ".join(f"{m} {value:.3f}" for m, value in found.items())
    return max(found[TILES], found[ONE_CLASS]) > found[NEAREST], f"AUROC of local defects: {text}"


def _covered(table: Table) -> tuple[bool, str]:
    metric = "share of sets with the true class"
    found = {(t, name): table.mean(metric, name, t) for t in TASKS for name in (t, "nominal")}
    text = ", ".join(f"{t}/{name} {value:.3f}" for (t, name), value in found.items())
    sizes = ", ".join(f"{t} {table.mean('classes in a set', 'mean', t):.2f}" for t in TASKS)
    return min(found.values()) >= 0.87, f"{text}; classes in a set: {sizes}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against size for both tasks, and the AUROC of every method at 50 a class."""
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for ax, task in zip(axes, TASKS, strict=False):
        for number, method in enumerate(METHODS):
            values = [table.mean("accuracy", method, _place(task, n)) for n in SIZES]
            ax.plot(SIZES, values, marker="o", markersize=4, color=f"C{number}", label=method)
        zero_shot = table.mean("accuracy", "zero-shot", _place(task, 50))
        ax.axhline(zero_shot, color="0.5", linestyle=":", label="zero-shot")
        ax.set(title=f"Good against {task} defects", xlabel="examples a class", ylabel="accuracy", ylim=(0.2, 1.15))
        ax.set_xscale("log")
        ax.set_xticks(SIZES, [str(n) for n in SIZES])
        ax.minorticks_off()
    axes[0].legend(fontsize=7, loc="upper left")
    methods = (*METHODS, "zero-shot")
    places = np.arange(len(methods))
    for offset, task, color in ((-0.2, "local", "C0"), (0.2, "global", "C1")):
        values = [table.mean("auroc", method, _place(task, 50)) for method in methods]
        axes[2].barh(places + offset, values, 0.38, color=color, label=f"{task} defects")
    axes[2].set_yticks(places, [m.replace(", ", ",\n") for m in methods], fontsize=8)
    axes[2].invert_yaxis()
    axes[2].axvline(0.5, color="0.3", linestyle=":")
    axes[2].set(title="50 examples a class", xlabel="AUROC", xlim=(0, 1))
    axes[2].legend(fontsize=8, loc="lower right")


STUDY = Study(
    paper="p139",
    claim="50 to 100 examples a class suffice to inspect textiles by the most similar example, far better than "
    "by texts; local defects are harder than global ones.",
    protocol="500 good pictures, 250 with a local and 250 with a global defect of the paper's own textile set, "
    "through the bundled `small` whole and in 2 x 2 tiles (125 of 250 px each). Random nested learning "
    "sets of 5 to 100 a class, two draws a seed, tested on all that is left, defects being the positives."
    " Tiles: the best-matching tile decides, or, from good parts alone, the tile least like any good one."
    " Then sets calibrated on 50 more a class.",
    baseline="Zero-shot texts; five nearest neighbours, GDA, logistic regression (C = 100) on the same features.",
    lower_bound="AUROC 0.5; always saying good is right for about 0.7 of the test pictures.",
    upper_bound="Logistic regression on the same features, as a reference.",
    measure=measure,
    criteria=(
        *(
            Criterion.paired(
                f"{task} defects: accuracy grows from 5 to 100 examples",
                value_of("accuracy", NEAREST, _place(task, SIZES[-1])),
                value_of("accuracy", NEAREST, _place(task, SIZES[0])),
                essential=True,
            )
            for task in TASKS
        ),
        *(
            Criterion.paired(
                f"{task} defects: at 50 it exceeds zero-shot by more than 10 points",
                value_of("accuracy", NEAREST, _place(task, 50)),
                value_of("accuracy", "zero-shot", _place(task, 50)),
                margin=0.1,
                essential=True,
            )
            for task in TASKS
        ),
        Criterion.paired(
            "global defects are easier than local ones",
            value_of("accuracy", NEAREST, _place("global", 50)),
            value_of("accuracy", NEAREST, _place("local", 50)),
            essential=True,
        ),
        Criterion("100 examples reach an accuracy of 0.9 for both", _enough),
        Criterion("tiles raise the AUROC of local defects", _tiles_help),
        Criterion("sets that promise 0.9 hold the true class of each kind with at least 0.87", _covered),
    ),
    draw=draw,
    seeds=(0, 1, 2, 3, 4),
    remeasure=FIRST_RULES,
    stand_in=(
        "`small` at 128 px instead of CLIP ViT-L at 224 and more",
        "the textile task alone of the paper's five; half of its pictures",
    ),
)
