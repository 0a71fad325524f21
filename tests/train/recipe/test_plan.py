"""Plans of training: hand arithmetic, what a real step keeps in memory, and what is not known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.data import ClusterPlan, Machines, MeasuredRates, Rate, load_data
from binderclip.errors import UsageError
from binderclip.fit import make_optimizer
from binderclip.train import Recipe, TowerPasses, build_model, load_recipe, plan_training
from binderclip.train.recipe.bare import bare_model, towers_of
from binderclip.train.recipe.memory import saved_bytes, stage_memory
from binderclip.train.recipe.passes import passes_of

GPUS = Machines(count=4, cores=8, memory=80e9, price=2.0, bandwidth=1e9, operations=1e12)


def made_rates() -> MeasuredRates:
    """A second a picture and nothing a byte; an operation takes 10^-9 seconds of a core."""
    seconds = {"training": Rate("training", {"operation": 1e-9}, 0.0)}
    seconds["decode"] = Rate("decode", {"picture": 1.0, "byte": 0.0}, 0.0)
    return MeasuredRates("m", "d", "l", seconds, {"process": Rate("process", {"process": 1e9}, 0.0)})


def planned(recipe: Recipe, samples: float = 640, machines: Machines = GPUS, **settings: Any) -> ClusterPlan:
    return plan_training(recipe, samples, machines, rates=made_rates(), **settings)


def test_a_tiny_stage_by_hand(tiny: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({**tiny, "epochs": 3, "workers": 2, "checkpoint_every": 30})
    plan = planned(recipe, picture_bytes=100)
    (one,) = plan.passes
    (phase,) = one.phases
    pairs = 3 * 640
    assert one.passes == 3
    assert phase.operations == recipe.cost(samples=[pairs]).flops
    assert phase.seconds == pairs * 8 / 2  # two of the eight cores decode
    assert phase.read == pairs * 100
    model = build_model(recipe.model, seed=0, captions=lambda: load_data("noto-emoji", "train").captions)
    weights = sum(p.nbytes for p in model.backbone.parameters())
    assert phase.exchanged == 120 * 2 * weights * 3 / 4  # steps of 16, a scattering and a gathering, of four machines
    assert phase.written == pytest.approx(4 * 3 * weights, rel=0.01)  # weights and two moments, every 30 steps
    times = {"operations": phase.operations / 4e12, "decoding": phase.seconds / 32, "network": 0.0}
    times["network"] = ((phase.read + phase.written) / 4 + phase.exchanged) / 1e9
    assert plan.total_hours == pytest.approx(max(times.values()) / 3600)
    assert plan.cost == pytest.approx(plan.total_hours * 4 * 2)
    assert plan.unknown == []
    assert one.worker is not None
    assert one.worker > 1e9 + 4 * weights


def test_samples_of_the_pool_and_of_the_recipe(tiny: dict[str, Any]) -> None:
    epochs = Recipe.from_dict({**tiny, "epochs": 3})
    one, two = planned(epochs, 6400), planned(epochs, 12800)
    assert two.total_hours == pytest.approx(2 * one.total_hours)
    assert (two.passes[0].passes, one.passes[0].passes) == (3, 3)
    assert two.passes[0].worker == one.passes[0].worker  # shards are streamed
    fixed = Recipe.from_dict({**tiny, "epochs": None, "samples": 3200})
    assert planned(fixed, 6400).passes[0].passes == 0.5
    assert planned(fixed, 6400).total_hours == planned(fixed, 12800).total_hours


def test_without_operations_a_machine_is_its_cores(tiny: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({**tiny, "workers": 8})
    plan = planned(recipe, machines=Machines(cores=8, bandwidth=1e18))
    assert plan.operations_rate == pytest.approx(1e9)
    (phase,) = plan.passes[0].phases
    assert phase.operations is not None
    assert phase.times(plan.machines, plan.operations_rate)["operations"] == pytest.approx(phase.operations / 8e9)


def test_memory_is_that_of_a_step(tiny: dict[str, Any]) -> None:
    """Weights, gradients, state, and what is saved for the backward pass, of a model with weights."""
    recipe = Recipe.from_dict({**tiny, "groups": [{"match": "visual.conv1.*", "freeze": True}], "ema": 0.9})
    stage = recipe.stage[0]
    seen = passes_of(stage)
    assert isinstance(seen, TowerPasses)
    found = stage_memory(stage, towers_of(bare_model(recipe.model)), seen)
    model = build_model(recipe.model, seed=0, captions=lambda: load_data("noto-emoji", "train").captions)
    backbone: Any = model.backbone
    backbone.visual.conv1.requires_grad_(False)
    learned = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = make_optimizer(stage.optimizer, learned, 1e-3)
    pixels, ids = torch.randn(4, 3, 32, 32), torch.ones(4, 12, dtype=torch.long)
    (backbone.encode_image(pixels).sum() + backbone.encode_text(ids).sum() + backbone.logit_scale).backward()
    optimizer.step()
    assert found.gradients == sum(p.grad.nbytes for p in learned if p.grad is not None)
    assert found.weights == 2 * sum(p.nbytes for p in backbone.parameters())  # and its average
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    assert found.state == sum(tensor.nbytes for tensor in state)
    saved = [
        saved_bytes(f, list(backbone.parameters()))
        for f in (lambda: backbone.encode_image(pixels), lambda: backbone.encode_text(ids))
    ]
    assert found.sample is not None
    assert found.sample == pytest.approx((sum(s or 0 for s in saved) + pixels.nbytes) / 4, rel=0.15)


def test_less_is_kept_where_less_is_asked_for(tiny: dict[str, Any]) -> None:
    def worker(**entries: Any) -> float:
        found = planned(Recipe.from_dict({**tiny, **entries}), machines=Machines(), **settings).passes[0].worker
        assert found is not None
        return found

    settings: dict[str, Any] = {}
    whole = worker(batch_size=64)
    assert worker(batch_size=64, micro_batch=8) < whole
    assert worker(batch_size=64, grad_checkpointing=True) < whole
    assert worker(batch_size=64, image_tokens={"name": "random", "keep": 0.5}) < whole
    four = [planned(Recipe.from_dict(tiny), parallel=p).passes[0] for p in ("ddp", "fsdp")]
    assert (four[1].worker or 0) < (four[0].worker or 0)
    assert four[1].phases[0].exchanged == 1.5 * four[0].phases[0].exchanged


def test_what_is_not_counted_is_named() -> None:
    stages = [{"name": "a", "data": ["openclipart"], "samples": 64, "batch_size": 16}]
    odd = {"name": "words", "kind": "distil-text", "samples": 64, "batch_size": 16}
    recipe = Recipe.from_dict({"model": "small", "stage": [*stages, odd]})
    plan = planned(recipe)
    assert plan.unknown == ["words"]
    assert plan.rows()[1][-1][-3].startswith("at least")


def test_what_stops_first(tiny: dict[str, Any]) -> None:
    plan = planned(Recipe.from_dict(tiny))
    assert "No stage needs more memory for more samples" in plan.stops
    slow = Machines(count=4, bandwidth=1e3, operations=1e9)
    near = planned(Recipe.from_dict({**tiny, "batch_size": 32}), machines=slow)
    limit = float(near.stops.split("from ")[1].split()[0])
    assert limit < 32
    small = planned(Recipe.from_dict(tiny), machines=Machines(memory=1e6))
    assert "does not fit" in small.stops


@pytest.mark.parametrize("name", ["refine", "segclip", "small-dino", "clip-rocket-small", "a-clip-small", "upcycle"])
def test_packaged_recipes_are_planned_whatever_their_kind(name: str) -> None:
    """Also where a checkpoint would have to be fetched, and where nothing but the length is known."""
    recipe = load_recipe(name)
    plan = plan_training(recipe, 1e9, GPUS)
    assert [one.name for one in plan.passes] == [stage.name for stage in recipe.stage]
    costs = recipe.cost(samples=[1] * 9).stages
    assert [plan.hours(one) is None for one in plan.passes] == [cost.flops is None for cost in costs]
    towers = [isinstance(passes_of(stage), TowerPasses) for stage in recipe.stage]  # whose memory is counted
    unknown = [cost.name for cost, counted in zip(costs, towers, strict=True) if cost.flops is None or not counted]
    assert plan.unknown == unknown
    assert all(any(name in note for note in plan.notes) for name in unknown)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": math.nan}, "samples is nan"),
        ({"picture_bytes": -1}, "picture_bytes is -1"),
        ({"parallel": "both"}, "parallel must be one of ddp, fsdp"),
    ],
)
def test_numbers_out_of_range_are_refused(tiny: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(Recipe.from_dict(tiny), **settings)
