"""The stage of experts' labels: with weights of zero the contrastive one, and labels move with pictures (p093)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.data import Augment, encode_labels
from binderclip.errors import NotSupported, UsageError
from binderclip.losses import clip
from binderclip.models import MultiTaskCLIP, load
from binderclip.train import EXPERTS, Recipe, build_model, run
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.stages.expert_labels import relief
from binderclip.train.stages.experts import ExpertStep, experts

THREE = ["outline", "relief-depth", "relief-normals"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))


def recipe(tiny: dict[str, Any], **kind: Any) -> Recipe:
    return Recipe.from_dict(
        {**tiny, "kind": {"name": "experts", "experts": THREE, **kind}, "epochs": 2, "evaluation": {}}
    )


def test_weights_of_zero_are_the_contrastive_stage_bit_for_bit(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(recipe(tiny, weights=dict.fromkeys(THREE, 0.0)), out=tmp_path / "zero", progress=False)
    run(Recipe.from_dict({**tiny, "epochs": 2, "evaluation": {}}), out=tmp_path / "plain", progress=False)
    run(recipe(tiny), out=tmp_path / "full", progress=False)
    zero, plain, full = (load(tmp_path / name).backbone.state_dict() for name in ("zero", "plain", "full"))
    assert all(torch.equal(zero[name], plain[name]) for name in plain)
    assert not torch.equal(full["visual.conv1.weight"], plain["visual.conv1.weight"])
    assert set(full) == set(plain)  # the heads are left behind


def test_every_task_is_learned(tiny: dict[str, Any], tmp_path: Path) -> None:
    outcome = run(recipe({**tiny, "lr": 3e-3}, heads_lr=3.0), out=tmp_path / "a", progress=False).stages[0]
    assert outcome.zero_gradients == []
    for name in THREE:
        losses = outcome.history[f"loss/{name}"]
        assert losses[-2:].mean() < losses[:2].mean(), name
    norms = outcome.notes["gradient norms of the first batch"]
    assert set(norms) == {"pairs", *THREE}
    assert all(value > 0 for value in norms.values())


def test_gradients_are_told_of_what_is_trained_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    def norms(name: str, *still: str) -> dict[str, float]:
        groups = [{"match": pattern, "freeze": True} for pattern in still]
        done = run(recipe({**tiny, "groups": groups}), out=tmp_path / name, progress=False)
        return done.stages[0].notes["gradient norms of the first batch"]

    whole, part = norms("a"), norms("b", "visual.transformer.*")
    assert all(part[name] < whole[name] for name in whole)
    assert all(part.values())
    assert norms("c", "visual.*") == {}


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(recipe(tiny | {"checkpoint_every": 2}), at=5)


def test_labels_are_where_the_pictures_are(tiny: dict[str, Any]) -> None:
    """A picture whose own outline is its label: after the augmentation, the label says what is seen."""
    model = build_model(tiny["model"], seed=0, captions=lambda: ["a red cat", "a dog"])
    labelers = {"outline": EXPERTS["outline"](None)}
    black = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "grey", "paint"), 0.0)
    augment = Augment(32, white=1.0, seed=1, **black)
    step = ExpertStep(MultiTaskCLIP(model, {"outline": 2}), clip(), labelers, augment, {})
    rgba = torch.zeros(16, 4, 48, 48)
    rgba[:, 2:, 10:40, 5:25] = 1.0  # a blue rectangle, on white once it is augmented
    keys = [str(number) for number in range(16)]
    stored = encode_labels((rgba[:, 3] > 0.5).long(), "classes")
    seen = augment(rgba, keys, 3)
    batch = TrainingBatch(
        seen, model.tokenize(["cat"] * 16), torch.arange(16), torch.arange(16), {"outline": stored}, keys, 3
    )  # fmt: skip
    labels = step.labels(batch)["outline"]
    known = labels >= 0
    blue = seen[:, 0] < 0.5
    assert float((labels == blue.long())[known].float().mean()) > 0.97
    assert float((stored.long()[:, 8:40, 8:40] == blue.long()).float().mean()) < 0.95


def test_a_relief_rises_from_the_outline() -> None:
    rgba = torch.zeros(1, 4, 20, 20)
    rgba[:, 3, 4:16, 4:16] = 1
    height = relief(rgba, 4)[0]
    assert height[10].tolist() == [0.0] * 4 + [0.25, 0.5, 0.75] + [1.0] * 6 + [0.75, 0.5, 0.25] + [0.0] * 4
    assert torch.equal(height, height.T)
    normals = EXPERTS["relief-normals"](None, width=4).fn(rgba)[0]
    assert normals[2, 10, 10] == 1  # flat on top
    slope = normals[:, 10, 5]  # rises to the right by 1 pixel a pixel: leans to the left
    torch.testing.assert_close(slope, torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5, rtol=0, atol=1e-5)


def test_a_segmenter_is_an_expert(tiny_clip: Any) -> None:
    from binderclip.train import StageContext

    stage = Recipe.from_dict({"data": ["x"], "epochs": 1}).stage[0]
    context = StageContext(Recipe.from_dict({"data": ["x"], "epochs": 1}), stage, 0, None, Path())
    expert = EXPERTS["segment"](context, model=str(tiny_clip(2)), labels=["cat", "sky"])
    images = torch.rand(2, 4, 32, 32)
    labels = expert.fn(images)
    assert labels.shape == (2, 32, 32)
    assert set(labels.unique().tolist()) <= {0, 1}
    sure = EXPERTS["segment"](context, model=str(tiny_clip(2)), labels=["cat", "sky"], least=1.0)
    assert bool((sure.fn(images) == -1).all())
    assert sure.version != expert.version


@pytest.mark.parametrize(
    ("kind", "message"),
    [({"experts": []}, "name at least one of"), ({"experts": ["outline", "outline"]}, "each once"),
     ({"weights": {"edges": 1.0}}, "weight of 'edges'"), ({"weights": {"outline": -1.0}}, "at least 0"),
     ({"experts": [{"name": "relief-depth", "width": 0}]}, "at least 1 pixel"),
     ({"experts": [{"name": "segment", "model": "small", "labels": []}]}, "name the classes"),
     ({"experts": ["edges"]}, "unknown experts 'edges'"), ({"heads_lr": "fast"}, "it is a number")],
)  # fmt: skip
def test_wrong_settings_are_refused(tiny: dict[str, Any], kind: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(tiny, **kind)


def test_what_cannot_be_done(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="micro_batch: stages of kind 'experts'"):
        recipe({**tiny, "micro_batch": 4})
    with pytest.raises(UsageError, match="name what to train on"):
        recipe({**tiny, "data": []})
    with pytest.raises(NotSupported, match="image-text models, not Linear"):
        experts(SimpleNamespace(model=torch.nn.Linear(1, 1)), experts=THREE)  # type: ignore[arg-type]
    with pytest.raises(NotSupported, match="do not fit in memory"):
        run(recipe({**tiny, "cache_mb": 0, "workers": 0}), out=tmp_path / "b", progress=False)


def test_features_that_are_not_finite_are_a_nan_that_the_loop_names(tiny: dict[str, Any]) -> None:
    model = build_model(tiny["model"], seed=0, captions=lambda: ["a red cat", "a dog"])
    step = ExpertStep(MultiTaskCLIP(model, {}), clip(), {}, Augment(32), {})
    with torch.no_grad():
        next(model.backbone.text.parameters()).fill_(float("nan"))
    tokens = model.tokenize(["a", "b"])
    total, parts = step(TrainingBatch(torch.randn(2, 3, 32, 32), tokens, torch.arange(2), torch.arange(2)))
    assert bool(total.isnan())
    assert parts == {}
    assert np.isnan(float(total.detach()))
