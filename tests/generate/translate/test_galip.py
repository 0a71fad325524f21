"""p130 (arXiv 2301.12959): GALIP against the released code's keys, its start, and its sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import GALIP, CLIPDiscriminator, CLIPPatchFeatures, GALIPGenerator


def tower() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(image_size=16, patch_size=4, width=16, layers=3, heads=2, mlp_ratio=2, output_dim=8)


def gan(**settings: Any) -> GALIP:
    visual = tower()
    return GALIP(GALIPGenerator(visual, sentence=8, latent=4, ngf=2), CLIPPatchFeatures(visual), **settings)


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 16, 16, generator=g) * 2 - 1, torch.randn(count, 8, generator=g)


def affine(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Keys of a modulated block: two affine maps by a condition of 612 = 100 + 512 numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in (0, 1):
        for part in ("gamma", "beta"):
            inner = f"{name}.affine{number}.fc_{part}"
            shapes |= {f"{inner}.linear1.weight": (channels, 612), f"{inner}.linear2.weight": (channels, channels)}
            shapes |= {f"{inner}.linear{layer}.bias": (channels,) for layer in (1, 2)}
    return shapes


def convolution(name: str, out: int, inner: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inner, side, side), f"{name}.bias": (out,)}


def test_released_checkpoints_fit_by_key_and_shape() -> None:
    """Of `netG` for ViT-B/32, without the tower that it holds as `mapping.CLIP_ViT`; of `netD` and `netC` together."""
    expected = {"fc_code.weight": (3136, 100), "fc_code.bias": (3136,)}
    for number in range(4):
        block = f"mapping.FBlocks.{number}"
        expected |= convolution(f"{block}.conv1", 32, 64, 3) | affine(f"{block}.fuse1", 32)
        expected |= convolution(f"{block}.conv2", 64, 32, 3) | affine(f"{block}.fuse2", 64)
    expected |= convolution("mapping.conv_fuse", 768, 64, 5) | convolution("mapping.conv", 512, 768, 5)
    expected |= {"mapping.fc_prompt.weight": (6144, 612), "mapping.fc_prompt.bias": (6144,)}
    for number, (inner, out) in enumerate([(512, 512)] * 3 + [(512, 256), (256, 128), (128, 64)]):
        block = f"GBlocks.{number}"
        expected |= convolution(f"{block}.c1", out, inner, 3) | convolution(f"{block}.c2", out, out, 3)
        expected |= affine(f"{block}.fuse1", inner) | affine(f"{block}.fuse2", out)
        expected |= convolution(f"{block}.c_sc", out, inner, 1) if inner != out else {}
    expected |= convolution("to_rgb.1", 3, 64, 3)
    with torch.device("meta"):
        visual = VisionTransformer(224, 32, 768, 12, 12, 4.0, output_dim=512)
        generator, discriminator = GALIPGenerator(visual), CLIPDiscriminator()
    assert {name: tuple(value.shape) for name, value in generator.state_dict().items()} == expected
    assert [block.size for block in generator.GBlocks] == [8, 16, 32, 64, 128, 224]

    expected = {"joint_conv.0.weight": (128, 1024, 4, 4), "joint_conv.2.weight": (1, 128, 4, 4), "main.gamma": (1,)}
    for block, out in (("DBlocks.0", 768), ("DBlocks.1", 768), ("main", 512)):
        expected |= {f"{block}.conv_r.0.weight": (out, 768, 3, 3), f"{block}.conv_r.2.weight": (out, out, 3, 3)}
        expected |= convolution(f"{block}.conv_s", out, 768, 1) | {f"{block}.gamma": (1,)}
    expected |= {f"DBlocks.{number}.beta": (1,) for number in (0, 1)}
    assert {name: tuple(value.shape) for name, value in discriminator.state_dict().items()} == expected


def test_modulation_starts_as_two_rectifiers_whatever_the_condition() -> None:
    block = gan().generator.generator.mapping.FBlocks[0].fuse1  # type: ignore[union-attr]
    h = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(block(h, torch.randn(2, 12)), F.leaky_relu(F.leaky_relu(h, 0.2), 0.2))


def test_the_discriminator_starts_with_the_first_tap_alone() -> None:
    torch.manual_seed(0)
    critic, sentences = CLIPDiscriminator(width=16, grid=7, sentence=8, hidden=12), torch.randn(2, 8)
    features = torch.randn(2, 3, 16, 7, 7)
    narrowed = critic.main.conv_s(features[:, 0])
    everywhere = sentences[:, :, None, None].repeat(1, 1, 7, 7)
    logits = critic(features, sentences)
    torch.testing.assert_close(logits, critic.joint_conv(torch.cat([narrowed, everywhere], 1)))
    assert logits.shape == (2, 1, 1, 1)
    with torch.no_grad():
        critic.DBlocks[1].beta.fill_(0.5)
    expected = critic.main.conv_s(features[:, 0] + 0.5 * features[:, 2])
    torch.testing.assert_close(critic(features, sentences), critic.joint_conv(torch.cat([expected, everywhere], 1)))


def test_losses_add_up_and_the_tower_stays_as_it_is() -> None:
    training = gan()
    visual = training.features.visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    history = training.fit([batch()], steps=3).history
    assert history["loss"] == pytest.approx(history["generator/D"] + 4 * history["loss/similarity"], rel=1e-4)
    assert "discriminator/D/MAGP" in history
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())
    assert all(p.grad is None for p in visual.parameters())
    optimizers = (training.optimizer, training.discriminator_optimizer)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [1e-4, 4e-4]  # type: ignore[union-attr]


def test_the_penalty_is_that_of_real_features_with_their_own_sentences() -> None:
    training, (images, sentences) = gan(), batch()
    critic = training.discriminators["D"].module
    features = training.features(images)[0].detach().requires_grad_()
    condition = sentences.clone().requires_grad_()
    total = 0.0
    for i in range(3):  # picture by picture
        logits = critic(features[i : i + 1], condition[i : i + 1]).sum()
        by_features, by_sentence = torch.autograd.grad(logits, (features, condition))
        total += float(by_features[i].square().sum() + by_sentence[i].square().sum()) ** 3
    history = training.fit([(images, sentences)], steps=1).history
    assert history["discriminator/D/MAGP"][0] == pytest.approx(2 * total / 3, rel=1e-4)


def test_samples_repeat_by_their_seed_and_stay_in_range() -> None:
    generator, sentences = gan().generator.generator, batch()[1]
    first, second = (generator.sample(50 * sentences, torch.Generator().manual_seed(2)) for _ in range(2))  # type: ignore[union-attr,operator]
    assert torch.equal(first, second)
    assert first.shape == (3, 3, 16, 16)
    assert float(first.abs().max()) <= 1


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(UsageError, match="batch of one"):
        gan().fit([batch(1)], steps=1)
    with pytest.raises(UsageError, match="similarity"):
        gan(similarity=float("nan"))
    with pytest.raises(UsageError, match="grid"):
        CLIPDiscriminator(grid=2)
    with pytest.raises(UsageError, match="latent"):
        GALIPGenerator(tower(), latent=0)
