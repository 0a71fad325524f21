"""The stage in which a trained tower teaches a new one: what it trains and leaves, and that a killed one goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.losses import FeatureMaskedModeling
from binderclip.models import load
from binderclip.train import Recipe, World, run
from binderclip.train.engine.companions import FrozenCopy
from binderclip.train.stages.masked_features import MaskedFeatureStep, masked_feature

VISION = {"image_size": 32, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8, "norm": "rms",
          "post_norm": True, "qkv_bias": False}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tiny_document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    run(Recipe.from_dict({**tiny_document, "epochs": 1, "evaluation": {}}), out=out, progress=False)
    return out


def recipe(tiny: dict[str, Any], teacher: Path, **entries: Any) -> Recipe:
    model = {"arch": "new-image-tower", "base": str(teacher), "vision": VISION}
    kind = {"name": "masked-feature", "teacher": str(teacher)}
    stages = [{"name": "features", "kind": kind, "epochs": 4, **entries}, {"name": "contrastive", "epochs": 1}]
    return Recipe.from_dict({**tiny, "model": model, "evaluation": {}, "stage": stages, "checkpoint_every": 3})


def test_it_learns_the_features_and_leaves_everything_else(tiny: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    result = run(recipe(tiny, teacher), out=tmp_path / "run", progress=False)
    first = result.stages[0]
    assert first.zero_gradients == []
    np.testing.assert_allclose(first.history["loss"], -first.history["cosine"], rtol=1e-6)
    assert first.history["loss"][-3:].mean() < first.history["loss"][:2].mean() - 0.1
    start, taught, end = (
        load(tmp_path / "run" / "stages" / name).backbone.state_dict()
        for name in ("start", "00-features", "01-contrastive")
    )
    moved = {name for name in start if not torch.equal(start[name], taught[name])}
    assert {"visual.conv1.weight", "visual.transformer.resblocks.2.attn.in_proj_weight"} <= moved
    assert all(name.startswith("visual.") for name in moved)  # neither texts nor the logit scale
    assert "visual.proj" not in moved
    assert set(start) == set(taught) == set(end)  # the prediction layer is left behind
    assert not torch.equal(taught["visual.proj"], end["visual.proj"])
    # texts begin with the teacher's
    theirs = load(teacher).backbone.state_dict()
    assert all(torch.equal(start[name], theirs[name]) for name in start if not name.startswith("visual."))
    assert start["visual.conv1.weight"].shape != theirs["visual.conv1.weight"].shape


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], teacher: Path, goes_on_exactly: Any) -> None:
    goes_on_exactly(recipe(tiny, teacher), at=7)


def test_groups_of_the_recipe_that_rest_in_the_first_stage_are_passed_over(
    tiny: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    slow = {"groups": [{"match": "text.*", "lr": 0.1}]}
    result = run(recipe(tiny | slow, teacher), out=tmp_path / "a", progress=False)
    assert [stage.steps > 0 for stage in result.stages] == [True, True]
    with pytest.raises(UsageError, match=r"named like 'txt\.\*'"):
        run(recipe(tiny | {"groups": [{"match": "txt.*", "lr": 0.1}]}, teacher), out=tmp_path / "b", progress=False)


def test_the_teacher_sees_its_own_pixels_in_the_student_s_grid(teacher: Path) -> None:
    known, student = load(teacher), load(teacher)
    student.preprocess = student.preprocess.__class__(**{**vars(student.preprocess), "mean": (0.1, 0.2, 0.3)})
    pixels = torch.rand(2, 3, 48, 48)
    as_seen = [
        (pixels - torch.tensor(model.preprocess.mean).view(3, 1, 1)) / torch.tensor(model.preprocess.std).view(3, 1, 1)
        for model in (student, known)
    ]
    found = FrozenCopy(known).patches(as_seen[0], student, (4, 4))
    tower = known.image_tower
    resized = F.interpolate(as_seen[1], (32, 32), mode="bicubic", antialias=True)
    expected = tower.norm(tower.run(tower.embed(resized)).patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_the_step_is_the_objective_of_the_teacher_s_features(teacher: Path) -> None:
    known, student = load(teacher), load(teacher)
    objective = FeatureMaskedModeling(64, 64)
    step = MaskedFeatureStep(student, objective, FrozenCopy(known))
    images = torch.randn(3, 3, 32, 32)
    tower = known.image_tower
    targets = tower.norm(tower.run(tower.embed(images)).patches)
    torch.manual_seed(5)
    found = step.of(images)
    torch.manual_seed(5)
    torch.testing.assert_close(found, objective(student.image_tower, images, targets))
    assert not any("teacher" in name for name in step.state_dict())


def test_what_cannot_be_done(tiny: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use accumulate"):
        recipe(tiny, teacher, micro_batch=4)
    with pytest.raises(UsageError, match="name what to train on"):
        recipe(tiny, teacher, data=[])
    with pytest.raises(UsageError, match="image_tokens"):
        recipe(tiny, teacher, patch_dropout=0.5, image_tokens={"name": "random", "keep": 0.5})
    with pytest.raises(NotSupported, match="image-text models, not Linear"):
        masked_feature(SimpleNamespace(model=torch.nn.Linear(1, 1), world=World()), teacher="small")  # type: ignore[arg-type]
    kind = {"name": "masked-feature", "teacher": str(teacher), "ratio": 0.0}
    with pytest.raises(UsageError, match="share of patches"):
        recipe(tiny, teacher, kind=kind)
