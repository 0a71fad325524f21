"""Heads on the patches of a model whose embeddings stay its own (p093)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.transformer import PatchDropout
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import MultiTaskCLIP, load


@pytest.fixture
def model(tiny_clip: Any) -> Any:
    return load(tiny_clip(2))


def test_embeddings_are_the_model_s_and_maps_linear_in_its_patches(model: Any) -> None:
    tasks = MultiTaskCLIP(model, {"seg": 5, "depth": 1})
    pixels = torch.randn(2, 3, 32, 32)
    embedded, outputs = tasks(pixels, (16, 12))
    torch.testing.assert_close(embedded, model.encode_pixels(pixels), rtol=1e-4, atol=1e-5)
    visual = model.backbone.visual
    x = visual.conv1(pixels).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_post(visual.transformer(visual.ln_pre(x)))[:, 1:]
    head = tasks.heads["seg"]
    grid = (x @ head.weight[:, :, 0, 0].T + head.bias).mT.reshape(2, 5, 4, 4)
    expected = F.interpolate(grid, (16, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(outputs["seg"], expected, rtol=1e-4, atol=1e-4)
    assert outputs["depth"].shape == (2, 1, 16, 12)
    assert tasks(pixels)[1]["depth"].shape == (2, 1, 32, 32)


def test_a_task_s_gradient_reaches_the_tower_through_patches_alone(model: Any) -> None:
    tasks = MultiTaskCLIP(model, {"depth": 1})
    tasks(torch.randn(2, 3, 32, 32))[1]["depth"].square().mean().backward()
    visual = model.backbone.visual
    assert bool(visual.conv1.weight.grad.any())
    assert visual.proj.grad is None


def test_a_head_may_be_a_module_and_none_leaves_the_model_alone(model: Any) -> None:
    tasks = MultiTaskCLIP(model, {"up": nn.ConvTranspose2d(32, 2, 2, stride=2)})
    assert tasks(torch.randn(1, 3, 32, 32))[1]["up"].shape == (1, 2, 32, 32)
    pixels = torch.randn(2, 3, 32, 32)
    embedded, outputs = MultiTaskCLIP(model, {})(pixels)
    assert torch.equal(embedded, model.encode_pixels(pixels))
    assert outputs == {}


def test_what_cannot_be_predicted_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="at least 1 channel, not 0"):
        MultiTaskCLIP(model, {"seg": 0})
    model.backbone.visual.patch_dropout = PatchDropout(0.5)
    with pytest.raises(UsageError, match="drops patches"):
        MultiTaskCLIP(model, {"seg": 2}).train()(torch.randn(1, 3, 32, 32))
