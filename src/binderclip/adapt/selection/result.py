"""What choosing a head gives: the table, the winner, the one look at the test part, and what to know about the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.adapt.heads.saving import save_head
from binderclip.adapt.selection.encoded import Encoded
from binderclip.adapt.selection.measures import Interval
from binderclip.adapt.selection.splits import DataSplit

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset


@dataclass(frozen=True)
class MethodScore:
    """One row of the table: figures by cross-validation inside the shots, never from the test part.

    Attributes:
        accuracy: mean over seeds with its interval.
        by_seed: accuracy of each seed.
        macro_f1, calibration: means over seeds; the calibration error is that of the head as it is.
        seconds: processor time of one fit with tuning.
        parameters: trained numbers.
    """

    name: str
    cost: str
    accuracy: Interval
    by_seed: list[float]
    macro_f1: float
    calibration: float
    seconds: float
    parameters: int
    fold_errors: list[float] = field(repr=False)
    loss: float = field(repr=False)


@dataclass(frozen=True)
class Examined:
    """One head on the test part, after the choice.

    Attributes:
        accuracy: with Wilson's interval. macro_f1. calibration: after the temperature.
        reliability: (confidence, accuracy, pictures) a bin.
        confusion: (C, C) counts, row true, column said.
        probs: (T, C) of the test pictures.
    """

    name: str
    accuracy: Interval
    macro_f1: float
    calibration: float
    reliability: list[tuple[float, float, int]]
    confusion: np.ndarray
    probs: np.ndarray


@dataclass(frozen=True)
class Selection:
    """What `select_head` found.

    Attributes:
        scores: the candidates, best first.
        head: the winner, fitted on all shots of the first seed.
        classes: names in the order of the columns.
        test: the winner on the test part; None where there is no test picture.
        runner_up: the second on the same pictures.
        paired: (only the winner right, only the second right, p) of the exact McNemar test.
        optimism: by how much choosing among the candidates flatters the winner's accuracy.
        temperature: divides the winner's logits to calibrated ones.
        threshold: least top probability; below it the answer is 'none of these'. Chosen on held-out shots.
        keep: share of pictures of the classes that the threshold keeps.
        rejected: share of the winner's test mistakes that the threshold would have refused; NaN without mistakes.
        curve: method -> (shots, accuracy) by cross-validation.
        left_out: (method, why).
        notes: what a user should know about the data.
        data, parts, encoded, targets: the pictures that were looked at, for reports.
        seconds: wall time.
    """

    scores: list[MethodScore]
    head: Any
    classes: list[str]
    test: Examined | None
    runner_up: Examined | None
    paired: tuple[int, int, float] | None
    optimism: float
    temperature: float
    threshold: float
    keep: float
    rejected: float
    curve: dict[str, list[tuple[int, float]]]
    left_out: list[tuple[str, str]]
    notes: list[str]
    data: ImageTextDataset
    parts: DataSplit
    encoded: Encoded
    targets: np.ndarray
    shots: int
    seeds: int
    seconds: float
    model: str

    def _repr_html_(self) -> str:
        """The table of methods, the choice and the one look at the test part, in a notebook."""
        from html import escape

        from binderclip.display import table_html

        rows = [(s.name, s.accuracy.value, s.accuracy.limits, s.macro_f1, s.calibration) for s in self.scores]
        table = table_html(("method", "accuracy", "95 %", "macro-F1", "calibration error"), rows, most=len(rows))
        summary = f"Chosen: {self.scores[0].name}; choosing flatters it by about {self.optimism:.3f}."
        if self.test is not None:
            accuracy = self.test.accuracy
            summary += f" On the test pictures: {accuracy}."
        return f"{table}<p>{escape(summary)}</p>"

    def plot(self) -> Any:
        """A matplotlib figure: accuracy of every method with its interval, and the learning curve."""
        from binderclip.display import bars, new_figure

        figure = new_figure(10, 1.2 + 0.28 * max(5, len(self.scores)))
        left, right = figure.subplots(1, 2)
        values = [s.accuracy.value for s in self.scores]
        errors = [s.accuracy.errors for s in self.scores]
        bars(left, [s.name for s in self.scores], values, errors=errors)
        left.set_xlim(0, 1)
        left.set_xlabel("accuracy by cross-validation, 95 %")
        for name, points in self.curve.items():
            right.plot(*zip(*points, strict=True), marker="o", label=name)
        right.xaxis.get_major_locator().set_params(integer=True)
        right.set_xlabel("pictures a class")
        right.set_ylabel("accuracy")
        if self.curve:
            right.legend(frameon=False)
        return figure

    def figures(self) -> dict[str, Any]:
        """Everything but pictures, as plain values for JSON; times stand apart, the rest repeats with the seed."""
        return {
            "model": self.model,
            "classes": self.classes,
            "shots": self.shots,
            "seeds": self.seeds,
            "winner": self.scores[0].name,
            "methods": [
                {
                    "method": s.name,
                    "accuracy": s.accuracy.value,
                    "interval": [s.accuracy.low, s.accuracy.high],
                    "by_seed": s.by_seed,
                    "macro_f1": s.macro_f1,
                    "calibration_error": s.calibration,
                    "parameters": s.parameters,
                }
                for s in self.scores
            ],
            "optimism": self.optimism,
            "test": None if self.test is None else _examined(self.test),
            "runner_up": None if self.runner_up is None else _examined(self.runner_up),
            "paired": None if self.paired is None else dict(zip(("first", "second", "p"), self.paired, strict=True)),
            "temperature": self.temperature,
            "abstain": {"threshold": self.threshold, "keeps": self.keep, "mistakes_refused": self.rejected},
            "curve": {name: [list(point) for point in points] for name, points in self.curve.items()},
            "left_out": [list(pair) for pair in self.left_out],
            "notes": self.notes,
            "seconds": {"all": self.seconds, **{s.name: s.seconds for s in self.scores}},
        }

    def save(self, folder: str | Path) -> Path:
        """Write the winner as a folder that `load_head` and `binderclip classify --head` read."""
        about = {
            "method": self.scores[0].name,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "shots": self.shots,
            "cross_validated_accuracy": self.scores[0].accuracy.value,
            "test_accuracy": None if self.test is None else self.test.accuracy.value,
        }
        return save_head(self.head, folder, model=self.model, about=about)


def _examined(examined: Examined) -> dict[str, Any]:
    return {
        "method": examined.name,
        "accuracy": examined.accuracy.value,
        "interval": [examined.accuracy.low, examined.accuracy.high],
        "macro_f1": examined.macro_f1,
        "calibration_error": examined.calibration,
        "pictures": len(examined.probs),
    }
