"""p080 (Latent-CLIP): optimised noise against torch's SGD, closed forms of the regulariser, and rewards by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.generate import ClipReward, ConceptReward, NoiseOptimizer, noise_regulariser
from binderclip.models import LatentCLIP, build

CFG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
NOISE = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
FACTORS = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(1)) + 0.5


def generator(noise: Tensor, prompt: str) -> Tensor:
    return noise * FACTORS + len(prompt)


def distance(made: Tensor, prompt: str) -> Tensor:
    return (made - 2 * len(prompt)).square().flatten(1).sum(1)


def test_the_regulariser_pulls_to_the_usual_length() -> None:
    rows = NOISE.double().requires_grad_()
    noise_regulariser(rows).sum().backward()
    norms = NOISE.double().flatten(1).norm(dim=1)
    expected = NOISE.double() * (1 - 35 / norms.square())[:, None, None, None]
    torch.testing.assert_close(rows.grad, expected)
    usual = (NOISE / norms[:, None, None, None] * 35**0.5).requires_grad_()
    noise_regulariser(usual).sum().backward()
    torch.testing.assert_close(usual.grad, torch.zeros_like(usual), atol=1e-5, rtol=0)
    large = torch.full((1, 16384), 4.0, dtype=torch.float16)  # whose squares sum to more than half precision holds
    assert bool(noise_regulariser(large).isfinite())


def test_without_rewards_the_length_becomes_the_usual_one() -> None:
    optimizer = NoiseOptimizer(generator, {}, steps=400, lr=1.0, clip=10.0, reg=0.1)
    result = optimizer.run("", 2 * NOISE)
    torch.testing.assert_close(result.norms[-1], torch.full((2,), 35**0.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_row_moves_as_by_torch_s_sgd(momentum: float) -> None:
    settings = {"lr": 0.5, "clip": 0.1, "reg": 0.01}
    optimizer = NoiseOptimizer(generator, {"distance": (distance, 0.3)}, steps=6, momentum=momentum, **settings)
    result = optimizer.run("ab", NOISE)
    for row in range(2):
        leaf = torch.nn.Parameter(NOISE[row : row + 1].clone())
        peer = torch.optim.SGD([leaf], lr=0.5, momentum=momentum, nesterov=momentum > 0)
        iterates = []
        for _ in range(6):
            peer.zero_grad()
            reward = 0.3 * distance(generator(leaf, "ab"), "ab")
            iterates.append((reward.item(), leaf.detach().clone()))
            loss = reward + 0.01 * (0.5 * leaf.norm() ** 2 - 35 * leaf.norm().log())
            loss.sum().backward()
            torch.nn.utils.clip_grad_norm_([leaf], 0.1)
            peer.step()
        torch.testing.assert_close(result.rewards[:, row], torch.tensor([value for value, _ in iterates]))
        best = min(range(6), key=lambda k: iterates[k][0])
        assert int(result.step[row]) == best
        torch.testing.assert_close(result.noise[row : row + 1], iterates[best][1])
        torch.testing.assert_close(result.made[row], generator(iterates[best][1], "ab")[0])


def test_the_best_is_that_of_the_least_reward_not_the_last() -> None:
    """A rate so large that rewards rise again; the regulariser, which falls all the time, has no say."""
    optimizer = NoiseOptimizer(generator, {"distance": (distance, 1.0)}, steps=12, lr=3.0, clip=1e3, reg=0.01)
    result = optimizer.run("ab", NOISE)
    assert bool((result.reward <= result.rewards).all())
    torch.testing.assert_close(result.reward, result.rewards.min(0).values)
    assert bool((result.step < 11).all())
    again = NoiseOptimizer(generator, {"distance": (distance, -1.0)}, steps=2, lr=0.1, clip=1.0).run("ab", NOISE)
    assert bool((distance(again.made, "ab") > distance(generator(NOISE, "ab"), "ab")).all())  # driven away


def test_what_is_not_finite_ends_the_run_and_keeps_the_best() -> None:
    calls = []

    def breaking(made: Tensor, prompt: str) -> Tensor:
        calls.append(1)
        return distance(made, prompt) * (torch.nan if len(calls) > 2 else 1.0)

    with pytest.warns(UserWarning, match="iterate 2 is not finite"):
        result = NoiseOptimizer(generator, {"d": (breaking, 1.0)}, steps=9, lr=0.1).run("ab", NOISE)
    assert result.rewards.shape == (2, 2)
    with pytest.raises(DataError, match="start"):
        NoiseOptimizer(generator, {"d": (breaking, 1.0)}).run("ab", NOISE)


def test_rewards_are_cosines_with_the_prompt() -> None:
    torch.manual_seed(0)
    latent = LatentCLIP(CFG, "mine", scaling_factor=0.5).eval()
    latents = torch.randn(3, 4, 8, 8)
    reward = ClipReward(latent, autoencoder="mine")
    image = latent.encode_latents(latents)
    text = latent.encode_text(["a dog", "an image of dogs", "an image of no dogs"])
    cosines = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=-1)
    torch.testing.assert_close(reward(latents, "a dog"), 100 - 100 * cosines[:, 0])
    concept = ConceptReward(latent, "dogs", scale=10.0)
    torch.testing.assert_close(concept(latents), (10 * cosines[:, 1:]).softmax(-1)[:, 0])
    pixel = build(CFG).eval()
    pictures = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = 100 - 50 * torch.nn.functional.cosine_similarity(
            pixel.encode_image(pictures), pixel.encode_text(["a dog"])
        )
        torch.testing.assert_close(ClipReward(pixel, 50.0)(pictures, "a dog"), expected)
    with pytest.raises(UsageError, match="tied to one"):
        ClipReward(latent, autoencoder="sdxl")
    with pytest.raises(UsageError, match="prompt is empty"):
        reward(latents, " ")
    with pytest.raises(UsageError, match="concept is empty"):
        ConceptReward(latent, "")


def test_latents_move_to_the_prompt_and_no_weight_gets_a_gradient() -> None:
    torch.manual_seed(0)
    latent = LatentCLIP(CFG, "mine").eval()
    optimizer = NoiseOptimizer(lambda noise, _: noise, {"clip": (ClipReward(latent), 0.01)}, steps=20)
    result = optimizer.run("a dog", torch.randn(2, 4, 8, 8))
    assert bool((result.reward < result.rewards[0]).all())
    assert all(parameter.grad is None for parameter in latent.parameters())


def test_bad_settings_are_refused() -> None:
    rewards = {"d": (distance, 1.0)}
    for name, value in (("steps", 0), ("lr", 0.0), ("momentum", 1.0), ("clip", 0.0), ("reg", -1.0)):
        with pytest.raises(UsageError, match=name):
            NoiseOptimizer(generator, rewards, **{name: value})
    with pytest.raises(UsageError, match="nothing to optimise"):
        NoiseOptimizer(generator, {}, reg=0.0)
    with pytest.raises(UsageError, match="the weight of d"):
        NoiseOptimizer(generator, {"d": (distance, float("nan"))})
    for noise in (NOISE[:0], NOISE * 0, NOISE * float("nan")):
        with pytest.raises(UsageError, match="noise must be"):
            NoiseOptimizer(generator, rewards).run("a", noise)
    with pytest.raises(UsageError, match="one number for each row"):
        NoiseOptimizer(generator, {"d": (lambda made, _: made.sum(), 1.0)}).run("a", NOISE)
