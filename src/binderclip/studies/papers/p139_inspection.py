"""How many examples does inspection by the nearest example need, on the real textile pictures?"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

from binderclip.adapt import (
    GaussianHead,
    LinearProbe,
    NearestExampleClassifier,
    ZeroShotClassifier,
    conformal_sets,
    conformal_thresholds,
)
from binderclip.evaluate import learning_set_curve
from binderclip.studies.harness import Figure, Row, Table, dataset_features, declared_study, one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.few_shot_sets import TEXTILE

SIZES = (5, 10, 25, 50, 100)
REPEATS, SIDE, TILE = 2, 256, 8
TASKS = ("local", "global")
COUNTS = {"nominal": 500, "local": 250, "global": 250}
FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auroc")
BALANCED = "balanced accuracy"
NEAREST, ONE_CLASS, FORMER = "nearest example", "good parts only, 8 x 8 tiles", "nearest example, `small`"
METHODS = (NEAREST, FORMER, "5 nearest neighbours", "GDA", "linear probe")


class FarthestTile(ClassifierMixin, BaseEstimator):
    """How far the worst tile of a picture (N, T, d) is from any tile of good ones; 5 % of those would pass for bad.

    Args:
        good: name of the good class.
    """

    def __init__(self, good: str = "nominal") -> None:
        self.good = good

    def fit(self, X: np.ndarray, y: np.ndarray) -> FarthestTile:
        """Store the tiles of the good learning pictures."""
        self.classes_ = np.unique(y)
        kept = X[y == self.good]
        scores = [self._farthest(kept[i], np.delete(kept, i, axis=0)) for i in range(len(kept))]
        self.kept_, self.limit_ = kept, float(np.quantile(scores, 0.95, method="higher"))
        return self

    @staticmethod
    def _farthest(tiles: np.ndarray, others: np.ndarray) -> float:
        return float(1 - (tiles @ others.reshape(-1, tiles.shape[1]).T).max(axis=1).min())

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Logits (N, 2) in the order of `classes_`."""
        bad = np.array([self._farthest(tiles, self.kept_) for tiles in X])
        columns = np.stack([bad, np.full(len(X), self.limit_)], axis=1)
        return columns if self.classes_[1] == self.good else columns[:, ::-1]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class that leads."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]


@cache
def pictures() -> tuple[dict[str, np.ndarray], np.ndarray, Any]:
    """Unit features by name, kinds (N,), and the texts' bank.

    Of `lite0`'s maps the mean and the maximum over places (N, d) and the means of 8 x 8 tiles (N, 64, d); of `small`
    the whole picture's embedding, which the texts are compared with.
    """
    import torch
    import torch.nn.functional as F

    from binderclip.data import load_data
    from binderclip.models import load_vision
    from binderclip.segment.anomaly.mid_level import mid_level_features

    data, lite0 = load_data("textile"), load_vision("lite0")
    kinds = np.array([str(kind) for kind in data.attributes["kind"]])
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(kinds == k))[:n] for k, n in COUNTS.items()])
    whole, tiles = [], []
    for rows in np.array_split(chosen, len(chosen) // 20):
        maps = mid_level_features(
            lite0, [data[int(row)].image for row in rows], strides=(8, 16), size=SIDE
        ).values  # (B, h, w, d)
        parts = [F.normalize(part.double(), dim=-1) for part in (maps.mean(dim=(1, 2)), maps.amax(dim=(1, 2)))]
        whole.append(F.normalize(torch.cat(parts, dim=-1), dim=-1))
        pooled = F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), TILE).flatten(2).transpose(1, 2)
        tiles.append(F.normalize(pooled, dim=-1))
    clip = bundled()
    features = {
        NEAREST: torch.cat(whole).numpy(),
        ONE_CLASS: torch.cat(tiles).numpy(),
        FORMER: dataset_features(clip, data.subset(chosen)).double().numpy(),
    }
    return features, kinds[chosen], clip.text_bank(TEXTILE)


def measure(seed: int) -> list[Row]:
    """Learning-set curves of both tasks, zero-shot on the same test pictures, and conformal sets."""
    pictures()
    with one_thread():
        return [row for task in TASKS for row in [*_curves(task, seed), *_conformal(task, seed)]]


def _curves(task: str, seed: int) -> list[Row]:
    features, kinds, bank = pictures()
    part = np.isin(kinds, ["nominal", task])
    y = kinds[part]
    whole, tiles, former = (features[name][part] for name in (NEAREST, ONE_CLASS, FORMER))
    models: dict[str, tuple[Any, np.ndarray]] = {
        NEAREST: (NearestExampleClassifier(), whole),
        FORMER: (NearestExampleClassifier(), former),
        "5 nearest neighbours": (KNeighborsClassifier(5, metric="cosine"), whole),
        "GDA": (GaussianHead(), whole),
        "linear probe": (LinearProbe(C=100.0), whole),
        ONE_CLASS: (FarthestTile(), tiles),
        "zero-shot": (ZeroShotClassifier(bank.select(["nominal", task])), former),
    }
    rows = []
    for method, (model, x) in models.items():
        sizes = (50,) if method in ("zero-shot", ONE_CLASS) else SIZES
        curve = learning_set_curve(model, x, y, sizes=sizes, repeats=REPEATS, positive=task, seed=seed)
        found = {figure: curve.summary(figure) for figure in FIGURES}
        for figure in FIGURES:
            rows += [Row(figure, method, mean, _place(task, size)) for size, mean, _ in found[figure]]
        for (size, right, _), (_, passed, _) in zip(found["sensitivity"], found["specificity"], strict=True):
            rows.append(Row(BALANCED, method, (right + passed) / 2, _place(task, size)))
    return rows


def _conformal(task: str, seed: int) -> list[Row]:
    """50 pictures a class to learn, 50 to calibrate, the rest to test; sets that miss 10% in each class."""
    features, kinds, _ = pictures()
    whole = features[NEAREST]
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


def draw(table: Table, figure: Figure) -> None:
    """Balanced accuracy against size for both tasks, and the AUROC of every method at 50 a class."""
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for ax, task in zip(axes, TASKS, strict=False):
        for number, method in enumerate(METHODS):
            values = [table.mean(BALANCED, method, _place(task, n)) for n in SIZES]
            ax.plot(SIZES, values, marker="o", markersize=4, color=f"C{number}", label=method)
        zero_shot = table.mean(BALANCED, "zero-shot", _place(task, 50))
        ax.axhline(zero_shot, color="0.5", linestyle=":", label="zero-shot")
        ax.set(title=f"Good against {task} defects", xlabel="examples a class", ylabel=BALANCED, ylim=(0.35, 1.05))
        ax.set_xscale("log")
        ax.set_xticks(SIZES, [str(n) for n in SIZES])
        ax.minorticks_off()
    axes[0].legend(fontsize=7, loc="upper left")
    methods = (*METHODS, ONE_CLASS, "zero-shot")
    places = np.arange(len(methods))
    for offset, task, color in ((-0.2, "local", "C0"), (0.2, "global", "C1")):
        values = [table.mean("auroc", method, _place(task, 50)) for method in methods]
        axes[2].barh(places + offset, values, 0.38, color=color, label=f"{task} defects")
    axes[2].set_yticks(places, [m.replace(", ", ",\n") for m in methods], fontsize=8)
    axes[2].invert_yaxis()
    axes[2].axvline(0.5, color="0.3", linestyle=":")
    axes[2].set(title="50 examples a class", xlabel="AUROC", xlim=(0, 1))
    axes[2].legend(fontsize=8, loc="lower right")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="4a9c40425ee8")
