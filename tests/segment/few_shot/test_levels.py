"""Backbones as pyramids: which maps they give, and what they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models.image_text.image_classifier import ImageClassifier
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.segment import CorrelationBackbone


def test_a_convolutional_pyramid_has_every_block_of_the_three_coarsest_strides(lite: CorrelationBackbone) -> None:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = lite(pixels)
    assert lite.counts == tuple(map(len, found)) == (5, 6, 2)
    assert [each[0].shape[-1] for each in found] == [2, 4, 8]
    net: Any = lite.model.module  # type: ignore[union-attr]
    with torch.no_grad():
        x, outputs = net.bn1(net.conv_stem(pixels)), []
        for stage in net.blocks:
            for block in stage:
                x = block(x)
                outputs.append(x)
    flat = [each for level in found[::-1] for each in level]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(flat, outputs[-13:], strict=True))


def test_blocks_of_a_tower_are_cut_into_three_groups_of_pooled_grids(clip_model: Any) -> None:
    backbone = CorrelationBackbone(clip_model, 32)
    assert backbone.counts == (1, 1, 1)
    tower, pixels = clip_model.image_tower, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    deep, middle, fine = (level[0] for level in backbone(pixels))
    with torch.no_grad():
        for stop, found, side in ((1, fine, 4), (2, middle, 2), (3, deep, 1)):
            tokens = tower.run(tower.embed(pixels), stop=stop).x[:, tower.prefix :]
            assert torch.allclose(found, F.adaptive_avg_pool2d(tokens.mT.unflatten(2, (4, 4)), side), atol=1e-5)


def test_pictures_are_squashed_whole(lite: CorrelationBackbone, painted: Any) -> None:
    wide = painted((60, 0, 64, 16), "white", (64, 16))[0]
    seen = lite.pixels(wide)
    assert seen.shape == (1, 3, 64, 64)
    assert bool((seen[0, :, :, 62:] > seen[0, :, :, :50].amax()).all())  # the right border is not cropped away


def test_the_masked_pass_sees_the_mean_colour_around_the_target(colours: Any) -> None:
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 32, 32)
    mask[0, :, :16] = 1
    found = colours.support(pixels, mask)
    assert torch.equal(found.masked[2][0][..., :4], found.whole[2][0][..., :4])
    assert not found.masked[2][0][..., 4:].any()
    assert len(found) == 1


def test_what_gives_no_pyramid_is_named(lite: CorrelationBackbone, clip_model: Any, colours: Any) -> None:
    with pytest.raises(UsageError, match="size 48 is no multiple of 32"):
        CorrelationBackbone(lite.model, 48)
    with pytest.raises(NotSupported, match="only networks of timm with `blocks`"):
        CorrelationBackbone(ImageClassifier(nn.Flatten(), ["a"], Preprocess(size=(8, 8)), arch="flat", name="flat"))
    with pytest.raises(DataError, match="the mask of example 2 is empty"):
        colours.support(torch.ones(2, 3, 32, 32), torch.stack([torch.ones(32, 32), torch.zeros(32, 32)]))
