"""Models in int8 against the float models that they were made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from binderclip.compress import (
    Int8Attention,
    Int8Conv2d,
    Int8Embedding,
    Int8Linear,
    quantize_calibrated,
    quantize_dynamic,
)
from binderclip.errors import NotSupported, UsageError


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_model_is_quantised_whole_and_stays_close():
    torch.manual_seed(0)
    attention = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 3)})
    assert quantize_dynamic(attention, exclude="head") is attention
    assert isinstance(attention["attn"], Int8Attention)
    assert isinstance(attention["head"], nn.Linear)
    head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
    x = draws(50, 32)
    plain = head(x).detach()
    quantize_dynamic(head)
    assert not head.training
    with torch.no_grad():
        cosine = nn.functional.cosine_similarity(head(x), plain)
        assert float(cosine.min()) > 0.999
        assert torch.equal(copy.deepcopy(head)(x), head(x))
    assert not list(head.parameters())


class Network(nn.Module):
    """A layer of each kind, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.pointwise = nn.Conv2d(64, 32, 1)
        self.table = nn.Embedding(7, 32)
        self.attn = nn.MultiheadAttention(32, 4, batch_first=True)
        self.out, self.idle = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, x):
        tokens = self.pointwise(self.depthwise(self.stem(x)).relu()).flatten(2).transpose(1, 2)
        tokens = tokens + self.table(torch.arange(tokens.shape[1]) % 7)
        return self.out(self.attn(tokens, tokens, tokens, need_weights=False)[0])


def test_layers_that_a_run_calls_compute_in_int8_and_stay_close():
    torch.manual_seed(0)
    net, x = Network(), draws(4, 3, 6, 6)
    with torch.no_grad():
        expected = net(x)
    whole = copy.deepcopy(net)
    assert quantize_calibrated(net, lambda: net(x)) == ["pointwise", "table", "attn", "out"]
    kinds = {"pointwise": Int8Conv2d, "table": Int8Embedding, "attn": Int8Attention, "out": Int8Linear}
    for name, kind in {**kinds, "stem": nn.Conv2d, "depthwise": nn.Conv2d, "idle": nn.Linear}.items():
        assert type(getattr(net, name)) is kind
    with torch.no_grad():
        assert float((net(x) - expected).norm() / expected.norm()) < 0.05
        inside = whole.depthwise(whole.stem(x)).relu()
        outside = whole.pointwise(inside)
    ranges = torch.tensor([[inside.min(), inside.max()], [outside.min(), outside.max()]])
    torch.testing.assert_close(net.pointwise.int8_ranges, ranges)
    assert quantize_calibrated(whole, lambda: whole(x), exclude=["attn", "p*"]) == ["table", "out"]


def test_ranges_are_those_of_all_calls():
    layer = nn.Sequential(nn.Conv2d(64, 8, 1))
    parts = [draws(1, 64, 2, 2), 3 * draws(1, 64, 2, 2, seed=1)]
    quantize_calibrated(layer, lambda: [layer(part) for part in parts])
    low, high = torch.aminmax(torch.stack(parts))
    torch.testing.assert_close(layer[0].int8_ranges[0], torch.stack([low, high]))


def test_what_cannot_be_done_is_refused_and_leaves_the_model():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double())
    with pytest.raises(NotSupported, match="float32 on the CPU"):
        quantize_dynamic(net)
    assert isinstance(net[0], nn.Linear)
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantize_dynamic(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantize_calibrated(net, lambda: None)
    net = nn.Sequential(nn.Conv2d(64, 4, 1))
    with pytest.raises(UsageError, match="not finite"):
        quantize_calibrated(net, lambda: net(torch.full((1, 64, 2, 2), float("nan"))))
    assert isinstance(net[0], nn.Conv2d)
    net[0].weight.data[0, 0] = float("inf")
    with pytest.raises(UsageError, match="finite"):
        quantize_calibrated(net, lambda: net(torch.ones(1, 64, 2, 2)))
