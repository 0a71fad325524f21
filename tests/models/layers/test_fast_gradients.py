from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Attention
from torch import nn

from binderclip.models import build, load
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.towers import open_image_tower


class Own(nn.Conv2d):
    """A subclass, whose forward is its own business."""


def test_classes_are_put_back_also_after_an_error_and_copies_work():
    torch.manual_seed(0)
    attention, conv = nn.MultiheadAttention(12, 3, batch_first=True), nn.Conv2d(4, 4, 5, padding=2, groups=4)
    parts = nn.ModuleList([attention, Attention(12, 3), conv, Own(4, 4, 5, groups=4), nn.Conv2d(4, 4, 5)])
    before = [type(part) for part in parts]
    with fast_gradients(parts):
        twin = copy.deepcopy(parts)
        during = [type(part) for part in parts]
    assert [type(part) for part in parts] == before
    with pytest.raises(RuntimeError, match="stop"), fast_gradients(parts):
        raise RuntimeError("stop")
    assert [a is not b for a, b in zip(during, before, strict=True)] == [True, True, True, False, False]
    assert [type(part) for part in parts] == before
    x, image = torch.ones(1, 4, 12), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(twin[0](x, x, x, need_weights=False)[0], attention(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(twin[2](image), conv(image))
    assert parts.load_state_dict(twin.state_dict())


def _tiny_clip():
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    return build({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})


@pytest.mark.parametrize("make", [_tiny_clip, lambda: load("small")], ids=["open_clip's ViT", "small"])
def test_a_model_can_be_looked_into_and_differentiated_meanwhile(make):
    torch.manual_seed(0)
    model = make().train()
    pixels = torch.rand(2, 3, *model.preprocess.size, requires_grad=True)

    def figures():
        tower = open_image_tower(model.backbone, mean=model.preprocess.mean, std=model.preprocess.std)
        run = tower.run(tower.embed(pixels)).x
        out = model.encode_pixels(pixels)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        return [run.detach(), out.detach(), *torch.autograd.grad((out * weights).sum(), pixels)]

    exact = figures()
    with fast_gradients(model):
        found = figures()
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
