"""Generators of generative feedback (p056, p072, p166) and their targets, also diffusers' networks in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.generate import (
    DiffusersGenerator,
    ImageCondition,
    LatentTarget,
    MaskedTokenModel,
    PatchCodebook,
    PatchDenoiser,
    PixelTarget,
)


def test_a_denoiser_keeps_patches_in_their_places() -> None:
    network = PatchDenoiser((2, 4, 6), patch=2, width=8, depth=1, heads=2, pooled_width=3)
    # enter and leave inverses of each other, all between the identity: the picture comes back
    network.enter.weight.data, network.enter.bias.data = torch.eye(8), torch.zeros(8)
    network.leave.weight.data, network.leave.bias.data = torch.eye(8), torch.zeros(8)
    network.encode = lambda tokens, t, condition: tokens  # type: ignore[method-assign]
    x = torch.randn(3, 2, 4, 6)
    torch.testing.assert_close(network(x, torch.zeros(3), ImageCondition(pooled=torch.zeros(3, 3))), x)


def test_a_new_denoiser_predicts_zeros_and_a_trained_one_heeds_time_and_condition() -> None:
    torch.manual_seed(0)
    network = PatchDenoiser((3, 8, 8), width=16, depth=2, sequence_width=5, pooled_width=3, last_time=1000)
    x, condition = torch.randn(2, 3, 8, 8), ImageCondition(torch.randn(2, 4, 5), torch.randn(2, 3))
    t = torch.tensor([0, 999])
    assert network(x, t, condition).abs().max() == 0
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    plain = network(x, t, condition)
    others = [
        network(x, torch.tensor([500, 999]), condition)[0],
        network(x, t, ImageCondition(condition.sequence, -condition.pooled))[0],  # type: ignore[operator]
        network(x, t, ImageCondition(-condition.sequence, condition.pooled))[0],  # type: ignore[operator]
    ]
    assert all((other - plain[0]).abs().max() > 1e-3 for other in others)
    # pictures of a batch do not see each other
    first = ImageCondition(*(part[:1] for part in (condition.sequence, condition.pooled) if part is not None))
    torch.testing.assert_close(network(x[:1], t[:1], first), plain[:1])


def test_times_are_read_in_their_unit() -> None:
    torch.manual_seed(0)
    steps, flow = (PatchDenoiser((1, 4, 4), width=8, depth=1, pooled_width=2, last_time=last) for last in (1000, 1))
    for parameter in steps.parameters():
        nn.init.normal_(parameter, std=0.3)
    flow.load_state_dict(steps.state_dict())
    x, condition = torch.randn(2, 1, 4, 4), ImageCondition(pooled=torch.randn(2, 2))
    torch.testing.assert_close(
        steps(x, torch.tensor([250, 500]), condition), flow(x, torch.tensor([0.25, 0.5]), condition)
    )


def test_a_token_model_knows_the_mask_and_gives_logits_of_codes() -> None:
    torch.manual_seed(0)
    network = MaskedTokenModel(5, 4, width=8, depth=1, heads=2, pooled_width=2)
    condition = ImageCondition(pooled=torch.randn(1, 2))
    ids = torch.tensor([[0, 1, 2, 3]])
    logits = network(ids, torch.tensor([0.5]), condition)
    assert logits.shape == (1, 4, 5)
    masked = network(torch.tensor([[0, 1, 5, 3]]), torch.tensor([0.5]), condition)
    assert (masked - logits).abs().max() > 1e-3
    with pytest.raises(UsageError, match="4 tokens"):
        network(ids[:, :3], torch.tensor([0.5]), condition)


def test_pixels_are_means_of_areas_in_minus_one_to_one() -> None:
    images = torch.rand(2, 3, 8, 8)
    expected = images.reshape(2, 3, 4, 2, 4, 2).mean((3, 5)) * 2 - 1
    torch.testing.assert_close(PixelTarget(4)(images), expected)
    torch.testing.assert_close(PixelTarget(8)(images), images * 2 - 1)


def test_a_codebook_names_its_own_patches_and_gives_them_back() -> None:
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    places = torch.tensor([[0, 1], [2, 0]])
    image = colours[places].permute(2, 0, 1).repeat_interleave(2, 1).repeat_interleave(2, 2)[None]
    codebook = PatchCodebook.fit(image.repeat(4, 1, 1, 1), 3, patch=2, side=4)
    ids = codebook(image)
    assert len(set(ids[0, [0, 1, 2]].tolist())) == 3
    assert ids[0, 0] == ids[0, 3]
    torch.testing.assert_close(codebook.decode(ids), image, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="fewer than codes"):
        PatchCodebook.fit(image, 5, patch=2, side=4)
    with pytest.raises(UsageError, match="no multiple"):
        PatchCodebook(torch.zeros(3, 12), 2, 5)


def test_diffusers_networks_take_the_condition_in_their_own_places() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, cross_attention_dim=6, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=4,
        class_embed_type="projection", projection_class_embeddings_input_dim=5,
    ).eval()  # fmt: skip
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    sequence, pooled = torch.randn(2, 3, 6), torch.randn(2, 5)
    expected = unet(x, t, encoder_hidden_states=sequence, class_labels=pooled).sample
    torch.testing.assert_close(DiffusersGenerator(unet)(x, t, ImageCondition(sequence, pooled)), expected)
    prompted = DiffusersGenerator(unet, sequence[0])(x, t, ImageCondition(pooled=pooled))
    by_hand = unet(x, t, encoder_hidden_states=sequence[:1].expand(2, -1, -1), class_labels=pooled).sample
    torch.testing.assert_close(prompted, by_hand)
    with pytest.raises(UsageError, match="needs a sequence"):
        DiffusersGenerator(unet)(x, t, ImageCondition(pooled=pooled))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4, latent_channels=2,
    )  # fmt: skip
    images = torch.rand(2, 3, 8, 8)
    posterior = vae.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(LatentTarget(vae)(images), posterior.mean.detach() * 0.18215)
    torch.manual_seed(4)
    drawn = LatentTarget(vae, scale=0.3611, shift=0.1159, draw=True)(images)
    torch.manual_seed(4)
    torch.testing.assert_close(drawn, (posterior.sample().detach() - 0.1159) * 0.3611)
    assert not drawn.requires_grad
    assert not any(p.requires_grad for p in vae.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchDenoiser((3, 9, 8)), "patches"),
        (lambda: PatchDenoiser((3, 8, 8), width=10, heads=4), "multiple of heads"),
        (lambda: PatchDenoiser((3, 8, 8), last_time=0.0), "last_time"),
        (lambda: MaskedTokenModel(1, 4), "codes"),
        (lambda: PixelTarget(0), "side"),
        (lambda: LatentTarget(nn.Identity()), "no encode"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_conditions_that_do_not_fit_are_refused() -> None:
    network = PatchDenoiser((1, 4, 4), width=8, depth=1, pooled_width=2)
    x, t = torch.zeros(1, 1, 4, 4), torch.zeros(1)
    with pytest.raises(UsageError, match="pooled condition"):
        network(x, t, ImageCondition())
    with pytest.raises(UsageError, match="3 wide"):
        network(x, t, ImageCondition(pooled=torch.zeros(1, 3)))
    with pytest.raises(UsageError, match="no sequence"):
        network(x, t, ImageCondition(torch.zeros(1, 1, 2), torch.zeros(1, 2)))
    with pytest.raises(UsageError, match="makes"):
        network(torch.zeros(1, 1, 8, 8), t, ImageCondition(pooled=torch.zeros(1, 2)))
