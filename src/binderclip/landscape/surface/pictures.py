"""Pictures of losses along lines and over planes; what is not finite is a gap."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from binderclip.display import new_figure, number_of

WIDE = 30.0
"""Ratio of the largest to the least loss above which colours follow its logarithm."""

FEW = 41
"""Points along a side up to which each is drawn."""


def curve_figure(alphas: Float[Tensor, "A"], loss: Float[Tensor, "A"], accuracy: Float[Tensor, "A"] | None) -> Any:
    """The loss over alpha, and the accuracy on the right; NaN and infinity break the line."""
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    places, losses = alphas.numpy(), np.ma.masked_invalid(loss.numpy())
    axes.plot(places, losses, ".-" if len(places) <= FEW else "-", color="C0")
    axes.locator_params(axis="x", nbins=6)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel="step along the direction", title=_gaps(loss))
    axes.set_ylabel("loss", color="C0")
    if losses.count() and losses.min() > 0 and losses.max() > WIDE * losses.min():
        axes.set_yscale("log")
    if accuracy is not None:
        right = axes.twinx()
        right.plot(places, np.where(losses.mask, np.nan, accuracy.numpy()), color="C1", linewidth=1)
        right.set_ylim(0, 1)
        right.set_ylabel("accuracy", color="C1")
    return figure


def surface_figure(
    alphas: Float[Tensor, "A"],
    betas: Float[Tensor, "B"],
    loss: Float[Tensor, "A B"],
    way: Float[Tensor, "n 2"] | None = None,
    explained: tuple[float, float] = (0.0, 0.0),
) -> Any:
    """Contours of the loss, with an optimizer's way over them where one is given.

    Args:
        alphas, betas: coordinates.
        loss: at each point, a down and b across.
        way: coordinates of checkpoints.
        explained: part of their variance along each direction.
    """
    figure = new_figure(5.2, 4.2)
    axes = figure.subplots()
    shown = _draw_surface(axes, alphas, betas, loss)
    if shown is not None:
        figure.colorbar(shown, ax=axes, label="loss", format="%.2g")
    if way is not None:
        axes.plot(*way.numpy().T, "o-", color="C3", markersize=3, linewidth=1)
        axes.set(xlabel=f"component 1 ({explained[0]:.0%})", ylabel=f"component 2 ({explained[1]:.0%})")
    return figure


def _draw_surface(axes: Any, alphas: Float[Tensor, "A"], betas: Float[Tensor, "B"], loss: Float[Tensor, "A B"]) -> Any:
    """Contours; what a colour bar is made of, or None where no point is finite."""
    from matplotlib.colors import LogNorm

    a, b = alphas.numpy(), betas.numpy()
    losses = np.ma.masked_invalid(loss.numpy().T)  # b down, a across, as matplotlib has them
    axes.set(xlabel="first direction", ylabel="second direction", title=_gaps(loss))
    axes.locator_params(nbins=5)
    axes.set_facecolor("0.85")
    if not losses.count():
        axes.text(0.5, 0.5, "no finite loss", ha="center", va="center", transform=axes.transAxes)
        return None
    low, high = float(losses.min()), float(losses.max())
    wide = low > 0 and high > WIDE * low
    if min(losses.shape) < 2 or low == high:
        return axes.imshow(losses, origin="lower", extent=(a[0], a[-1], b[0], b[-1]), aspect="auto")
    levels = np.geomspace(low, high, 24) if wide else np.linspace(low, high, 24)
    norm = LogNorm(low, high) if wide else None
    shown = axes.contourf(a, b, losses, levels=levels, norm=norm, cmap="viridis")
    axes.contour(a, b, losses, levels=levels[::2], norm=norm, colors="white", linewidths=0.4)
    if max(losses.shape) <= FEW:  # between the points contours are guessed, which a coarse grid must not hide
        axes.plot(*(grid.ravel() for grid in np.meshgrid(a, b)), ".", color="white", markersize=2)
    axes.plot(0, 0, "+", color="white", markersize=8)
    return shown


def _gaps(loss: Tensor) -> str:
    count = int((~loss.isfinite()).sum())
    return f"{number_of(count, 'point')} without a finite loss" if count else ""


def interpolation_figure(
    alphas: Float[Tensor, "A"], loss: dict[str, Float[Tensor, "A"]], accuracy: dict[str, Float[Tensor, "A"]] | None
) -> Any:
    """Accuracy and loss of every set over the weight of the second model; what is not finite is a gap."""
    panels = [("loss", loss)] if accuracy is None else [("accuracy", accuracy), ("loss", loss)]
    figure = new_figure(4.2 * len(panels), 3.2)
    places = alphas.numpy()
    for ax, (title, sets) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, values) in enumerate(sets.items()):
            shown = np.where(loss[name].isfinite().numpy(), values.numpy(), np.nan)
            ax.plot(places, shown, "o-", markersize=3, color=f"C{number}", label=name)
            ax.plot(places[[0, -1]], shown[[0, -1]], ":", color=f"C{number}", linewidth=1)
        ax.set(xlabel="weight of the second model", ylabel=title)
        ax.legend(fontsize=8)
    return figure
