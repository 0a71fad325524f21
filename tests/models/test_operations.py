"""Operations of a call against closed forms: what torch's own counter misses or counts too often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.models.operations import count_operations


def test_linear_layers_forward_and_backward() -> None:
    layer, x = nn.Linear(7, 5), torch.randn(3, 7, requires_grad=True)
    once = 2 * 3 * 7 * 5
    assert count_operations(lambda: layer(x)) == once
    assert count_operations(lambda: layer(x).sum().backward()) == 3 * once


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_in_groups_forward_and_backward(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(4, 8, 3, stride=2, groups=groups, bias=False)
    images = torch.randn(2, 4, 9, 11, requires_grad=True)
    places = 9 * 11 if transposed else 4 * 5
    once = 2 * 2 * places * 4 * 8 * 9 // groups
    assert count_operations(lambda: layer(images)) == once
    assert count_operations(lambda: layer(images).sum().backward()) == 3 * once
    # the gradient of the images is not asked for
    assert count_operations(lambda: layer(images.detach()).sum().backward()) == 2 * once


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_counts_with_fused_kernels_and_without(device: str) -> None:
    """Scores and values: 2 n n d each for every picture and head."""
    batch, heads, n, d = 2, 3, 10, 8
    q = torch.empty(batch, heads, n, d, device=device)
    assert count_operations(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * batch * heads * 2 * n * n * d


@pytest.mark.parametrize("gradients", [False, True])
def test_multihead_attention_counts_the_same_on_its_fast_path(gradients: bool) -> None:
    width, n, batch = 24, 10, 2
    attention, x = nn.MultiheadAttention(width, 3, batch_first=True).eval(), torch.randn(batch, n, width)

    def forward() -> Tensor:
        return attention(x, x, x, need_weights=False)[0]

    with torch.set_grad_enabled(gradients):
        counted = count_operations(forward)
    assert counted == 2 * batch * n * width * 4 * width + 2 * batch * 2 * n * n * width
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_comes_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        count_operations(lambda: 1 // 0)
    assert torch.backends.mha.get_fastpath_enabled()
