"""What `landscape` does: measure the loss over a plane and along a line of a model's weights, and write the page."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from binderclip.errors import DataError
from binderclip.landscape import LossCurve, LossSurface, direction_cosine, loss_line, loss_surface, random_direction
from binderclip.models.layers.int8.layers import check_float_weights
from binderclip.tasks.events import Counted, Saved, emit, skip, start
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep, saying_what_is_kept
from binderclip.tasks.models import image_text_model, own_model
from binderclip.tasks.verbs.landscape.naming import NamingSet, naming_set
from binderclip.tasks.verbs.landscape.report import numbers_path, write_report
from binderclip.tasks.verbs.landscape.request import LandscapeRequest
from binderclip.tasks.verbs.landscape.result import Landscape

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.models import ImageTextModel

LEAST = 2
"""Pictures that are needed for anything."""


def run(request: LandscapeRequest) -> Landscape:
    """Measure the loss over a plane and along a line of a model's weights, and write the page.

    Raises:
        UsageError: shards, or a result that would replace what is none of ours.
        NotSupported: a model that compares by another geometry than the cosine, or computes in int8.
        DataError: too few pictures, all called the same, a loss that is not finite at the model itself, or a file that
            cannot be written.
        KeyboardInterrupt: it was interrupted; the page shows the points so far.
    """
    out = Path(request.out)
    if request.report:
        ask_for_room(writable_path(out), REPORT)
        writable_path(numbers_path(out))
    start("loading the model")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    check_float_weights(model, request.model)
    data = naming_set(model, request.data, request.split, request.templates, request.limit, request.batch_size, LEAST)
    start("measuring the loss")
    result = _measured(request, own_model(model), data)
    if request.report:
        start("writing the page")
        _write(request, result)
    skip(data.skipped)
    return result


class _Points:
    """The points of the line and of the plane, and what was measured of them so far."""

    def __init__(self, request: LandscapeRequest, model: ImageTextModel) -> None:
        self.directions = (random_direction(model, seed=request.seed), random_direction(model, seed=request.seed + 1))
        steps = torch.arange(1 - request.points, request.points, dtype=torch.float64)
        self.line = request.radius * steps / (request.points - 1)
        # the same numbers to the bit, so that points of the line are points of the plane; 0 is one where points are odd
        self.side = self.line[::2]
        self.total = len(self.line) + len(self.side) ** 2 - (len(self.side) if 0 in self.side else 0)
        self.figures: dict[tuple[float, float], Tensor] = {}

    def note(self, point: tuple[float, ...], figures: Tensor) -> None:
        """Called behind every point, by `loss_line` and `loss_surface`."""
        along, across = (*point, 0.0)[:2]
        self.figures[along, across] = figures

    def count(self, done: int, _: int) -> None:
        """Say how far it is."""
        emit(Counted(len(self.figures), self.total, "point"))

    def so_far(self) -> tuple[LossCurve, LossSurface, frozenset[tuple[float, float]]]:
        """What was measured of the line, the plane with NaN where nothing was, and the points that are left."""
        nothing = torch.full((2,), torch.nan)
        steps = [a for a in self.line.tolist() if (a, 0.0) in self.figures]
        line = torch.stack([self.figures[a, 0.0] for a in steps]).cpu().double()
        side = self.side.tolist()
        plane = torch.stack([torch.stack([self.figures.get((a, b), nothing).cpu() for b in side]) for a in side])
        curve = LossCurve(torch.tensor(steps, dtype=torch.float64), line[:, 0], line[:, 1])
        surface = LossSurface(
            self.side, self.side, plane[..., 0].double(), plane[..., 1].double(), direction_cosine(*self.directions)
        )
        points = {(a, 0.0) for a in self.line.tolist()} | {(a, b) for a in side for b in side}
        return curve, surface, frozenset(points - self.figures.keys())


def _measured(request: LandscapeRequest, model: ImageTextModel, data: NamingSet) -> Landscape:
    """The whole landscape; where it is interrupted, what there is of it is written.

    Raises:
        DataError: the loss of the model itself is not finite.
        KeyboardInterrupt: it was interrupted.
    """
    points = _Points(request, model)

    def keep() -> None:
        curve, surface, left = points.so_far()
        _write(request, _landscape(request, model, data, curve, surface, left))

    with saying_what_is_kept(points.figures, "point", request.out, keep) if request.report else nullcontext():
        curve = loss_line(
            model, data.batch(), points.directions[0], alphas=points.line.tolist(), loss=data.loss,
            progress=points.count, on_point=points.note,
        )  # fmt: skip
        surface = loss_surface(
            model, data.batch(), points.directions, alphas=points.side.tolist(), loss=data.loss, line=curve,
            progress=points.count, on_point=points.note,
        )  # fmt: skip
    return _landscape(request, model, data, curve, surface, frozenset())


def _landscape(
    request: LandscapeRequest,
    model: ImageTextModel,
    data: NamingSet,
    curve: LossCurve,
    surface: LossSurface,
    unmeasured: frozenset[tuple[float, float]],
) -> Landscape:
    """The result.

    Raises:
        DataError: the loss of the model itself is not finite.
    """
    middle = int(curve.alphas.abs().argmin())
    loss = float(curve.loss[middle])
    if not curve.loss[middle].isfinite():
        raise DataError(f"the loss of {request.model} itself is {loss}: there is no landscape around it")
    assert curve.accuracy is not None
    return Landscape(
        request, model.name, data.source, len(data.target), data.named_by, data.loss.classes, loss,
        float(curve.accuracy[middle]), curve, surface, data.skipped, unmeasured,
    )  # fmt: skip


def _write(request: LandscapeRequest, result: Landscape) -> None:
    """Write the page, and its numbers beside it."""
    out = Path(request.out)
    save_or_keep(partial(write_report, result), out)
    emit(Saved(out))
    emit(Saved(numbers_path(out)))
