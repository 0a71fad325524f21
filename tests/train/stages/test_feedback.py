"""Generative feedback as stages (p056, p072, p166): what learns in which, where the generator is kept, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train import Recipe, run
from binderclip.train.stages.feedback import read_feedback

SIZES = {"side": 8, "width": 16, "depth": 1, "heads": 2}


def recipe(tiny: dict[str, Any], method: str, *, epochs: int = 1, **settings: Any) -> Recipe:
    generator = {"name": "feedback-generator", "method": {"name": method, **SIZES}}
    stages = [
        {"name": "first", "kind": generator, "epochs": epochs},
        {
            "name": "second",
            "kind": {"name": "generative-feedback", "generator": "first", "r": 2, **settings},
            "epochs": epochs,
        },
    ]
    return Recipe.from_dict({**tiny, "evaluation": {}, "stage": stages})


@pytest.mark.parametrize(
    ("method", "settings"), [("genhancer", {}), ("diva", {"tune": "full"}), ("un2clip", {"tune": "full"})]
)
def test_the_generator_learns_beside_the_model_and_the_image_tower_by_it(
    method: str, settings: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    result = run(recipe(tiny, method, **settings), out=tmp_path / "run", progress=False)
    assert [stage.steps for stage in result.stages] == [4, 4]
    folders = [tmp_path / "run" / "stages" / name for name in ("start", "00-first", "01-second")]
    start, first, second = (load(folder).backbone.state_dict() for folder in folders)
    assert all(torch.equal(start[name], first[name]) for name in start)
    assert set(second) == set(start)  # adapters are merged, the generator is left behind
    moved = {name for name in start if not torch.equal(start[name], second[name])}
    attention = {name for name in start if name.startswith("visual.") and ".attn." in name and name.endswith("weight")}
    if method == "genhancer":
        assert moved == attention
    else:
        assert moved == {name for name in start if name.startswith("visual.")}
    model = load(folders[1])
    feedback = read_feedback(folders[1] / "feedback.safetensors", model)
    assert feedback.told_by == ("captions" if method == "diva" else "features")
    assert feedback.generator.leave.weight.abs().max() > 0  # type: ignore[union-attr,operator]
    with pytest.raises(UsageError, match="holds no generator"):
        read_feedback(folders[1] / "outcome.json", model)


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(recipe(tiny, "genhancer", epochs=2), at=13)


def test_what_does_not_go_together_is_refused_before_training(tiny: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="neither a stage"):
        recipe(tiny, "genhancer", generator="other")
    with pytest.raises(UsageError, match="genhancer"):
        recipe(tiny, "genhancr")
    with pytest.raises(UsageError, match="lora_dropout"):
        recipe(tiny, "genhancer", lora_dropout=1.0)
    with pytest.raises(UsageError, match="tune"):
        recipe(tiny, "genhancer", tune="half")
