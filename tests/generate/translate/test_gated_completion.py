"""Completion (p116, arXiv 2409.13242): open gates, attention by hand, nothing of what is hidden, shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import CompletionNet, GatedConv2d, MapSelfAttention


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_with_its_gates_open_it_is_a_convolution_and_with_them_shut_it_is_nothing() -> None:
    layer, x = GatedConv2d(3, 4, stride=2, dilation=2), drawn(0, 2, 3, 9, 9)
    with torch.no_grad():
        layer.conv.weight[4:] = 0.0
        for bias, factor in ((100.0, 1.0), (-100.0, 0.0), (0.0, 0.5)):
            assert layer.conv.bias is not None
            layer.conv.bias[4:] = bias
            plain = F.conv2d(x, layer.conv.weight[:4], layer.conv.bias[:4], 2, 2, 2)
            torch.testing.assert_close(layer(x), factor * F.leaky_relu(plain, 0.2))


def test_attention_starts_as_the_identity_and_is_the_papers_sum_over_places() -> None:
    layer, x = MapSelfAttention(8), drawn(0, 2, 8, 3, 4)
    torch.testing.assert_close(layer(x), x)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    q, k, v = (conv(x).flatten(2) for conv in (layer.query, layer.key, layer.value))
    weights = torch.einsum("bci,bcj->bij", q, k).softmax(-1)  # of place i over places j
    expected = 0.7 * torch.einsum("bcj,bij->bci", v, weights).reshape(x.shape) + x
    torch.testing.assert_close(layer(x), expected)


def test_nothing_of_what_is_hidden_counts() -> None:
    net = CompletionNet(4, growth=2).eval()
    images, mask = drawn(0, 1, 3, 10, 14).requires_grad_(), torch.zeros(1, 1, 10, 14)
    mask[..., 3:8, 4:9] = 1.0
    painted = net(images, mask)
    assert painted.shape == images.shape
    assert 0 <= float(painted.detach().min()) <= float(painted.detach().max()) <= 1
    painted.sum().backward()
    assert images.grad is not None
    assert not (images.grad * mask).any()
    assert bool((images.grad * (1 - mask)).any())
    with pytest.raises(UsageError, match="must be"):
        net(images, mask[..., :5])
    with pytest.raises(UsageError, match="growth"):
        CompletionNet(4, growth=0)
