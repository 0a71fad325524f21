"""The stage that averages: the plain mean of what the named stages saved, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train import Recipe
from binderclip.train.engine.context import StageContext
from binderclip.train.stages.average import average_stages

NAMES = ("a", "b", "c", "mean", "later")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three stages whose logit scale and one weight are 1, 5 and 9 times what they were."""
    out: Path = tmp_path_factory.mktemp("run")
    stages = [{"name": name, "samples": 64} for name in NAMES]
    recipe = Recipe.from_dict({"data": "openclipart", "batch_size": 8, "stage": stages})
    for index, factor in enumerate((1.0, 5.0, 9.0)):
        model = load("small")
        with torch.no_grad():
            model.backbone.visual.head.proj.weight.mul_(factor)
        model.save(out / "stages" / f"{index:02d}-{NAMES[index]}")
    return StageContext(recipe, recipe.stage[3], 3, load("small"), out)


def test_the_mean_of_the_named_stages(context: Any) -> None:
    before = load("small").backbone.state_dict()
    average_stages(context, of=["b", "c"])
    after = context.model.backbone.state_dict()
    name = "visual.head.proj.weight"
    assert torch.allclose(after[name], 7 * before[name], atol=1e-5)
    assert all(torch.equal(after[key], before[key]) for key in before if key != name)


@pytest.mark.parametrize("of", [["a"], ["a", "a"], ["a", "later"], ["a", "nowhere"], []])
def test_two_earlier_stages_are_needed(of: list[str]) -> None:
    stages: list[dict[str, Any]] = [{"name": name, "samples": 64} for name in NAMES]
    stages[3]["kind"] = {"name": "average-stages", "of": of}
    with pytest.raises(UsageError, match=r"stage\.3\.kind: .*at least two of the stages before it, a, b, c"):
        Recipe.from_dict({"data": "openclipart", "batch_size": 8, "stage": stages})
