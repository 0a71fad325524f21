"""The report of `binderclip anomaly`: the figures, the scores of good and damaged pictures, and where it looks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.report.page import Page

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.tasks.verbs.anomaly.inspection import Inspection

PAIRS = 24
CALM = 6
SIDE = 150


def write_report(done: Inspection) -> Path:
    """Write the page, self-contained."""
    request = done.settled
    page = Page(
        f"Anomalies in {done.folder.root.name or done.folder.root}",
        f"{number_of(len(done.pictures), 'picture')} of <q>{escape(request.name)}</q>, compared with {done.against}; "
        f"method <code>{escape(request.method)}</code>, model <code>{escape(str(request.model))}</code>. Made by "
        "<code>binderclip anomaly</code>.",
    )
    if values := done.figures():
        text = "Against the folder's own labels"
        text += (
            f" and {number_of(done.masks, 'mask')}."
            if done.masks
            else "; no masks were found, so places are not measured."
        )
        page.section("Measured", text)
        page.table(["measure", "value"], [[name, value] for name, value in values.items()])
    page.section("Scores", _scores_text(done))
    page.picture(_histogram(done))
    order = done.order()
    page.section(
        "Most anomalous",
        "Each picture beside its map; one colour scale for all, from the median of all places to the highest.",
    )
    page.strip([(_pair(done, row), _caption(done, row)) for row in order[:PAIRS]], width=2 * SIDE + 4)
    if len(order) > PAIRS:
        page.section("Least anomalous", "For comparison, on the same scale.")
        rows = order[PAIRS:][-CALM:][::-1]
        page.strip([(_pair(done, row), _caption(done, row)) for row in rows], width=2 * SIDE + 4)
    if done.skipped:
        page.section("Left out", f"{number_of(len(done.skipped), 'file')} could not be used.")
        page.table(["file", "why"], [[Path(key).name, reason] for key, reason in done.skipped])
    return page.save(done.report)


def _scores_text(done: Inspection) -> str:
    text = "Scores rank pictures of one folder; they are no probabilities."
    if done.held is not None:
        text += (
            f" The marks below are the {len(done.held)} normal pictures, each compared with the others. p is the share "
            "of normal pictures, the picture itself among them, that score as high: small is suspicious."
        )
    if done.threshold is not None:
        text += (
            f" {done.failed()} of {number_of(len(done.pictures), 'picture')} at or above {done.threshold:.4g} failed."
        )
    return text


def _caption(done: Inspection, row: int) -> str:
    entry, chance = done.pictures[row], done.chance(row)
    known = f", is {done.label(row)}" if done.label(row) else ""
    p = "" if chance is None else f", p {chance:.2f}"
    known += ", FAILS" if done.fails(row) else ""
    return f"{entry.kind + '/' if entry.kind else ''}{entry.path.name}: {float(done.found.scores[row]):.3f}{p}{known}"


def _pair(done: Inspection, row: int) -> Image.Image:
    """A picture and its overlay, side by side."""
    from PIL import Image

    from binderclip.data.images import contained, open_image

    picture = open_image(done.pictures[row].path)
    shown = done.found.overlay(picture, row, limits=done.found.limits())
    pair = Image.new("RGB", (2 * SIDE + 4, SIDE), "white")
    for left, part in ((0, picture), (SIDE + 4, shown)):
        fitted = contained(part, SIDE)
        pair.paste(fitted, (left + (SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
    return pair


def _histogram(done: Inspection) -> Image.Image:
    import io

    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image as Pictures

    figure = Figure(figsize=(7.0, 2.6), dpi=110, layout="constrained")
    ax: Any = figure.subplots()
    scores = done.found.scores.double().numpy()
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, 31)
    groups: dict[str, list[float]] = {}
    for row in range(len(scores)):
        groups.setdefault(done.label(row) or "not known", []).append(float(scores[row]))
    colours = {"good": "C0", "damaged": "C3", "not known": "0.5"}
    for label, values in groups.items():
        ax.hist(values, edges, alpha=0.65, color=colours[label], label=f"{label} ({len(values)})")
    if done.held is not None:
        ax.plot(done.held.numpy(), np.zeros(len(done.held)), "|", color="k", markersize=14, label="normal pictures")
    if done.threshold is not None:
        ax.axvline(done.threshold, color="C3", linestyle="--", label="fails from here")
    ax.set(xlabel="score", ylabel="pictures")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return Pictures.open(buffer).convert("RGB")
