"""Pictures of losses along lines and over planes; what is not finite is a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.display import new_figure, number_of

if TYPE_CHECKING:
    from binderclip.landscape.surface.interpolation import InterpolationCurve
    from binderclip.landscape.surface.surfaces import LossCurve, LossSurface
    from binderclip.landscape.surface.trajectory import TrajectoryPlane

WIDE = 30.0
"""Ratio of the largest to the least loss above which colours follow its logarithm."""


def curve_figure(curve: LossCurve) -> Any:
    """The loss over alpha, and the accuracy on the right."""
    figure = new_figure(5.2, 3.4)
    draw_curve(figure.subplots(), curve)
    return figure


def draw_curve(axes: Any, curve: LossCurve) -> None:
    """Draw a curve into axes; NaN and infinity break the line."""
    alphas, loss = curve.alphas.numpy(), np.ma.masked_invalid(curve.loss.numpy())
    axes.plot(alphas, loss, color="C0")
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel="step along the direction", title=_gaps(curve.gaps))
    axes.set_ylabel("loss", color="C0")
    if loss.count() and loss.min() > 0 and loss.max() > WIDE * loss.min():
        axes.set_yscale("log")
    if curve.accuracy is not None:
        right = axes.twinx()
        right.plot(alphas, np.where(loss.mask, np.nan, curve.accuracy.numpy()), color="C1", linewidth=1)
        right.set_ylim(0, 1)
        right.set_ylabel("accuracy", color="C1")


def surface_figure(surface: LossSurface, trajectory: TrajectoryPlane | None = None) -> Any:
    """Contours of the loss, with an optimizer's way over them where one is given."""
    figure = new_figure(5.2, 4.2)
    axes = figure.subplots()
    shown = draw_surface(axes, surface)
    if shown is not None:
        figure.colorbar(shown, ax=axes, label="loss", format="%.2g")
    if trajectory is not None:
        axes.plot(*trajectory.coordinates.numpy().T, "o-", color="C3", markersize=3, linewidth=1)
        axes.set(xlabel=f"component 1 ({trajectory.explained[0]:.0%})",
                 ylabel=f"component 2 ({trajectory.explained[1]:.0%})")  # fmt: skip
    return figure


def draw_surface(axes: Any, surface: LossSurface) -> Any:
    """Draw contours into axes.

    Returns:
        What a colour bar is made of; None where no point is finite.
    """
    from matplotlib.colors import LogNorm

    alphas, betas = surface.alphas.numpy(), surface.betas.numpy()
    loss = np.ma.masked_invalid(surface.loss.numpy().T)  # b down, a across, as matplotlib has them
    axes.set(xlabel="first direction", ylabel="second direction", title=_gaps(surface.gaps))
    axes.locator_params(nbins=5)
    axes.set_facecolor("0.85")
    if not loss.count():
        axes.text(0.5, 0.5, "no finite loss", ha="center", va="center", transform=axes.transAxes)
        return None
    low, high = float(loss.min()), float(loss.max())
    wide = low > 0 and high > WIDE * low
    if min(loss.shape) < 2 or low == high:
        return axes.imshow(loss, origin="lower", extent=(alphas[0], alphas[-1], betas[0], betas[-1]), aspect="auto")
    levels = np.geomspace(low, high, 24) if wide else np.linspace(low, high, 24)
    norm = LogNorm(low, high) if wide else None
    shown = axes.contourf(alphas, betas, loss, levels=levels, norm=norm, cmap="viridis")
    axes.contour(alphas, betas, loss, levels=levels[::2], norm=norm, colors="white", linewidths=0.4)
    axes.plot(0, 0, "+", color="white", markersize=8)
    return shown


def _gaps(count: int) -> str:
    return f"{number_of(count, 'point')} without a finite loss" if count else ""


def interpolation_figure(curve: InterpolationCurve) -> Any:
    """Accuracy and loss of every set over the weight of the second model; what is not finite is a gap."""
    panels = [("loss", curve.loss)] if curve.accuracy is None else [("accuracy", curve.accuracy), ("loss", curve.loss)]
    figure = new_figure(4.2 * len(panels), 3.2)
    alphas = curve.alphas.numpy()
    for ax, (title, sets) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, values) in enumerate(sets.items()):
            shown = np.where(curve.loss[name].isfinite().numpy(), values.numpy(), np.nan)
            ax.plot(alphas, shown, "o-", markersize=3, color=f"C{number}", label=name)
            ax.plot(alphas[[0, -1]], shown[[0, -1]], ":", color=f"C{number}", linewidth=1)
        ax.set(xlabel="weight of the second model", ylabel=title)
        ax.legend(fontsize=8)
    return figure
