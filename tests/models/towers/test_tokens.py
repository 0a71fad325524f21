"""Tokens keep their places: gather, patch dropout, appended tokens, the class token's bias."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models.towers.tokens import Tokens, append_tokens, cls_bias, gather, gather_patches, random_patches


@pytest.fixture
def tokens() -> Tokens:
    """Two images of 2 x 3 patches after a class token; every vector spells its image and place."""
    x = torch.arange(2 * 7 * 2, dtype=torch.float32).view(2, 7, 2)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 6] = False
    return Tokens(x, torch.arange(7).unsqueeze(0), mask, grid=(2, 3), prefix=1)


def test_gather_moves_vectors_positions_and_mask_together(tokens):
    index = torch.tensor([[0, 3, 1], [0, 6, 2]])
    kept = gather(tokens, index)
    for row in range(2):
        for place in range(3):
            assert torch.equal(kept.x[row, place], tokens.x[row, index[row, place]])
    assert torch.equal(kept.positions, index)
    assert kept.mask.tolist() == [[True, True, True], [True, False, True]]
    again = gather_patches(kept, torch.tensor([1]))
    assert again.positions.tolist() == [[0, 1], [0, 2]]
    assert again.length == tokens.length == 7
    assert not again.whole


def test_gather_refuses_to_lose_the_prefix(tokens):
    for index in ([1, 2], [1, 0, 2], []):
        with pytest.raises(UsageError, match="prefix"):
            gather(tokens, torch.tensor(index, dtype=torch.long))


def test_gathered_gradients_go_to_the_kept_tokens(tokens):
    x = tokens.x.clone().requires_grad_()
    gather_patches(tokens.with_x(x), torch.tensor([[0, 2], [5, 1]])).x.sum().backward()
    assert x.grad[..., 0].tolist() == [[1, 1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0, 1]]


def test_appended_tokens_stay_last(tokens):
    longer = append_tokens(tokens, torch.zeros(1, 2, 2))
    assert longer.extra == 2
    assert torch.equal(longer.patches, tokens.patches)
    assert longer.positions[:, -2:].tolist() == [[-1, -1], [-1, -1]]
    assert longer.mask[:, -2:].all()
    fewer = gather_patches(longer, torch.tensor([4]))
    assert fewer.x.shape[1] == 1 + 1 + 2
    assert fewer.extra == 2
    assert gather(longer, torch.tensor([0, 2, 8])).extra == 1
    with pytest.raises(UsageError, match="last"):
        gather(longer, torch.tensor([0, 8, 2]))


def test_random_patches_keeps_the_right_number_in_order(tokens):
    big = Tokens(torch.randn(50, 101, 1), torch.arange(101).unsqueeze(0), grid=(10, 10), prefix=1)
    kept = random_patches(big, 0.75, torch.Generator().manual_seed(0))
    assert kept.positions.shape == (50, 26)
    assert torch.equal(kept.positions, kept.positions.sort(1).values)
    assert (kept.positions[:, 0] == 0).all()
    counts = torch.bincount(kept.positions[:, 1:].flatten(), minlength=101)[1:]
    assert counts.min() > 3  # 12.5 expected of 50, sd 3.1
    assert counts.max() < 26
    assert random_patches(tokens, 0.99).patches.shape[1] == 1
    with pytest.raises(UsageError, match="rate"):
        random_patches(tokens, 1.0)


def test_cls_bias_writes_one_row():
    region = torch.tensor([[0.0, 0.5], [float("-inf"), 0.2]])
    bias = cls_bias(region, prefix=2)
    assert bias.shape == (1, 1, 6, 6)
    assert bias[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0.5, float("-inf"), 0.2])
    assert (bias[0, 0, 1:] == 0).all()
    assert cls_bias(region.expand(3, 2, 2), prefix=2, query=1)[2, 0, 1, 3] == 0.5
    assert cls_bias(torch.ones(2, 2, dtype=torch.bool)).dtype == torch.float32
    with pytest.raises(UsageError, match="no class token"):
        cls_bias(region, prefix=0)
    with pytest.raises(UsageError, match="shape"):
        cls_bias(region[0])
