"""The report of `binderclip adapt`: one page with the table, the curves, and the mistakes as pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.display import number_of
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.adapt.selection import LabelSelection, Selection
    from binderclip.models import ImageTextModel

MISTAKES = 12
NAMED = 30
"""Most classes whose names fit beside a confusion matrix."""


def write_report(selection: Selection, model: ImageTextModel, name: str, path: str | Path) -> Path:
    """Write the page, self-contained.

    Args:
        found: what `select_head` gave.
        model: draws where the winner looks.
        name: of the data, for the title.
        path: of the HTML file.
    """
    from binderclip.tasks.verbs.adapt.wording import verdict

    page = Page(
        f"{selection.scores[0].name} on {name}",
        f"{number_of(len(selection.classes), 'class')}, {number_of(selection.shots, 'shot')} each, "
        f"model <code>{escape(selection.model)}</code>. Made by "
        "<code>binderclip adapt</code>.",
    )
    page.section("Result", " ".join(escape(line) for line in verdict(selection)))
    for line in selection.notes:
        page.text(f"Note: {escape(line)}.")
    _table(page, selection)
    if any(len(points) > 1 for points in selection.curve.values()):
        page.section(
            "Learning curve", "Accuracy on held-out folds, fitted on fewer shots. Still rising? More pictures help."
        )
        page.picture(_curve(selection))
    if selection.test is not None:
        _test_sections(page, selection, model)
    return page.save(path)


def write_labels_report(selection: LabelSelection, name: str, path: str | Path) -> Path:
    """The page of a multi-label selection: the table, and every label's figures on the test part."""
    from binderclip.tasks.verbs.adapt.wording import label_row, labels_verdict

    page = Page(
        f"{selection.scores[0].name} on {name}",
        f"{number_of(len(selection.labels), 'label')}, several a picture, {number_of(selection.shots, 'shot')} each, "
        f"model <code>{escape(selection.model)}</code>. Made by <code>binderclip adapt</code>.",
    )
    page.section("Result", " ".join(escape(line) for line in labels_verdict(selection)))
    for line in selection.notes:
        page.text(f"Note: {escape(line)}.")
    page.section("Methods", "Mean average precision by cross-validation inside the shots; the interval is over draws.")
    page.table(["method", "mAP", "95%", "macro-F1", "fit (s)"], [list(label_row(score)) for score in selection.scores])
    if selection.by_label:
        page.section("Labels", "On the test pictures, hardest first.")
        rows = sorted(selection.by_label, key=lambda row: row[2])
        page.table(["label", "pictures", "average precision", "F1"], [list(row) for row in rows])
    return page.save(path)


def _table(page: Page, selection: Selection) -> None:
    page.section(
        "Methods",
        "Every method on the same draws, judged by cross-validation inside the shots; the test part plays no role. "
        "The interval is over the draws.",
    )
    rows = [
        [
            s.name,
            s.cost,
            s.accuracy.value,
            f"{s.accuracy.low:.3f} to {s.accuracy.high:.3f}" if len(s.by_seed) > 1 else "",
            s.macro_f1,
            s.calibration,
            s.seconds,
            s.parameters,
        ]
        for s in selection.scores
    ]
    columns = ["method", "how", "accuracy", "95%", "macro-F1", "calibration error", "fit (s)", "trained numbers"]
    page.table(columns, rows)
    if selection.left_out:
        page.text("Left out: " + "; ".join(f"{escape(n)} ({escape(why)})" for n, why in selection.left_out) + ".")


def _test_sections(page: Page, selection: Selection, model: ImageTextModel) -> None:
    assert selection.test is not None
    page.section("Confusion", "Test pictures: the true class by row, the answer by column, as a share of the row.")
    page.picture(_confusion(selection))
    page.section(
        "Calibration",
        "Confidence after the temperature against the share that was right, in bins of equal size. On the line, "
        "a probability means what it says.",
    )
    page.picture(_reliability(selection))
    pictures = _mistakes(selection, model)
    page.section(
        "Mistakes",
        "The most confident wrong answers, each beside where the winner looks for its answer."
        if pictures
        else "There was no mistake on the test pictures.",
    )
    if pictures:
        page.strip(pictures, width=230)


def _mistakes(selection: Selection, model: ImageTextModel) -> list[tuple[Any, str]]:
    """Picture and overlay side by side, with what was said and what is true."""
    from PIL import Image

    from binderclip.errors import BinderclipError
    from binderclip.explain import Saliency

    assert selection.test is not None
    probs, targets = selection.test.probs, selection.targets[selection.parts.test]
    predicted = probs.argmax(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    wrong = wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")][:MISTAKES]
    rows = selection.encoded.rows[selection.parts.test[wrong]]
    data = selection.data
    place = [list(selection.head.classes_).index(name) for name in selection.classes]
    predictor = selection.head.predictor(model)
    entries: list[tuple[Any, str]] = []
    for row, index in zip(rows.tolist(), wrong.tolist(), strict=True):
        picture = data[row].image.convert("RGB")
        picture = picture.resize((112, 112)) if max(picture.size) < 112 else picture
        pair = Image.new("RGB", (230, 112), "white")
        pair.paste(_contained(picture), (0, 0))
        try:
            seen = Saliency()(predictor, [picture], place[int(predicted[index])]).overlay(picture)
            pair.paste(_contained(seen.convert("RGB")), (118, 0))
        except BinderclipError:
            # A head that cannot be differentiated still has its mistake shown.
            pass
        answer, truth = selection.classes[predicted[index]], selection.classes[targets[index]]
        says = f"{answer} {probs[index, predicted[index]]:.2f}, is {truth}"
        entries.append((pair, f"{says} ({data.keys[row]})"))
    return entries


def _contained(picture: Image.Image) -> Image.Image:
    from PIL import Image

    from binderclip.data.images import contained

    card, inside = Image.new("RGB", (112, 112), "white"), contained(picture, 112)
    card.paste(inside, ((112 - inside.width) // 2, (112 - inside.height) // 2))
    return card


def _curve(selection: Selection) -> Image.Image:
    figure, axes = _figure(7.0, 3.6)
    for name, points in selection.curve.items():
        axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", markersize=4, label=name)
    shots = sorted({p[0] for points in selection.curve.values() for p in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(s) for s in shots])
    axes.set(xlabel="shots a class", ylabel="accuracy", ylim=(0, 1))
    axes.legend(frameon=False)
    return figure_picture(figure)


def _confusion(selection: Selection) -> Image.Image:
    assert selection.test is not None
    counts = selection.test.confusion
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    size = min(9.0, 2.5 + 0.32 * len(counts))
    figure, axes = _figure(size + 1.5, size)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.045)
    if len(counts) <= NAMED:
        axes.set_xticks(range(len(counts)), selection.classes, rotation=60, ha="right")
        axes.set_yticks(range(len(counts)), selection.classes)
    if len(counts) <= 15:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="answer", ylabel="true class")
    return figure_picture(figure)


def _reliability(selection: Selection) -> Image.Image:
    assert selection.test is not None
    figure, axes = _figure(4.4, 4.0)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    bins = selection.test.reliability
    axes.plot([b[0] for b in bins], [b[1] for b in bins], marker="o")
    axes.axvline(selection.threshold, color="C3", linestyle=":", linewidth=1, label="none of these below")
    axes.set(xlabel="confidence", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return figure_picture(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots()
