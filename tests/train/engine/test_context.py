"""What a stage hands to the loop: steps, rates and groups, against what its recipe says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.models import load
from binderclip.train import Recipe, StageContext, run


@pytest.fixture
def of(tiny: dict[str, Any], tiny_clip: Callable[[int], Path], tmp_path: Path) -> Callable[..., StageContext]:
    """Entries of the recipe -> the context of one of its stages, with a model of 16 dimensions."""

    def made(*, index: int = 0, **entries: Any) -> StageContext:
        document = {key: value for key, value in {**tiny, **entries}.items() if value is not None}
        recipe = Recipe.from_dict(document)
        return StageContext(recipe, recipe.stage[index], index, load(str(tiny_clip(3))), tmp_path)

    return made


def test_steps_are_those_of_the_optimizer(of: Callable[..., StageContext]) -> None:
    # 64 pictures are 8 batches of 8 a pass, and 4 steps of two batches.
    assert of(epochs=3, batch_size=8).steps == 24
    assert of(epochs=3, batch_size=8, accumulate=2).steps == 12
    assert of(epochs=None, samples=160, batch_size=8, accumulate=2).steps == 10


def test_rates_rise_over_so_many_samples_and_never_fall_below_their_floor(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"epochs": 3, "batch_size": 8, "accumulate": 2, "warmup": 32, "schedule": "linear", "floor": 0.5}
    result = run(Recipe.from_dict(tiny | {"evaluation": {}}), out=tmp_path / "run", progress=False)
    rates = np.asarray(result.stages[0].history["lr"]) / tiny["lr"]
    # 12 steps: two of 16 samples each to the top, and then down to the floor by the twelfth, the last at 9 tenths.
    assert len(rates) == 12
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[-1] == pytest.approx(0.5 + 0.5 * 0.1)


def test_stages_draw_orders_of_their_own(tiny: dict[str, Any], of: Callable[..., StageContext]) -> None:
    shared = {key: tiny[key] for key in ("data", "epochs")}
    stages = [{"name": name, **shared} for name in ("one", "two")]
    first, second, again = (of(index=index, stage=stages, data=None, epochs=None).order()[0][1] for index in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


class Beside(nn.Module):
    """The model, and a layer of one's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.own = model, nn.Linear(4, 2)


def test_rates_and_decay_of_every_parameter(of: Callable[..., StageContext]) -> None:
    groups = [
        {"match": "transformer.*", "layer_decay": 0.5},
        {"match": "visual.proj", "lr": 0.1, "weight_decay": False},
    ]
    context = of(groups=groups, layer_decay=0.8, weight_decay=0.3)
    module = Beside(context.model)
    names = {id(p): name for part in (module, context.model.backbone) for name, p in part.named_parameters()}
    rates, decay = {}, {}
    for group in context.groups(module):
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in rates
            rates[name], decay[name] = group.get("lr_scale", 1.0), group["weight_decay"]
    block = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    assert rates[block.format(0)] / rates[block.format(1)] == pytest.approx(0.8)
    text = {rates[name] for name in rates if name.startswith("transformer.")}
    assert text == {0.5}  # the one block, a layer below the top
    assert (decay[block.format(0)], decay["visual.proj"], rates["visual.proj"]) == (0.3, 0.0, pytest.approx(0.1))
    assert {name: value for name, value in decay.items() if "own." in name} == {
        name: 0.3 if name.endswith("weight") else 0.0 for name in decay if "own." in name
    }
    assert sum("own." in name for name in decay) == 2


@pytest.mark.parametrize("ema", [0.5, 0.9])
def test_the_average_follows_by_its_own_share(of: Callable[..., StageContext], ema: float) -> None:
    context, module = of(ema=ema), nn.Linear(1, 1, bias=False)
    average = context._average(module)
    assert average is not None
    for value in (1.0, 3.0):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update_parameters(module)
    assert float(average.module.weight.detach()) == pytest.approx(ema * 1 + (1 - ema) * 3)
