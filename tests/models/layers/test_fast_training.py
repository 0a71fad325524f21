from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Attention
from torch import nn

from binderclip.models.layers.fast_training import fast_training


class Own(nn.Conv2d):
    """A subclass, whose forward is its own business."""


def test_classes_are_put_back_also_after_an_error_and_copies_work():
    torch.manual_seed(0)
    attention, conv = nn.MultiheadAttention(12, 3, batch_first=True), nn.Conv2d(4, 4, 5, padding=2, groups=4)
    parts = nn.ModuleList([attention, Attention(12, 3), conv, Own(4, 4, 5, groups=4), nn.Conv2d(4, 4, 5)])
    before = [type(part) for part in parts]
    with fast_training(parts):
        twin = copy.deepcopy(parts)
        during = [type(part) for part in parts]
    assert [type(part) for part in parts] == before
    with pytest.raises(RuntimeError, match="stop"), fast_training(parts):
        raise RuntimeError("stop")
    assert [a is not b for a, b in zip(during, before, strict=True)] == [True, True, True, False, False]
    assert [type(part) for part in parts] == before
    x, image = torch.ones(1, 4, 12), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(twin[0](x, x, x, need_weights=False)[0], attention(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(twin[2](image), conv(image))
    assert parts.load_state_dict(twin.state_dict())
