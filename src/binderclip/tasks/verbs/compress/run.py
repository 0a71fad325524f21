"""What `compress` does: score modules on half of the pictures, take the worst out, recover, measure, and save."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from binderclip.compress import (
    GradientScore,
    HessianTraceScore,
    MagnitudeScore,
    MoPEPruner,
    PruneBudget,
    RandomScore,
    channel_groups,
    remove,
)
from binderclip.compress.weights.removal import check_open_clip_kind, check_recordable
from binderclip.errors import NotSupported, UsageError
from binderclip.models import export_onnx
from binderclip.models.files.saving import save
from binderclip.models.image_text.onnx_export import check_onnx_packages
from binderclip.models.layers.pruned import block_widths
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import output_folder
from binderclip.tasks.files.results import ask_for_room, save_or_keep, size_of
from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.compress.bits import check_float, fewer_bits, stored_size
from binderclip.tasks.verbs.compress.bits_recovery import BITS, CARD, RecoverySteps, recover_bits
from binderclip.tasks.verbs.compress.figures import (
    ModelFigures,
    gflop,
    median_seconds,
    parameter_count,
    single_forwards,
)
from binderclip.tasks.verbs.compress.open_clip_folder import how_open_clip_opens
from binderclip.tasks.verbs.compress.request import CompressRequest
from binderclip.tasks.verbs.compress.result import Compression
from binderclip.tasks.verbs.compress.sample import SampleHalves, chance, quality, recovery_batches, sample_halves

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.compress import PruneGroups
    from binderclip.models import ImageTextModel


PROBES = 10
"""Draws of the curvature on each batch; all batches count, so that 128 pictures at 64 have twice as many."""
CHECKED = 8
"""Pictures and texts that ONNX files are compared with the model on."""


def run(request: CompressRequest) -> Compression:
    """Make a model smaller, measure it before and after, and save it.

    Raises:
        UsageError: a folder that is not empty, shards, or a target by which nothing would go.
        NotSupported: a model that cannot be pruned, or that compares by another geometry than the cosine.
        DataError: too few pictures, or all called the same.
        OutputError: the model cannot be written.
        MissingDependency: --onnx without the packages of that extra.
    """
    out = Path(request.out)
    if any(output_folder(out, make=False).glob("*")):
        raise UsageError(f"--out {out} is a folder that is not empty: give another one")
    start("loading the model")
    if request.onnx:
        check_onnx_packages()
    model = copy.deepcopy(image_text_model(request.model, device=request.device))  # others may use the one of a cache
    model._cache.clear()
    (check_open_clip_kind if request.amount is None else check_recordable)(model)
    check_float(model, request.bits)
    model.card.pop(CARD, None)  # of weights that were rounded and are float again
    channels = _channels(model) if request.channels else []
    ask_for_room(out, size_of(model) * (2 if request.onnx else 1))
    start("reading the pictures")
    halves = sample_halves(model, request)
    rounded_steps = bool(request.steps) and request.bits == BITS
    whole, groups = _narrowed(request, model, halves, channels, recover=not rounded_steps)
    counted = Operations.of(model, halves)
    bits = None
    if request.bits is not None:
        start(f"rounding to {request.bits} bits")
        weights = {name: own.detach().clone() for name, own in model.named_parameters()} if rounded_steps else {}
        tune = partial(recover_bits, request, whole, weights, model, halves) if rounded_steps else None
        bits = fewer_bits(model, halves.judged, request.bits, request.sides, request.batch_size, tune)
    start("measuring")
    before, after = _measured(request, [whole, model], [Operations.of(whole, halves), counted], halves)
    start("saving the model")
    packed = None if bits is None else bits.packed
    save_or_keep(partial(save, model, packed=packed) if packed else model.save, out)
    emit(Saved(out))
    folder = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    onnx = None
    if request.onnx:
        start("writing ONNX files, and checking them")
        onnx = export_onnx(model, out, halves.held_out.pixels[:CHECKED], halves.held_out.texts[:CHECKED])
    skip(halves.skipped)
    stored = size_of(model) if not packed else stored_size(model, packed)
    return Compression(
        request, model.name, halves.source, len(halves.judged.pixels), len(halves.held_out.pixels), halves.metric,
        chance(halves.held_out),
        replace(before, megabytes=(folder + size_of(whole) - stored) / 1e6),
        replace(after, megabytes=folder / 1e6), groups, torch.get_num_threads(), halves.skipped,
        how_open_clip_opens(model, out, packed=bool(packed)), bits, onnx,
    )  # fmt: skip


def _channels(model: ImageTextModel) -> list[PruneGroups]:
    """Channels of the convolutions in the image tower: of those before its blocks, or of the whole tower."""
    trunk = getattr(model.visual, "trunk", model.visual)
    network = getattr(getattr(trunk, "patch_embed", None), "backbone", trunk)
    if network is trunk and block_widths(model.visual):
        raise NotSupported(f"--channels: the image tower of {model.name} has blocks alone, no convolutional network")
    try:
        groups = channel_groups(network, prefix="image.channels.")
    except NotSupported as error:
        raise NotSupported(f"--channels: {model.name}: {error}; leave --channels out") from error
    if not groups:
        raise NotSupported(f"--channels: {model.name} has no convolution whose channels could go")
    return groups


def _narrowed(
    request: CompressRequest, model: ImageTextModel, halves: SampleHalves, channels: Sequence[PruneGroups],
    *, recover: bool,
) -> tuple[ImageTextModel, dict[str, tuple[int, int]]]:  # fmt: skip
    """Take modules out of a model, in place, and train it to recover.

    Args:
        request, model, halves: as of `run`.
        channels: that go as well.
        recover: whether it is trained here. Where it gets four bits it is not: `small` without half of its heads and
            neurons came nearer to what it was by 40 steps with rounded weights (cosines of 95 held-out emoji and
            captions 0.90 and 0.84) than by 40 in float before it (0.86 and 0.77), or 20 and 20 (0.89 and 0.83).

    Returns:
        The model as it was, and how many modules there were of each kind and how many stay.
    """
    if request.amount is None:
        return copy.deepcopy(model).eval(), {}
    pruner = MoPEPruner(
        model, halves.judged, sides=cast(Any, request.sides), metric=cast(Any, halves.metric),
        neuron_groups=request.neuron_sets, batch_size=request.batch_size,
    )  # fmt: skip
    groups = _prune(request, pruner, channels, request.amount)
    if request.steps and recover:
        _recover(request, pruner)
    return pruner.teacher, groups


def _prune(
    request: CompressRequest, pruner: MoPEPruner, channels: Sequence[PruneGroups], amount: float
) -> dict[str, tuple[int, int]]:  # fmt: skip
    """Take the modules with the lowest scores out, and say how many there were of each kind and how many stay."""
    budget = PruneBudget(amount=amount)
    _check_target(request, budget, pruner, channels)
    start(f"scoring by {request.method}")
    kinds = [kind for kind in ("head", "neuron") if f"{kind}s" in request.parts]
    towers = pruner.width_groups() if request.method == "mope" else pruner.groups(("head", "neuron"))
    towers = [one for one in towers if one.kind in kinds]
    groups = [*towers, *channels]
    keep = budget.select(_scores(request, pruner, towers, channels)) if groups else {}
    start("taking modules out")
    if groups:
        remove(pruner.model, groups, keep)
    names = {
        one.name: "neuron set" if one.kind == "neuron" and request.method == "mope" else one.kind for one in groups
    }
    had: Counter[str] = Counter()
    has: Counter[str] = Counter()
    for one in groups:
        had[names[one.name]] += len(one)
        has[names[one.name]] += int(keep[one.name].sum())
    if "blocks" in request.parts:
        blocks = pruner.depth(amount, lambda _, groups: _scores(request, pruner, list(groups), []))
        had["block"], has["block"] = blocks.removed.groups_before, blocks.removed.groups_after
    return {kind: (had[kind], has[kind]) for kind in had}


def _check_target(
    request: CompressRequest, budget: PruneBudget, pruner: MoPEPruner, channels: Sequence[PruneGroups]
) -> None:
    """Refuse a target by which nothing would go; only the lengths of layers count, so nothing is run for it.

    Raises:
        UsageError: says how many parts the largest layer has, and how many are needed.
    """
    sets = request.method == "mope"
    towers = [one for one in pruner.groups(("head", "neuron")) if f"{one.kind}s" in request.parts]
    sizes = {one.name: pruner.neuron_sets(one) if sets and one.kind == "neuron" else len(one) for one in towers}
    sizes |= {one.name: len(one) for one in channels}
    if "blocks" in request.parts:
        sizes |= {f"{side}.blocks": len(blocks) for side, blocks in pruner.blocks.items()}
    if all(bool(keep.all()) for keep in budget.select({name: torch.zeros(n) for name, n in sizes.items()}).values()):
        names = {"heads": "heads", "neurons": "sets of neurons" if sets else "neurons", "blocks": "blocks"}
        parts = " or ".join([*(names[part] for part in request.parts), *(["channels"] if channels else [])])
        more_sets = ["raise --neuron-sets"] if sets and "neurons" in request.parts else []
        needed = math.ceil(1 / budget.amount - 1e-9)
        largest = max(sizes.values())
        least = math.ceil(1000 / largest - 1e-9) / 1000  # rounded up: rounded down it would take nothing out either
        instead = ([f"give {least:g} or more"] if largest > 1 else []) + more_sets
        raise UsageError(
            f"--target {budget.amount:g} takes nothing out: {needed} {parts} in a layer are needed, "
            f"and the largest has {largest}{': ' if instead else ''}{', or '.join(instead)}"
        )


def _scores(
    request: CompressRequest, pruner: MoPEPruner, towers: list[PruneGroups], channels: Sequence[PruneGroups]
) -> dict[str, Tensor]:
    """Layer's name -> what each of its modules is worth."""
    model: ImageTextModel = pruner.model
    groups = [*towers, *channels]
    if request.method == "magnitude":
        return MagnitudeScore()(model, groups)
    if request.method == "random":
        return RandomScore(seed=request.seed)(model, groups)
    if request.method == "hap":
        return _curvature_scores(request, pruner, groups)
    gradient = GradientScore(losses=pruner.losses)
    if request.method == "gradient":
        return gradient(model, groups)
    error = replace(pruner.error, progress=batches("run without one module"))
    return error(model, towers) | (gradient(model, channels) if channels else {})


def _curvature_scores(
    request: CompressRequest, pruner: MoPEPruner, groups: Sequence[PruneGroups]
) -> dict[str, Tensor]:  # fmt: skip
    """Score by the trace of the Hessian, batch by batch: it is linear in the loss, so that the scores add up.

    So the graph of one batch is held, not that of all pictures.
    """
    count = len(pruner.sample.pixels)
    total = sum(count - first > 1 for first in range(0, count, request.batch_size))  # a pair alone has no loss
    losses, step, scores = pruner.losses(), batches("batch, for its curvature"), dict[str, Any]()
    for number in range(total):
        own = HessianTraceScore(loss=lambda: next(losses), probes=PROBES, seed=request.seed + number)
        scores = {name: scores.get(name, 0) + score for name, score in own(pruner.model, groups).items()}
        step(number + 1, total)
    return scores


def _recover(request: CompressRequest, pruner: MoPEPruner) -> None:
    """Train the model to follow what it was.

    Raises:
        KeyboardInterrupt: it was interrupted; the model so far is saved, in float, without being measured.
    """
    steps = RecoverySteps(request)
    try:
        pruner.recover(
            recovery_batches(pruner.sample, request.batch_size, request.seed), steps=request.steps,
            lr=request.lr, callbacks=[steps], log_every=1,
        )  # fmt: skip
    except KeyboardInterrupt:
        steps.keep(pruner.model.save)
        raise


@dataclass(frozen=True)
class Operations:
    """Numbers and 10^9 operations of a model in float; in few bits it has as many, which no counter sees."""

    parameters: int
    image: float
    text: float

    @classmethod
    def of(cls, model: ImageTextModel, halves: SampleHalves) -> Operations:
        """Counted on one picture and one text."""
        image, text = single_forwards(model, halves.held_out.texts[0])
        return cls(parameter_count(model), gflop(image), gflop(text))


def _measured(
    request: CompressRequest, models: Sequence[ImageTextModel], counted: Sequence[Operations], halves: SampleHalves
) -> tuple[ModelFigures, ModelFigures]:
    """Figures of the model as it was and as it is, but for the size of their folders."""
    images, texts = zip(*(single_forwards(model, halves.held_out.texts[0]) for model in models), strict=True)
    seconds = [median_seconds(forwards, models[0].device) for forwards in (images, texts)]
    first, second = (
        ModelFigures(
            own.parameters, 0.0, own.image, own.text, seconds[0][i], seconds[1][i],
            quality(model, halves.held_out, request.batch_size),
        )
        for i, (model, own) in enumerate(zip(models, counted, strict=True))
    )  # fmt: skip
    return first, second
