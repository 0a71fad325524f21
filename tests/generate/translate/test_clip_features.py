"""p130: features and mapping by a frozen tower, against open_clip's own passes."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import CLIPMapper, CLIPPatchFeatures


def tower(layers: int = 3) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(image_size=16, patch_size=4, width=16, layers=layers, heads=2, mlp_ratio=2, output_dim=8)


def test_features_and_embedding_are_those_of_open_clip_on_normalised_pictures() -> None:
    visual, images = tower(), torch.rand(2, 3, 32, 32) * 2 - 1
    maps, embedding = CLIPPatchFeatures(visual, taps=(0, 2))(images)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    channels = [((images[:, c, ::2, ::2] + 1) / 2 - mean[c]) / std[c] for c in range(3)]  # nearest: every second pixel
    x = torch.stack(channels, 1)
    torch.testing.assert_close(embedding, visual(x))
    expected = visual.forward_intermediates(x, indices=[0, 2])["image_intermediates"]
    torch.testing.assert_close(maps, torch.stack(expected, 1))


def test_taps_are_as_deep_in_towers_of_other_depths() -> None:
    assert CLIPPatchFeatures(tower(12)).taps == (1, 4, 8)
    assert CLIPPatchFeatures(tower(6)).taps == (0, 2, 4)


def test_without_prompts_the_mapper_is_the_tower_and_prompts_leave_the_number_of_tokens() -> None:
    visual, images = tower(), torch.rand(2, 3, 16, 16)
    patches = visual.conv1(images)
    expected = visual.forward_intermediates(images, indices=[2])["image_intermediates"][0]
    torch.testing.assert_close(CLIPMapper(visual, 0)(patches, torch.zeros(2, 0, 16)), expected)
    mapper = CLIPMapper(visual)
    assert mapper.prompts == 2
    first = mapper(patches, torch.zeros(2, 2, 16))
    second = mapper(patches, torch.randn(2, 2, 16))
    assert first.shape == second.shape == (2, 16, 4, 4)
    assert not torch.allclose(first, second)


def test_a_prompt_is_seen_by_its_block_alone() -> None:
    """The second block with its prompt as a last token, written out; the tokens that go on are the picture's."""
    visual, prompts = tower(2), torch.randn(1, 1, 16)
    patches = visual.conv1(torch.rand(1, 3, 16, 16))
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = visual.transformer.resblocks[0](visual.ln_pre(tokens + visual.positional_embedding))
    x = visual.transformer.resblocks[1](torch.cat([x, prompts], 1))[:, 1:17]
    torch.testing.assert_close(CLIPMapper(visual, 1)(patches, prompts).flatten(2).mT, x)


def test_the_tower_is_frozen_stays_outside_and_lets_gradients_through() -> None:
    visual = tower()
    features = CLIPPatchFeatures(visual)
    assert not list(features.parameters())
    assert not features.state_dict()
    assert not any(p.requires_grad for p in visual.parameters())
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    features(images)[1].sum().backward()
    assert images.grad is not None
    assert bool(images.grad.any())


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(NotSupported, match="vision transformer"):
        CLIPPatchFeatures(nn.Conv2d(3, 3, 1))
    with pytest.raises(UsageError, match="taps"):
        CLIPPatchFeatures(tower(), taps=(3,))
    with pytest.raises(UsageError, match="prompts"):
        CLIPMapper(tower(), 3)


def test_nearest_resizing_is_what_the_sizes_say() -> None:
    images = torch.rand(1, 3, 8, 8)
    features = CLIPPatchFeatures(tower())
    torch.testing.assert_close(features(images)[1], features(F.interpolate(images, scale_factor=2.0))[1])
