"""What `landscape` does: measure the loss over a plane and along a line of a model's weights, and write the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from binderclip.errors import DataError
from binderclip.landscape import loss_line, loss_surface, random_direction
from binderclip.models.layers.int8.layers import check_float_weights
from binderclip.tasks.events import Counted, Saved, emit, skip, start
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep
from binderclip.tasks.models import image_text_model, own_model
from binderclip.tasks.verbs.landscape.naming import NamingSet, naming_set
from binderclip.tasks.verbs.landscape.report import numbers_path, write_report
from binderclip.tasks.verbs.landscape.request import LandscapeRequest
from binderclip.tasks.verbs.landscape.result import Landscape

if TYPE_CHECKING:
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
        save_or_keep(partial(write_report, result), out)
        emit(Saved(out))
        emit(Saved(numbers_path(out)))
    skip(data.skipped)
    return result


def _measured(request: LandscapeRequest, model: ImageTextModel, data: NamingSet) -> Landscape:
    directions = (random_direction(model, seed=request.seed), random_direction(model, seed=request.seed + 1))
    steps = torch.arange(1 - request.points, request.points, dtype=torch.float64)
    fine = request.radius * steps / (request.points - 1)
    # the same numbers to the bit, so that points of the line are points of the plane; 0 is one where points are odd
    side = fine[::2]
    total = len(fine) + len(side) ** 2 - (len(side) if 0 in side else 0)
    curve = loss_line(
        model, data.batch(), directions[0], alphas=fine.tolist(), loss=data.loss,
        progress=lambda done, _: emit(Counted(done, total, "point")),
    )  # fmt: skip
    middle = int(curve.alphas.abs().argmin())
    loss = float(curve.loss[middle])
    if not curve.loss[middle].isfinite():
        raise DataError(f"the loss of {request.model} itself is {loss}: there is no landscape around it")
    surface = loss_surface(
        model, data.batch(), directions, alphas=side.tolist(), loss=data.loss, line=curve,
        progress=lambda done, _: emit(Counted(len(fine) + done, total, "point")),
    )  # fmt: skip
    assert curve.accuracy is not None
    return Landscape(
        request, model.name, data.source, len(data.target), data.named_by, data.loss.classes, loss,
        float(curve.accuracy[middle]), curve, surface, data.skipped,
    )  # fmt: skip
