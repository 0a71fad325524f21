"""`plan_training`: what a recipe will cost on machines, stage by stage, before there is any data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from binderclip.data.parallel.plan import ClusterPlan, Machines, Phase, PlannedPass, checked_samples
from binderclip.data.parallel.rates import MeasuredRates, measured_rates
from binderclip.errors import UsageError
from binderclip.settings import check_choice
from binderclip.train.recipe.bare import bare_model, towers_of
from binderclip.train.recipe.cost import StageCost
from binderclip.train.recipe.memory import StageMemory, stage_memory
from binderclip.train.recipe.passes import TowerPasses, passes_of
from binderclip.train.recipe.recipe import Recipe
from binderclip.train.recipe.stage import Stage

__all__ = ["plan_training"]


def plan_training(
    recipe: Recipe,
    samples: float,
    machines: Machines,
    *,
    picture_bytes: float = 30_000,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    rates: MeasuredRates | None = None,
) -> ClusterPlan:
    """Plan a recipe for a pool of so many pairs in shards.

    A machine is one process of `torchrun`, such as a GPU. Stages of `epochs` go through the pool so often; stages of
    `samples` take so many of it. Pictures are read and decoded in every pass. Hours are those of the towers'
    operations, of decoding, or of the network, whichever takes longest.

    Args:
        recipe: as `load_recipe` gives it.
        samples: pairs of the pool.
        machines: that it runs on; without `operations` they compute like so many of the cores that were measured.
        picture_bytes: of an encoded picture.
        parallel: `ddp` (a whole model in each process) or `fsdp` (weights, gradients and state in shards).
        rates: default those that come with the package.

    Raises:
        UsageError: a number out of range.

    Examples:
        >>> from binderclip.data import Machines
        >>> from binderclip.train import load_recipe, plan_training
        >>> plan = plan_training(load_recipe("scratch-64"), 1e6, Machines(count=2, operations=1e13))
        >>> [one.name for one in plan.passes], plan.passes[0].passes
        (['train'], 4.0)
    """
    samples = checked_samples(samples)
    if not (math.isfinite(picture_bytes) and picture_bytes > 0):
        raise UsageError(f"picture_bytes is {picture_bytes}; it is a finite number above 0")
    check_choice("parallel", parallel, ("ddp", "fsdp"))
    known, backbone = rates or measured_rates(), towers_of(bare_model(recipe.model))
    memories = [_memory(stage, backbone) for stage in recipe.stage]
    cost = recipe.cost(samples=[_length(stage, samples) for stage in recipe.stage])
    per_core = 1 / known.seconds["training"].of(operation=1.0)
    passes = [
        _pass(recipe, stage, each, memory, samples, machines, picture_bytes, parallel, known)
        for stage, each, memory in zip(recipe.stage, cost.stages, memories, strict=True)
    ]
    notes = [*_notes(machines, per_core, picture_bytes, known, recipe), *cost.remarks]
    if unknown := [each.name for each, one in zip(recipe.stage, passes, strict=True) if one.worker is None]:
        notes.append(f"{', '.join(unknown)}: memory is unknown (?), which is counted for two towers of open_clip")
    stops = _stops(recipe, passes, machines, per_core)
    return ClusterPlan(samples, machines, tuple(passes), tuple(notes), stops, per_core)


def _length(stage: Stage, samples: float) -> int:
    """Pairs of a stage: whole steps of its own length, or of its epochs of the pool."""
    each = stage.batch_size * stage.accumulate
    count = stage.samples if stage.samples is not None else (stage.epochs or 0) * samples
    return max(1, round(count / each)) * each


def _memory(stage: Stage, backbone: Any) -> StageMemory | None:
    seen = passes_of(stage)
    if backbone is None or not isinstance(seen, TowerPasses) or not seen.trains:
        return None
    return stage_memory(stage, backbone, seen)


def _pass(
    recipe: Recipe, stage: Stage, cost: StageCost, memory: StageMemory | None, samples: float, machines: Machines,
    picture_bytes: float, parallel: str, rates: MeasuredRates,
) -> PlannedPass:  # fmt: skip
    pairs = float(cost.samples or 0)
    if not pairs:  # a stage that sees no sample
        return PlannedPass(name=stage.name, passes=0.0, phases=[Phase()])
    seen = passes_of(stage)
    towers = seen if isinstance(seen, TowerPasses) else TowerPasses()
    once = not towers.pictures and not towers.captions  # features that are kept, and read again
    read = pairs * (towers.copied_pictures if once else 1)
    decoding = rates.seconds["decode"].of(picture=read, byte=read * picture_bytes)
    fraction = min(machines.cores, max(recipe.workers, 1)) / machines.cores
    steps = pairs / (stage.batch_size * stage.accumulate)
    exchanged = written = 0.0
    worker = None
    if memory is not None:
        count = machines.count
        rounds = 3 if parallel == "fsdp" else 2  # two gatherings and a scattering, or a scattering and a gathering
        exchanged = steps * rounds * memory.gradients * (count - 1) / count
        saved = memory.weights + (memory.state or 0)
        written = saved * max(1.0, steps / stage.checkpoint_every)
        held = math.ceil(stage.batch_size / count)
        at_once = held if stage.micro_batch is None else min(held, stage.micro_batch)
        if memory.model is not None and memory.sample is not None:
            whole = memory.model / (count if parallel == "fsdp" else 1)
            worker = rates.bytes["process"].of(process=1.0) + whole + at_once * memory.sample
    phase = Phase(
        seconds=decoding / fraction, operations=cost.flops, read=read * picture_bytes, written=written,
        exchanged=exchanged,
    )  # fmt: skip
    return PlannedPass(name=stage.name, passes=read / samples, phases=[phase], worker=worker)


def _notes(
    machines: Machines, per_core: float, picture_bytes: float, rates: MeasuredRates, recipe: Recipe
) -> list[str]:
    reach = machines.operations or per_core * machines.cores
    machine_text = "as given" if machines.operations else f"{machines.cores} cores like the one that was measured"
    worst = max((rates.seconds[name] for name in ("training", "decode")), key=lambda rate: rate.error)
    return [
        f"Assumed: pictures of {picture_bytes:,.0f} bytes in shards, read and decoded in every pass by "
        f"{recipe.workers} workers of each process (the recipe's `workers`); a machine reaches {reach:.3g} operations "
        f"a second ({machine_text}).",
        f"Rates of one core, measured {rates.date} ({rates.load}; {rates.machine}) at three sizes; the two smaller "
        f"ones predict the third to within {worst.error:.0%} ({worst.name}). Everything linear is extrapolated.",
        "Memory is weights, gradients, the optimizer's state, copies, and what torch keeps of the batch for the "
        "backward pass, in float32 (autocast makes it less). Heads, losses and evaluation are not counted.",
    ]


def _stops(recipe: Recipe, passes: Sequence[PlannedPass], machines: Machines, per_core: float) -> str:
    """Which stage stops scaling first."""
    if over := [one for one in passes if one.memory > machines.memory]:
        return f"{over[0].name!r} does not fit: a process needs {over[0].memory / 1e9:.3g} GB, whatever the samples."
    best: tuple[float, str, str] | None = None
    for stage, one in zip(recipe.stage, passes, strict=True):
        phase, count = one.phases[0], machines.count
        if not one.passes or phase.operations is None:
            continue
        limit, why = float(stage.batch_size), "each process has one pair of a batch"
        # The exchange of gradients takes e (M - 1) / M, the operations o / M: equal at M = 1 + o / e.
        alone = phase.operations / (machines.operations or per_core * machines.cores)
        whole = phase.exchanged * count / (count - 1) / machines.bandwidth if count > 1 else 0.0
        if whole and 1 + alone / whole < limit:
            limit, why = 1 + alone / whole, "exchanging gradients takes as long as the operations"
        if best is None or limit < best[0]:
            best = limit, one.name, why
    grows = "No stage needs more memory for more samples, and hours grow with them"
    if best is None:
        return f"{grows}."
    return f"{grows}; machines stop first: from {best[0]:,.0f} of them on {best[2]} (stage {best[1]!r})."
