"""The stage of attentive masks: what its step computes, what it trains, and that a killed one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import clip, prediction_distance
from binderclip.models import load
from binderclip.models.towers import open_image_tower
from binderclip.train import Recipe, build_model, run
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.stages.attentive import AttentiveMaskStep
from binderclip.train.tokens.attentive import AttentivePatches

KIND = {"name": "attentive-mask", "hidden": 32, "width": 16}


def stage(tiny: dict[str, Any], **kind: Any) -> Recipe:
    frozen = [{"match": "visual.conv1.*", "freeze": True}]
    return Recipe.from_dict({**tiny, "kind": {**KIND, **kind}, "groups": frozen, "epochs": 1, "evaluation": {}})


def step_of(tiny: dict[str, Any], **settings: Any) -> tuple[AttentiveMaskStep, TrainingBatch]:
    model = build_model(tiny["model"], seed=0, captions=lambda: ["a red cat", "a dog"])
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(4, -1)
    chosen = {"mask": AttentivePatches(keep=1.0), "hidden": 32, "width": 16, **settings}
    module = AttentiveMaskStep(model, clip(), boxes=lambda batch: (whole, whole, whole), steps=10, **chosen)
    images = torch.randn(4, 3, 32, 96, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenize(["a red cat", "a dog", "cat", "red dog"])
    return module, TrainingBatch(images, tokens, torch.arange(4), torch.arange(4))


def test_with_everything_kept_the_terms_are_those_of_the_plain_tower(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, simclr=0.5, byol=0.25, momentum=1.0)
    total, parts = module(batch)
    first, second, around = batch.images.chunk(3, dim=3)
    text = module.model.encode_text(batch.tokens)
    images = [module.model.encode_pixels(view.contiguous()) for view in (first, second)]
    pairs = sum(module.loss(image, text).total for image in images) / 2
    tower = open_image_tower(module.model.backbone.visual)
    pooled = [tower.pre_projection(view) for view in (first, second)]
    both = F.normalize(torch.cat([module.contrast(p) for p in pooled]), dim=1)  # 2 B views, their own left out
    contrast = F.cross_entropy((both @ both.T / 0.1).fill_diagonal_(-torch.inf), torch.arange(8).roll(4))
    target = module.project(tower.pre_projection(around))
    byol = sum(prediction_distance(module.predict(module.project(p)), target) for p in pooled) / 2
    torch.testing.assert_close(total, pairs + 0.5 * contrast + 0.25 * byol, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["loss/simclr"], contrast.detach(), rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_a_nan_that_the_loop_names(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny)
    with torch.no_grad():
        next(module.model.backbone.text.parameters()).fill_(float("nan"))
    total, parts = module(batch)
    assert bool(total.isnan())
    assert total.requires_grad
    assert parts == {}


def test_a_mask_and_the_heads_change_what_is_learned(tiny: dict[str, Any]) -> None:
    whole, batch = step_of(tiny)
    half, _ = step_of(tiny, mask=AttentivePatches(keep=0.5))
    assert float(whole(batch)[0].detach()) != pytest.approx(float(half(batch)[0].detach()), abs=1e-4)
    total, _ = half(batch)
    total.backward()
    names = {name for name, p in half.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {"contrast.0.weight", "project.0.weight", "predict.0.weight"} <= names
    assert not any(name.startswith("momentum.") for name in names)


def test_the_copy_follows_before_it_is_used(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, momentum=0.0)
    with torch.no_grad():
        for parameter in module.model.backbone.visual.parameters():
            parameter.mul_(1.1)
    module(batch)
    copied, followed = module.momentum.copied[0], module.model.backbone.visual
    for mine, other in zip(copied.parameters(), followed.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_run_trains_and_leaves_a_plain_model(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(stage(tiny), out=tmp_path / "a", progress=False)
    history = result.stages[0].history
    assert {"loss/pairs", "loss/simclr", "loss/byol"} <= set(history)
    assert np.isfinite(history["loss"]).all()
    assert result.stages[0].zero_gradients == []
    before, after = (load(tmp_path / part).backbone.state_dict() for part in ("a/stages/start", "a"))
    assert torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])
    assert not torch.equal(before["visual.proj"], after["visual.proj"])
    assert set(before) == set(after)


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(stage(tiny | {"checkpoint_every": 2}), at=3)


def test_what_cannot_be_done(tiny: dict[str, Any], tmp_path: Path) -> None:
    for entry, value in (("micro_batch", 4), ("patch_dropout", 0.5), ("image_tokens", "grid"), ("positions", "sincos")):
        with pytest.raises(UsageError, match=f"{entry}: stages of kind 'attentive-mask' take no such entry"):
            stage({**tiny, entry: value})
    with pytest.raises(UsageError, match=r"stage\.0\.kind: .*keep"):
        stage(tiny, keep=0.0)
    with pytest.raises(UsageError, match="3 x 3 do not divide"):
        run(stage(tiny, block=3), out=tmp_path / "b", progress=False)
