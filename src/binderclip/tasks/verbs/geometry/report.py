"""The page of `binderclip geometry`."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import chi

from binderclip.display import new_figure, number_of
from binderclip.evaluate import conformity
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture, small_picture
from binderclip.tasks.verbs.geometry.result import FIGURE_COLUMNS, Geometry, figure_rows, recall_table

if TYPE_CHECKING:
    pass

SIDE, MOST, DOTS = 132, 12, 1500
"""Side of a picture in pixels, pictures of each kind, and points of a modality in the scatter plot."""


def write_report(result: Geometry, path: Path) -> Path:
    """Write the page, self-contained."""
    page = Page(
        f"Where {result.model} puts pictures and texts",
        f"{number_of(len(result.pairs.image), 'pair')} of {escape(result.source)}. Made by "
        f"<code>binderclip geometry</code>.",
    )
    page.section(
        "Two clouds",
        "Pictures and texts of a contrastive model lie in two thin shells about two means. The gap between them does "
        "no harm while pictures alone are searched by texts alone; in a collection of both it puts everything of the "
        "query's own kind first.",
    )
    page.picture(
        figure_picture(_clouds(result)),
        "the two main directions of all unit embeddings; how like all others of its kind each one is; how the variance "
        "is spread over directions",
    )
    page.table(FIGURE_COLUMNS, figure_rows(result.figures.table()))
    page.section(
        "Without the gap",
        "The second half of the pairs is searched by cosine, as they are and with each modality's mean, taken from the "
        "first half, removed from its unit embeddings.",
    )
    columns, rows = recall_table(result.recall)
    page.table(columns, rows)
    page.section(
        "Moving the means",
        f"The contrastive loss (at the model's own scale, {result.scale:.0f}) where a share of its mean is taken off "
        "each modality: 0 is as trained, 1 is centred. The dot marks the least of these.",
    )
    page.picture(figure_picture(_landscape(result)), "contrastive loss over moved means")
    if result.usual is not None:
        _usual(page, result)
    if result.left_out:
        page.section("Not measured", "<br>".join(escape(line) for line in result.left_out))
    if result.skipped:
        page.section("Not read", f"{number_of(len(result.skipped), 'picture')} could not be read and count nowhere.")
        page.table(("picture", "why"), [list(entry) for entry in result.skipped[:50]])
    return page.save(path)


def _clouds(result: Geometry) -> Any:
    figure = new_figure(11, 3.4)
    axes = figure.subplots(1, 3)
    image, text = result.pairs.image, result.pairs.text
    together = torch.cat([image.unit, text.unit])
    _, _, turned = torch.pca_lowrank(together, q=2, center=True, niter=4)
    for part, colour, name in ((image, "C0", "pictures"), (text, "C1", "texts")):
        flat = ((part.unit - together.mean(0)) @ turned)[:DOTS].numpy()
        axes[0].plot(flat[:, 0], flat[:, 1], ".", markersize=2, color=colour, alpha=0.6, label=name)
        axes[1].hist(conformity(part.features).numpy(), 40, color=colour, alpha=0.6, density=True, label=name)
        values = torch.linalg.eigvalsh(torch.cov(part.features.T)).flip(0).clamp(min=0)
        axes[2].semilogy((values / values.sum()).clamp(min=1e-7).numpy(), color=colour, label=name)
    axes[0].set(title="two main directions")
    axes[1].set(title="conformity", xlabel="mean cosine with all others", yticks=[])
    axes[2].set(title="variance by direction", xlabel="direction", ylabel="share")
    for ax in axes:
        ax.legend(fontsize=8, markerscale=4)
    return figure


def _landscape(result: Geometry) -> Any:
    figure = new_figure(4.6, 3.6)
    ax = figure.subplots()
    alphas, loss = result.landscape.alphas, result.landscape.loss.numpy()
    shown = ax.imshow(loss.T, origin="lower", cmap="viridis")
    ticks = range(len(alphas))
    labels = [f"{alpha:g}" for alpha in alphas]
    ax.set_xticks(ticks, labels)
    ax.set_yticks(ticks, labels)
    ax.set(xlabel="share of the pictures' mean", ylabel="share of the texts' mean")
    ax.plot(*(alphas.index(alpha) for alpha in result.landscape.best), "wo", markeredgecolor="k")
    figure.colorbar(shown, ax=ax, label="loss")
    return figure


def _usual(page: Page, result: Geometry) -> None:
    usual = result.usual
    assert usual is not None
    page.section(
        "Usual and unusual pictures",
        "Embeddings of the second half, whitened by mean and covariance of the first half. The density of a standard "
        "normal there says how usual each one is: the better, the nearer the lengths are to the line. Compare "
        "likelihoods within one modality alone.",
    )
    page.picture(
        figure_picture(_likelihoods(result)),
        "lengths of whitened image embeddings, beside those of a standard normal; likelihoods of both modalities",
    )
    order = usual.image.argsort().tolist()
    for title, chosen in (("Least usual", order[:MOST]), ("Most usual", order[::-1][:MOST])):
        page.text(f"{title}:")
        shown = []
        for place in chosen:
            row = int(usual.rows[place])
            picture = small_picture(result.data, row, SIDE)
            if picture is not None:
                shown.append((picture, f"{float(usual.image[place]):.0f}  {str(result.data.captions[row])[:60]}"))
        page.strip(shown, width=SIDE)


def _likelihoods(result: Geometry) -> Any:
    usual = result.usual
    assert usual is not None
    figure = new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    # -2 l = k ln 2 pi + |y|^2
    lengths = (-2 * usual.image - usual.width * math.log(2 * math.pi)).clamp(min=0).sqrt().numpy()
    left.hist(lengths, 40, density=True, color="C0", alpha=0.7, label="pictures")
    middle = math.sqrt(usual.width)
    at = np.linspace(min(lengths.min(), middle - 3), max(lengths.max(), middle + 3), 300)
    left.plot(at, chi.pdf(at, usual.width), "k", label="standard normal")
    left.set(xlabel="length of the whitened embedding", yticks=[])
    left.legend(fontsize=8)
    for values, colour, name in ((usual.image, "C0", "pictures"), (usual.text, "C1", "texts")):
        right.hist(values.numpy(), 40, color=colour, alpha=0.6, density=True, label=name)
    right.set(xlabel="log-likelihood", yticks=[])
    right.legend(fontsize=8)
    return figure
