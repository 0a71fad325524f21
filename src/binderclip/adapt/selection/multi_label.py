"""The same selection where a picture may have several labels: mean average precision in place of accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from binderclip.adapt.heads.saving import save_head
from binderclip.adapt.multi_label.labels import multilabel_average_precision
from binderclip.adapt.multi_label.one_vs_rest import BASES, OneVsRest
from binderclip.adapt.selection.encoded import Encoded, encode_dataset
from binderclip.adapt.selection.measures import Interval, mean_interval, selection_optimism
from binderclip.adapt.selection.splits import near_duplicates
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel

RESAMPLES = 500


@dataclass(frozen=True)
class LabelScore:
    """One candidate, by cross-validation inside the shots.

    Attributes:
        mean_average_precision: over labels, mean over draws, with its interval.
        macro_f1: at the thresholds chosen on the same held-out pictures, so a little flattering.
        seconds: processor time of one fit.
    """

    name: str
    mean_average_precision: Interval
    by_seed: list[float]
    macro_f1: float
    seconds: float
    fold_errors: list[float]


@dataclass(frozen=True)
class LabelSelection:
    """What `select_labels` found.

    Attributes:
        scores: best first. head: the winner, calibrated. labels: its columns.
        test: (mean average precision, macro-F1, pictures) on the test part, or None.
        runner_up: (name, mean average precision) on the same pictures, or None.
        difference: of the two, with the interval of a paired bootstrap over pictures.
        by_label: (label, test pictures that have it, average precision, F1).
        optimism, notes, encoded, seconds, model: as in `Selection`.
    """

    scores: list[LabelScore]
    head: OneVsRest
    labels: list[str]
    test: tuple[float, float, int] | None
    runner_up: tuple[str, float] | None
    difference: Interval | None
    by_label: list[tuple[str, int, float, float]]
    optimism: float
    notes: list[str]
    encoded: Encoded
    shots: int
    seeds: int
    seconds: float
    model: str

    def _repr_html_(self) -> str:
        """The table of methods, the choice, and the labels on the test part, in a notebook."""
        from html import escape

        from binderclip.display import table_html

        figures_of_methods = [(s.name, s.mean_average_precision, s.macro_f1) for s in self.scores]
        rows = [(name, precision.value, precision.limits, f1) for name, precision, f1 in figures_of_methods]
        summary = f"Chosen: {self.scores[0].name}; choosing flatters it by about {self.optimism:.3f}."
        if self.test is not None:
            summary += f" On {self.test[2]} test pictures: {self.test[0]:.3f}."
        table = table_html(("method", "mean average precision", "95 %", "macro-F1"), rows, most=len(rows))
        labels = table_html(("label", "test pictures", "average precision", "F1"), self.by_label)
        return f"{table}<p>{escape(summary)}</p>{labels if self.by_label else ''}"

    def plot(self) -> Any:
        """A matplotlib figure: mean average precision of every method with its interval, and of every label."""
        from binderclip.display import bars, new_figure

        figure = new_figure(10, 1.2 + 0.28 * max(5, len(self.scores), len(self.by_label)))
        left, right = figure.subplots(1, 2)
        precisions = [s.mean_average_precision for s in self.scores]
        errors = [each.errors for each in precisions]
        bars(left, [s.name for s in self.scores], [each.value for each in precisions], errors=errors)
        left.set_xlabel("mean average precision by cross-validation, 95 %")
        bars(right, [label for label, *_ in self.by_label], [precision for _, _, precision, _ in self.by_label])
        right.set_xlabel("average precision on the test part")
        for axes in (left, right):
            axes.set_xlim(0, 1)
        return figure

    def figures(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "model": self.model,
            "labels": self.labels,
            "shots": self.shots,
            "seeds": self.seeds,
            "winner": self.scores[0].name,
            "methods": [
                {
                    "method": s.name,
                    "mean_average_precision": s.mean_average_precision.value,
                    "interval": [s.mean_average_precision.low, s.mean_average_precision.high],
                    "by_seed": s.by_seed,
                    "macro_f1": s.macro_f1,
                }
                for s in self.scores
            ],
            "optimism": self.optimism,
            "test": None
            if self.test is None
            else dict(zip(("mean_average_precision", "macro_f1", "pictures"), self.test, strict=True)),
            "runner_up": self.runner_up,
            "difference": None if self.difference is None else vars(self.difference),
            "by_label": [list(row) for row in self.by_label],
            "notes": self.notes,
            "seconds": {"all": self.seconds, **{s.name: s.seconds for s in self.scores}},
        }

    def save(self, folder: str | Path) -> Path:
        """Write the winner as a folder that `load_head` and `binderclip classify --head` read."""
        return save_head(
            self.head, folder, model=self.model, about={"method": self.scores[0].name, "shots": self.shots}
        )


def label_sets(data: ImageTextDataset) -> list[list[str]] | None:
    """The labels of every picture where the data has several a picture (the column `labels`), else None."""
    column = data.attributes.get("labels")
    return None if column is None else [list(labels) if labels is not None else [] for labels in column]


def select_labels(
    model: ImageTextModel,
    data: ImageTextDataset,
    *,
    shots: int = 16,
    seeds: int = 3,
    methods: str | Sequence[str] = "auto",
    templates: str | Sequence[str] | None = "simple",
    folds: int = 4,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> LabelSelection:
    """Find the best multi-label head: `select_head` for data with the attribute `labels`.

    Args:
        model, data, seeds, folds, seed, progress: as for `select_head`.
        shots: every label is drawn until so many pictures have it, or all that do.
        methods: `auto` or names of `one_vs_rest.BASES`.
        templates: how a label becomes sentences.

    Raises:
        UsageError: an unknown method, or settings below their least.
        DataError: fewer than two labels, or pictures.
    """
    refuse_bare_module(model, "select_labels")
    began = time.monotonic()
    say = progress or (lambda line: None)
    names = _names(methods, shots, seeds, folds)
    sets = label_sets(data)
    if sets is None:
        raise DataError("the data has no column `labels`: one label a picture is for select_head")
    encoded = encode_dataset(model, data, progress=lambda done, of: say(f"encoding pictures: {done} of {of}"))
    own = [set(sets[int(row)]) for row in encoded.rows]
    labels = sorted(set().union(*own))
    if len(labels) < 2:
        raise DataError(f"several labels a picture need at least two labels in all; there is {labels or 'none'}")
    truth = np.array([[label in mine for label in labels] for mine in own], dtype=int)
    groups = near_duplicates(encoded.thumbnails)
    pool, test = _parts(truth, groups, data, encoded, seed)
    prior = ZeroShotClassifier(model.text_bank(labels, templates)).fit()
    x = encoded.features.double().numpy()

    def build(name: str) -> OneVsRest:
        return OneVsRest(name, classes=labels, text_prior=prior if name == "zero-shot" else None)

    draws = [pool[_draw(truth[pool], shots, s)] for s in range(seed, seed + seeds)]
    measured = []
    for name in names:
        say(name)
        measured.append(_score(name, build, x, truth, groups, draws, folds, seed))
    measured.sort(key=lambda pair: -pair[0].mean_average_precision.value)
    scores = [score for score, _ in measured]
    finalists = [
        build(score.name).fit(x[draws[0]], truth[draws[0]]).calibrate(logits, truth[draws[0]])
        for score, logits in measured[:2]
    ]
    tested = _test(finalists, scores, x[test], truth[test], labels, seed) if len(test) else (None, None, None, [])
    return LabelSelection(
        scores=scores,
        head=finalists[0],
        labels=labels,
        test=tested[0],
        runner_up=tested[1],
        difference=tested[2],
        by_label=tested[3],
        optimism=selection_optimism(np.array([s.fold_errors for s in scores])),
        notes=_notes(groups, labels, truth[draws[0]], shots),
        encoded=encoded,
        shots=shots,
        seeds=seeds,
        seconds=time.monotonic() - began,
        model=model.name,
    )


def _names(methods: str | Sequence[str], shots: int, seeds: int, folds: int) -> list[str]:
    names = list(BASES) if methods in ("auto", "all") else [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in BASES:
            raise UsageError(f"method {name!r} cannot give several labels a picture; there are {', '.join(BASES)}")
    for setting, value, least in (("shots", shots, 2), ("seeds", seeds, 1), ("folds", folds, 2)):
        if value < least:
            raise UsageError(f"{setting} must be at least {least}, not {value}")
    return names


def _notes(groups: np.ndarray, labels: list[str], learned: np.ndarray, shots: int) -> list[str]:
    notes = []
    if doubles := len(groups) - len(np.unique(groups)):
        notes.append(f"{doubles} near-duplicates are kept on one side of every split")
    few = [label for label, count in zip(labels, learned.sum(axis=0), strict=True) if count < shots]
    if few:
        shown = ", ".join(few[:8]) + (f" and {len(few) - 8} more" if len(few) > 8 else "")
        notes.append(f"fewer than {shots} pictures to learn from: {shown}")
    return notes


def _parts(
    truth: np.ndarray, groups: np.ndarray, data: ImageTextDataset, encoded: Encoded, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pool and test rows: the split named test, else half of the pictures by groups of look-alikes."""
    given = data.attributes.get("split")
    if given is not None:
        own = np.array([str(given[int(row)]) == "test" for row in encoded.rows])
        if own.any() and not own.all():
            return np.flatnonzero(~own & ~np.isin(groups, groups[own])), np.flatnonzero(own)
    order = np.random.default_rng([seed, 2]).permutation(np.unique(groups))
    test = np.isin(groups, order[: len(order) // 2])
    # A label that only test pictures would have is learned from instead.
    for c in np.flatnonzero(truth[~test].sum(axis=0) == 0):
        test &= ~np.isin(groups, groups[truth[:, c] == 1])
    return np.flatnonzero(~test), np.flatnonzero(test)


def _draw(truth: Int[np.ndarray, "P C"], shots: int, seed: int) -> Int[np.ndarray, "S"]:
    """Positions of pictures such that every label has `shots` of them, or all it has; drawn in random order."""
    count = np.zeros(truth.shape[1], dtype=int)
    taken = []
    for row in np.random.default_rng([seed, 5]).permutation(len(truth)):
        if (count[truth[row] == 1] < shots).any():
            taken.append(row)
            count += truth[row]
    return np.sort(np.array(taken, dtype=int))


def _score(
    name: str,
    build: Callable[[str], OneVsRest],
    x: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    draws: list[np.ndarray],
    folds: int,
    seed: int,
) -> tuple[LabelScore, np.ndarray]:
    """Cross-validated figures, and the held-out logits of the first draw."""
    values, f1, errors, first, seconds = [], [], [], None, 0.0
    for number, rows in enumerate(draws):
        kinds = np.random.default_rng([seed + number, 3]).permutation(np.unique(groups[rows]))
        place = {group: n % folds for n, group in enumerate(kinds.tolist())}
        fold = np.array([place[g] for g in groups[rows].tolist()])
        logits = np.zeros((len(rows), truth.shape[1]))
        for f in range(folds):
            held = fold == f
            if not held.any():
                continue
            before = time.process_time()
            head = build(name).fit(x[rows[~held]], truth[rows[~held]])
            seconds += time.process_time() - before
            logits[held] = head.predict_logits(x[rows[held]])
            if truth[rows[held]].any():
                errors.append(1 - multilabel_average_precision(truth[rows[held]], logits[held]))
        values.append(multilabel_average_precision(truth[rows], logits))
        f1.append(_macro_f1(build(name).fit(x[rows], truth[rows]).calibrate(logits, truth[rows]), logits, truth[rows]))
        first = logits if first is None else first
    assert first is not None
    mean = mean_interval(np.array(values))
    return LabelScore(name, mean, values, float(np.mean(f1)), seconds / (len(draws) * folds), errors), first


def _macro_f1(head: OneVsRest, logits: np.ndarray, truth: np.ndarray) -> float:
    scaling = head.scaling_.numpy()
    probs = 1 / (1 + np.exp(-(logits * scaling[:, 0] + scaling[:, 1])))
    by_label = _f1_by_label((probs >= head.thresholds_).astype(int), truth)
    return float(by_label[truth.sum(axis=0) > 0].mean())


def _f1_by_label(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return 2 * (predicted & truth).sum(axis=0) / np.maximum(1, predicted.sum(axis=0) + truth.sum(axis=0))


def _test(
    finalists: list[OneVsRest],
    scores: list[LabelScore],
    x: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    seed: int,
) -> tuple[tuple[float, float, int], tuple[str, float] | None, Interval | None, list[tuple[str, int, float, float]]]:
    from sklearn.metrics import average_precision_score

    logits = [head.predict_logits(x) for head in finalists]
    f1 = _f1_by_label(finalists[0].predict(x), truth)
    occurs = truth.sum(axis=0) > 0
    by_label = [
        (label, int(truth[:, c].sum()), float(average_precision_score(truth[:, c], logits[0][:, c])), float(f1[c]))
        for c, label in enumerate(labels)
        if occurs[c]
    ]
    means = [multilabel_average_precision(truth, one) for one in logits]
    figures = (means[0], float(f1[occurs].mean()), len(truth))
    if len(finalists) < 2:
        return figures, None, None, by_label
    rng = np.random.default_rng([seed, 6])
    gaps = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(truth), len(truth))
        if truth[rows].any():
            first, second = (multilabel_average_precision(truth[rows], one[rows]) for one in logits)
            gaps.append(first - second)
    low, high = np.quantile(gaps, [0.025, 0.975])
    return figures, (scores[1].name, means[1]), Interval(means[0] - means[1], float(low), float(high)), by_label
