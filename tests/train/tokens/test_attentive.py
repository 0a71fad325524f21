"""Masks by attention (A-CLIP, p159): which blocks stay, where crops lie, and what scores become within them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train.tokens.attentive import (
    AttentivePatches,
    EnclosingCrops,
    class_attention,
    crop_resize,
    project_scores,
)


def test_the_papers_count() -> None:
    mask = AttentivePatches()
    assert mask.count((14, 14)) == 196 - 96
    assert AttentivePatches(block=1).count((14, 14)) == 98
    assert AttentivePatches(keep=1.0).count((14, 14)) == 196
    with pytest.raises(UsageError, match="2 x 2 do not divide"):
        mask.count((7, 7))
    with pytest.raises(UsageError, match="lies in"):
        AttentivePatches(keep=0.0)


def test_the_blocks_are_those_of_the_released_rule() -> None:
    """Halving bilinearly, sorting, and giving all four patches of a block its fate, written out for 14 x 14."""
    scores = torch.rand(6, 14, 14, generator=torch.Generator().manual_seed(0))
    kept = AttentivePatches().select(scores)
    assert kept.shape == (6, 100)
    small = F.interpolate(scores[:, None], (7, 7), mode="bilinear")[:, 0]
    for row, places in enumerate(kept.tolist()):
        order = sorted(range(49), key=lambda b: -float(small[row].flatten()[b]))[:25]
        want = {(2 * (b // 7) + dy) * 14 + 2 * (b % 7) + dx for b in order for dy in (0, 1) for dx in (0, 1)}
        assert set(places) == want
        assert places == sorted(places)
    # of equal scores the earlier
    assert AttentivePatches(keep=0.25, block=1).select(torch.zeros(1, 4, 4)).tolist() == [[0, 1, 2, 3]]


@given(st.integers(0, 50), st.integers(0, 3))
def test_the_third_crop_contains_both(seed: int, epoch: int) -> None:
    keys = [str(i) for i in range(30)]
    first, second, around = EnclosingCrops(seed=seed)(keys, epoch)
    for box in (first, second, around):
        assert ((box >= 0) & (box <= 1 + 1e-6)).all()
        assert (box[:, 2:] > box[:, :2]).all()
    for box in (first, second):
        assert (around[:, :2] <= box[:, :2] + 1e-6).all()
        assert (around[:, 2:] >= box[:, 2:] - 1e-6).all()
        area = (box[:, 2:] - box[:, :2]).prod(1)
        assert area.max() <= 1 + 1e-6
        assert area.min() > 0.4  # 0.5, or less where a long crop was cut at the edge
    again = EnclosingCrops(seed=seed)(keys[5:6], epoch)
    assert torch.equal(again[2], around[5:6])


def test_edges_of_the_enclosing_crop_lie_anywhere_between_the_two_and_the_picture() -> None:
    first, second, around = EnclosingCrops(seed=3)([str(number) for number in range(4000)], 0)
    low, high = torch.minimum(first, second)[:, :2], torch.maximum(first, second)[:, 2:]
    for share in (around[:, :2] / low, (around[:, 2:] - high) / (1 - high)):
        drawn = share[share.isfinite()]  # an edge at that of the picture has no room
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)  # uniform in [0, 1]
        assert float(drawn.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_scores_of_the_same_crop_are_themselves() -> None:
    scores = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0.1, 0.2, 0.9, 0.8]]).expand(3, -1)
    torch.testing.assert_close(project_scores(scores, box, box), scores)
    whole, quarter = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0.0, 1.0, 0.5]])
    # the upper right quarter, twice as fine: the pattern of released code, enlarged, cut out and made small again
    fine = F.interpolate(scores[:1, None], scale_factor=32, mode="bilinear")[:, :, :96, 96:]
    want = F.interpolate(fine, (6, 6), mode="bilinear")[0, 0]
    torch.testing.assert_close(project_scores(scores[:1], whole, quarter)[0], want, atol=0.02, rtol=0)


def test_a_spot_stays_in_its_place() -> None:
    scores = torch.zeros(1, 8, 8)
    scores[0, 2, 5] = 1  # centre at x = 0.6875, y = 0.3125
    view = torch.tensor([[0.5, 0.25, 1.0, 0.75]])
    found = project_scores(scores, torch.tensor([[0.0, 0, 1, 1]]), view)[0]
    row, column = divmod(int(found.argmax()), 8)
    assert abs((column + 0.5) / 8 * 0.5 + 0.5 - 0.6875) < 1 / 16
    assert abs((row + 0.5) / 8 * 0.5 + 0.25 - 0.3125) < 1 / 16


def test_crops_are_squares_of_the_box() -> None:
    images = torch.rand(2, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(2, -1)
    torch.testing.assert_close(crop_resize(images, whole, 24), images)
    torch.testing.assert_close(crop_resize(images, whole, 8), F.avg_pool2d(images, 3))
    half = torch.tensor([[0.5, 0, 1, 0.5]]).expand(2, -1)
    torch.testing.assert_close(crop_resize(images, half, 12), images[:, :, :12, 12:])


def test_attention_of_the_class_token_by_hand() -> None:
    tower = load("small").image_tower
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores, pooled = class_attention(tower, pixels)
    tokens, want = tower.embed(pixels), torch.zeros(2, 4, 4)
    for block in tower.blocks:
        q, k, _ = block.qkv(tokens.x)
        weights = (q[:, :, :1] @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3)
        want += weights[:, :, 0, tower.prefix :].mean(1).unflatten(1, (4, 4)) / tower.depth
        tokens = tokens.with_x(block(tokens.x))
    torch.testing.assert_close(scores, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled, tower.pool(tokens), atol=1e-4, rtol=1e-4)
    assert not pooled.requires_grad
