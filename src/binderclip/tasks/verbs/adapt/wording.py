"""The words of `binderclip adapt` for what was found, in the terminal and in the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binderclip.adapt.selection import Interval, LabelScore, LabelSelection, MethodScore, Selection

COLUMNS = ("method", "accuracy", "95%", "macro-F1", "cal. error", "fit s", "trained")
LABEL_COLUMNS = ("method", "mAP", "95%", "macro-F1", "fit s")


def score_row(score: MethodScore) -> tuple[Any, ...]:
    """What `COLUMNS` say of a method; empty where a single method was not judged."""
    figures = [value if value == value else "" for value in (score.accuracy.value, score.macro_f1, score.calibration)]
    return (score.name, figures[0], interval_text(score.accuracy), *figures[1:], score.seconds, score.parameters)


def label_row(score: LabelScore) -> tuple[Any, ...]:
    """What `LABEL_COLUMNS` say of a method."""
    precision = score.mean_average_precision
    return score.name, precision.value, interval_text(precision), score.macro_f1, score.seconds


def labels_verdict(selection: LabelSelection) -> list[str]:
    """What a person should take away of a multi-label selection."""
    best = selection.scores[0]
    lines = [
        f"Chosen: {best.name}. Choosing the best of {len(selection.scores)} flatters its "
        f"{best.mean_average_precision.value:.3f} by about {selection.optimism:.3f}."
    ]
    if selection.test is None:
        return [*lines, "There is no picture to spare for a test."]
    value, f1, count = selection.test
    lines.append(f"On {count} test pictures, looked at once: mAP {value:.3f}, macro-F1 {f1:.3f}.")
    if selection.runner_up is not None and selection.difference is not None:
        name, other = selection.runner_up
        sure = "no proof that it is better" if selection.difference.low <= 0 else "a real difference"
        lines.append(f"Against {name} ({other:.3f}) on the same pictures: {selection.difference} more: {sure}.")
    return lines


def interval_text(interval: Interval) -> str:
    """Both limits, or that one draw has none."""
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval.low == interval.low else "one draw"


def verdict(selection: Selection) -> list[str]:
    """What a person should take away, in a few sentences."""
    best = selection.scores[0]
    lines = []
    if len(selection.scores) > 1:
        lines.append(
            f"Chosen: {best.name}. Choosing the best of {len(selection.scores)} flatters its "
            f"{best.accuracy.value:.3f} by about {selection.optimism:.3f}."
        )
    if selection.test is None:
        return [*lines, "No class has a picture to spare for a test: there is no test figure."]
    test = selection.test
    lines.append(
        f"On {len(test.probs)} test pictures, looked at once: accuracy {test.accuracy}, macro-F1 {test.macro_f1:.3f}, "
        f"calibration error {test.calibration:.3f} (temperature {selection.temperature:.3g})."
    )
    if selection.paired is not None and selection.runner_up is not None:
        only, other, p = selection.paired
        sure = "a real difference" if p < 0.05 else "no proof that it is better"
        lines.append(
            f"Against {selection.runner_up.name} ({selection.runner_up.accuracy.value:.3f}) on the same pictures: "
            f"right alone {only} times against {other}, p = {p:.2g}: {sure}."
        )
    if selection.rejected == selection.rejected:
        lines.append(
            f"'None of these' below probability {selection.threshold:.2f} keeps {selection.keep:.0%} of pictures like "
            f"yours and would have refused {selection.rejected:.0%} of the test mistakes."
        )
    return lines
