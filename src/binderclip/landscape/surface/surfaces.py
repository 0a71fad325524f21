"""The loss along a line and over a plane of the weights."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.directions import direction_cosine
from binderclip.landscape.surface.moving import (
    Direction,
    Displaced,
    FixedBatches,
    ModelLoss,
    OnPoint,
    Progress,
    checked_grid,
    classification_figures,
)
from binderclip.numeric import check_number

GRID = tuple(step / 25 - 1 for step in range(51))
"""The official grid: 51 points from -1 to 1."""


@dataclass(frozen=True)
class LossCurve:
    """The loss along a line, L(w + a d).

    Attributes:
        alphas: a, rising.
        loss: mean over the data at each; NaN or infinite where it is.
        accuracy: at each; None where the loss function gives none.
    """

    alphas: Float[Tensor, "A"]
    loss: Float[Tensor, "A"]
    accuracy: Float[Tensor, "A"] | None = None

    @property
    def gaps(self) -> int:
        """Points at which the loss is NaN or infinite; they are left out of the picture."""
        return int((~self.loss.isfinite()).sum())

    def width(self, rise: float = 1.0) -> float:
        """Distance between the two places, left and right of 0, at which the loss has risen by so much.

        Args:
            rise: above the loss at the point nearest to 0.

        Returns:
            In units of alpha; infinity where one side does not rise so far on the grid.

        Raises:
            UsageError: a rise that is not above 0, or a loss that is not finite at 0.
        """
        return sum(self.widths(rise))

    def widths(self, rise: float = 1.0) -> tuple[float, float]:
        """Distances from 0 to the two places, left and right of it, at which the loss has risen by so much.

        Between points the curve is a straight line; a loss that is not finite counts as risen.

        Args:
            rise: see `width`.

        Returns:
            Left and right, in units of alpha; infinity for a side that does not rise so far on the grid.

        Raises:
            UsageError: as `width`.
        """
        check_number("rise", rise, above=0)
        middle = int(self.alphas.abs().argmin())
        start = float(self.loss[middle])
        if not math.isfinite(start):
            raise UsageError(f"the loss at the model itself is {start}: its basin has no width")
        height = torch.where(self.loss.isfinite(), self.loss, torch.inf) - start
        left, right = range(middle, -1, -1), range(middle, len(height))
        return self._crossing(height, left, rise), self._crossing(height, right, rise)

    def _crossing(self, height: Tensor, order: range, rise: float) -> float:
        """Distance from the first place of an order to where the height crosses the rise; infinity for nowhere."""
        alphas = self.alphas.double()
        for before, after in itertools.pairwise(order):
            if float(height[after]) >= rise:
                step, gain = float(alphas[after] - alphas[before]), float(height[after] - height[before])
                part = (rise - float(height[before])) / gain if math.isfinite(gain) else 0.0
                return abs(float(alphas[before] - alphas[order[0]]) + part * step)
        return math.inf

    def plot(self) -> Any:
        """A matplotlib figure: the loss, and the accuracy on an axis of its own; a gap where the loss is not finite."""
        from binderclip.landscape.surface.pictures import curve_figure

        return curve_figure(self.alphas, self.loss, self.accuracy)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the numbers as JSON; NaN becomes null, infinity "inf"."""
        return _save(path, {"alphas": self.alphas, "loss": self.loss, "accuracy": self.accuracy})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LossCurve:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another one.
        """
        fields = _read(path, ("alphas", "loss", "accuracy"))
        return cls(fields["alphas"], fields["loss"], fields["accuracy"])


@dataclass(frozen=True)
class LossSurface:
    """The loss over a plane, L(w + a d1 + b d2).

    Attributes:
        alphas, betas: a and b, rising.
        loss: mean over the data at each point, a down and b across; NaN or infinite where it is.
        accuracy: at each; None where the loss function gives none.
        cosine: of the two directions; far from 0 the plane is drawn skewed.
    """

    alphas: Float[Tensor, "A"]
    betas: Float[Tensor, "B"]
    loss: Float[Tensor, "A B"]
    accuracy: Float[Tensor, "A B"] | None
    cosine: float

    @property
    def gaps(self) -> int:
        """Points at which the loss is NaN or infinite; they are left out of the picture."""
        return int((~self.loss.isfinite()).sum())

    def plot(self) -> Any:
        """A matplotlib figure: contours of the loss over both coordinates; a gap where it is not finite."""
        from binderclip.landscape.surface.pictures import surface_figure

        return surface_figure(self.alphas, self.betas, self.loss)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the numbers as JSON; NaN becomes null, infinity "inf"."""
        fields = {"alphas": self.alphas, "betas": self.betas, "loss": self.loss, "accuracy": self.accuracy}
        return _save(path, fields | {"cosine": self.cosine})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LossSurface:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another one.
        """
        fields = _read(path, ("alphas", "betas", "loss", "accuracy", "cosine"))
        return cls(fields["alphas"], fields["betas"], fields["loss"], fields["accuracy"], float(fields["cosine"]))


def loss_line(
    model: nn.Module,
    batches: Iterable[Any],
    direction: Direction,
    *,
    alphas: Sequence[float] = GRID,
    loss: ModelLoss = classification_figures,
    progress: Progress | None = None,
    on_point: OnPoint | None = None,
) -> LossCurve:
    """The loss along one direction in weight space, the data held fixed.

    The batches are read once and stay on the model's device. The model is in evaluation mode meanwhile, without
    gradients; weights, buffers and modes are put back bit for bit.

    Args:
        model: any module.
        batches: a loader or list, 1,000 samples or more; by default of (inputs, labels).
        direction: of `random_direction` or `direction_between`, by parameter names.
        alphas: steps along it, rising.
        loss: from model and batch to the batch's mean loss, or to (loss, accuracy); default `classification_figures`.
        progress: called with (points done, points in all).
        on_point: called behind each point with its step, as a tuple of one, and its loss and accuracy (NaN for none) on
            the model's device, so that an interruption need not lose them. Points nearest to 0 come first.

    Raises:
        UsageError: no data, an empty or unordered grid, or a direction that does not go with the model.

    Paper: Visualizing the Loss Landscape of Neural Nets (arXiv 1712.09913).

    Examples:
        >>> net = torch.nn.Linear(3, 2)
        >>> data = [(torch.randn(8, 3), torch.randint(0, 2, (8,)))]
        >>> loss_line(net, data, {"weight": torch.ones(2, 3)}, alphas=[-1.0, 0.0, 1.0]).loss.shape
        torch.Size([3])
    """
    grid = checked_grid("alphas", alphas)
    figures = _measured(model, batches, (direction,), [(a,) for a in grid], loss, progress, on_point)
    return LossCurve(torch.tensor(grid, dtype=torch.float64), figures[:, 0], _accuracy(figures[:, 1]))


def loss_surface(
    model: nn.Module,
    batches: Iterable[Any],
    directions: tuple[Direction, Direction],
    *,
    alphas: Sequence[float] = GRID,
    betas: Sequence[float] | None = None,
    loss: ModelLoss = classification_figures,
    line: LossCurve | None = None,
    progress: Progress | None = None,
    on_point: OnPoint | None = None,
) -> LossSurface:
    """The loss over the plane of two directions in weight space, the data held fixed.

    Weights move once a point; all batches are measured there. Otherwise as `loss_line`.

    Args:
        model, batches, loss: see `loss_line`.
        directions: two, such as random ones of two seeds.
        alphas, betas: steps along the first and the second, rising; `betas` default the same.
        line: what `loss_line` gave along the first direction, with the same model, batches and loss. Points of the grid
            that lie on it, where the second step is 0, are taken from it, finite or not, and not measured again.
        progress: called with (points done, points in all) of those that are measured.
        on_point: as of `loss_line`, with both steps.

    Raises:
        UsageError: as `loss_line`, or not two directions.

    Paper: as `loss_line`.
    """
    if len(directions) != 2:
        raise UsageError(f"a surface has two directions, got {len(directions)}")
    rows, columns = checked_grid("alphas", alphas), checked_grid("betas", alphas if betas is None else betas)
    known = {} if line is None else _on_plane(line)
    points = [(a, b) for a in rows for b in columns]
    open_points = [point for point in points if point not in known]
    figures = torch.full((len(points), 2), torch.nan, dtype=torch.float64)
    for number, point in enumerate(points):
        if point in known:
            figures[number] = known[point]
    if open_points:
        measured = _measured(model, batches, directions, open_points, loss, progress, on_point)
        figures[[point not in known for point in points]] = measured
    figures = figures.reshape(len(rows), len(columns), 2)
    places = [torch.tensor(grid, dtype=torch.float64) for grid in (rows, columns)]
    return LossSurface(places[0], places[1], figures[..., 0], _accuracy(figures[..., 1]), direction_cosine(*directions))


def _on_plane(line: LossCurve) -> dict[tuple[float, float], Float[Tensor, "2"]]:
    """Loss and accuracy by the coordinates of a line's points on a plane whose first direction it follows."""
    accuracy = torch.full_like(line.loss, torch.nan) if line.accuracy is None else line.accuracy
    figures = torch.stack([line.loss, accuracy], 1)
    return {(alpha, 0.0): own for alpha, own in zip(line.alphas.tolist(), figures, strict=True)}


@torch.no_grad()
def _measured(
    model: nn.Module,
    batches: Iterable[Any],
    directions: Sequence[Direction],
    points: Sequence[tuple[float, ...]],
    loss: ModelLoss,
    progress: Progress | None,
    on_point: OnPoint | None,
) -> Float[Tensor, "points 2"]:
    """Loss and accuracy at every point, in float64 on the CPU; measured from the model itself outwards."""
    data = FixedBatches(model, batches, loss)
    figures: dict[tuple[float, ...], Tensor] = {}
    with Displaced(model, *directions) as displaced:
        for point in sorted(points, key=lambda steps: math.hypot(*steps)):
            displaced.at(*point)
            figures[point] = data()
            if on_point is not None:
                on_point(point, figures[point])
            if progress is not None:
                progress(len(figures), len(points))
    # one wait for the device, at the end
    return torch.stack([figures[point] for point in points]).cpu().double()


def _accuracy(values: Tensor) -> Tensor | None:
    return None if bool(values.isnan().all()) else values


def _save(path: str | os.PathLike[str], fields: dict[str, Any]) -> Path:
    from binderclip.documents import json_text
    from binderclip.files import write_whole

    plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in fields.items()}
    return write_whole(path, json_text(plain) + "\n")


def _read(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, Any]:
    from binderclip.documents import parse_json, read_problem
    from binderclip.errors import DataError

    try:
        fields = parse_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {read_problem(error)}") from error
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise DataError(f"{path} holds no loss of this kind: it has {', '.join(names)} where it was saved here")
    return {name: _tensor(value) if isinstance(value, list) else value for name, value in fields.items()}


def _tensor(values: list[Any]) -> Tensor:
    """Numbers of a JSON list, or list of lists; null is NaN, and "inf" infinity."""
    if values and isinstance(values[0], list):
        return torch.stack([_tensor(row) for row in values])
    return torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float64)
