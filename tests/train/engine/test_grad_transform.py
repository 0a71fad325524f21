"""`grad_transform` of a recipe (p082, arXiv 2410.23970): TrAct on the first layer of the image tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load
from binderclip.optim import first_layer
from binderclip.train import Recipe, run
from binderclip.train.recipe.check import check_processes


def test_a_run_trains_the_first_layer_another_way_and_lets_go_of_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    entries = {**tiny, "epochs": None, "samples": 8, "batch_size": 8, "optimizer": "sgd", "evaluation": {}}
    towers = {}
    for name, transform in (("plain", None), ("tract", {"name": "tract", "lam": 0.5})):
        document = {key: value for key, value in {**entries, "grad_transform": transform}.items() if value is not None}
        run(Recipe.from_dict(document), out=tmp_path / name, progress=False)
        towers[name] = load(str(tmp_path / name)).backbone.state_dict()
        assert not first_layer(load(str(tmp_path / name)).visual)._forward_hooks
    first = next(name for name in towers["plain"] if name.startswith("visual.") and "conv1.weight" in name)
    changed = {name for name, value in towers["plain"].items() if not torch.equal(value, towers["tract"][name])}
    assert changed == {first}  # after one step


@pytest.mark.parametrize("wrong", ["tracked", {"name": "tract", "lamb": 1.0}, {"name": "tract", "lam": "x"}])
def test_a_wrong_transform_is_named(tiny: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(UsageError, match="grad_transform"):
        Recipe.from_dict({**tiny, "grad_transform": wrong})


def test_whole_gradients_are_needed(tiny: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({**tiny, "grad_transform": "tract"})
    check_processes(recipe.stage, 2, "ddp")
    with pytest.raises(NotSupported, match="grad_transform needs whole gradients"):
        check_processes(recipe.stage, 2, "fsdp")
