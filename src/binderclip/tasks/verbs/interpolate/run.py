"""What `interpolate` does: measure the models between two others, layer by layer as well, and write the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from binderclip.errors import UsageError
from binderclip.landscape import interpolate_weights, interpolation_curve, straggler_layers
from binderclip.landscape.surface.interpolation import between_tensors
from binderclip.models.layers.int8.layers import check_float_weights
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import output_folder, writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep, size_of
from binderclip.tasks.models import image_text_model, own_model
from binderclip.tasks.verbs.interpolate.report import write_report
from binderclip.tasks.verbs.interpolate.request import InterpolateRequest
from binderclip.tasks.verbs.interpolate.result import CHOSEN, HELD, Interpolation
from binderclip.tasks.verbs.landscape.naming import naming_set

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

LEAST = 4
"""Pictures that are needed: two in each half."""


def run(request: InterpolateRequest) -> Interpolation:
    """Measure the models between two others, and each layer by itself, and write the page.

    Raises:
        UsageError: models of two architectures or with equal weights, shards, or a result that would replace what is
            none of ours.
        NotSupported: a model that compares by another geometry than the cosine, or computes in int8.
        DataError: too few pictures, all called the same, or a file that cannot be written.
    """
    out = Path(request.out)
    if request.report:
        ask_for_room(writable_path(out), REPORT)
    if request.save is not None and any(output_folder(request.save, make=False).glob("*")):
        raise UsageError(f"--save {request.save} is a folder that is not empty: give another one")
    start("loading the models")
    first, second = (
        image_text_model(name, device=request.device, dtype=request.dtype) for name in (request.first, request.second)
    )
    for name, model in ((request.first, first), (request.second, second)):
        check_float_weights(model, name)
    if first is second:
        raise UsageError(f"both models are {request.first}: nothing lies between them")
    if first.preprocess != second.preprocess:
        raise UsageError(f"{request.first} and {request.second} prepare pictures in two ways, so they are two models")
    differing, _ = between_tensors(first, second)
    if request.layers and not any(tensor.ndim for tensor in differing.values()):
        raise UsageError(
            f"both models have the same layers and differ in {', '.join(differing)} alone: give --no-layers"
        )
    if request.save is not None:
        ask_for_room(Path(request.save), size_of(second))
    result = _measured(request, first, own_model(second))
    if request.save is not None:
        start("saving the best model")
        _save(first, second, result.best, Path(request.save))
        emit(Saved(Path(request.save)))
    if request.report:
        start("writing the page")
        save_or_keep(partial(write_report, result), out)
        emit(Saved(out))
    skip(result.skipped)
    return result


def _measured(request: InterpolateRequest, first: ImageTextModel, second: ImageTextModel) -> Interpolation:
    data = naming_set(second, request.data, request.split, request.templates, request.limit, request.batch_size, LEAST)
    # every second picture, so that both halves have all classes of sorted data
    halves = {CHOSEN: data.batch(slice(0, None, 2)), HELD: data.batch(slice(1, None, 2))}
    grid = torch.linspace(0, 1, request.points, dtype=torch.float64).tolist()
    start("measuring the models between")
    curve = interpolation_curve(first, second, halves, alphas=grid, loss=data.loss, progress=batches("weight"))
    stragglers = None
    if request.layers:
        stragglers = straggler_layers(
            first, second, halves[CHOSEN], alphas=grid, loss=data.loss, progress=batches("point of a layer")
        )
    return Interpolation(
        request, first.name, second.name, data.source, len(data.target), data.named_by, curve, curve.best(CHOSEN),
        stragglers, data.skipped,
    )  # fmt: skip


def _save(first: ImageTextModel, second: ImageTextModel, weight: float, folder: Path) -> None:
    interpolate_weights(first, second, weight).save(folder)  # type: ignore[operator]
