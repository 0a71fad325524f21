"""Copies beside a model that is trained: one that stays as it is, and one that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.train import Recipe, run
from binderclip.train.engine.companions import MomentumCopy, cosine_momentum


@pytest.fixture
def refined(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny |= {"loss": {"name": "clip-refine", "alpha": 0.0}, "teacher": "start", "epochs": 2, "warmup": 0.0}
    return tiny | {"augment": False, "evaluation": {}}


def go(document: dict[str, Any], out: Path, **options: Any):
    return run(Recipe.from_dict(document), out=out, progress=False, **options)


def test_it_is_the_model_as_the_stage_finds_it(refined: dict[str, Any], tmp_path: Path) -> None:
    divergence = go(refined, tmp_path / "a").stages[0].history["loss/hycd"]
    # a student that is its teacher diverges by nothing, and one step later by something
    assert abs(divergence[0]) < 1e-4
    assert np.all(divergence[1:] > 1e-3)


def test_pieces_get_the_same_teacher(refined: dict[str, Any], tmp_path: Path) -> None:
    whole = go(refined, tmp_path / "a").stages[0].history["loss"]
    split = go(refined | {"micro_batch": 5}, tmp_path / "b").stages[0].history["loss"]
    np.testing.assert_allclose(split, whole, rtol=1e-4)


def test_a_resumed_run_has_the_same_teacher_and_the_same_draws(refined: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(Recipe.from_dict(refined), at=5)


def test_without_it_the_recipe_is_refused(refined: dict[str, Any]) -> None:
    del refined["teacher"]
    with pytest.raises(UsageError, match=r'loss: it compares with the model .* teacher = "start"'):
        Recipe.from_dict(refined)


def test_momentum_rises_to_one() -> None:
    assert cosine_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert cosine_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert cosine_momentum(100, 100, 0.996) == cosine_momentum(150, 100, 0.996) == 1


def test_one_step_is_the_weighted_mean() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    copy = MomentumCopy(module, start=0.9, steps=10)
    before = copy.copied.weight.clone()
    with torch.no_grad():
        module.weight.add_(1)
    copy.follow(module)
    torch.testing.assert_close(copy.copied.weight, 0.9 * before + 0.1 * (before + 1))
    copy.follow(module)
    momentum = cosine_momentum(1, 10, 0.9)
    torch.testing.assert_close(copy.copied.weight, before + 1 - 0.9 * momentum)
    assert not any(p.requires_grad for p in copy.parameters())
    assert int(copy.state_dict()["step"]) == 2
    with pytest.raises(UsageError, match="lies in"):
        MomentumCopy(module, start=1.5, steps=3)
