"""Generative feedback (p056 GenHancer, p072 DIVA, p166 un2CLIP): who gets gradients, when none, and from what."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.generate import (
    FEEDBACK,
    ConditionTap,
    DiffusionCorruption,
    GenerativeFeedback,
    ImageCondition,
    PatchDenoiser,
    PixelTarget,
    caption_condition,
    diva,
    genhancer,
    genhancer_tokens,
    un2clip,
)
from binderclip.models import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.models.layers.lora import lora_

SMALL = {"side": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}


def made(model: ImageTextModel, name: str, images: torch.Tensor) -> GenerativeFeedback:
    torch.manual_seed(0)
    if name == "genhancer_tokens":
        feedback = genhancer_tokens(model, images, codes=5, **SMALL)  # type: ignore[arg-type]
    else:
        feedback = FEEDBACK[name](model, **SMALL)
    for parameter in feedback.parameters():  # no layer starts at zero, which stops gradients in the first step
        nn.init.normal_(parameter, std=0.1)
    return feedback


def loss_of(model: ImageTextModel, feedback: GenerativeFeedback, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return feedback(model.image_tower, images, images, generator=torch.Generator().manual_seed(seed))


every = pytest.mark.parametrize("name", ["diva", "genhancer", "genhancer_tokens", "un2clip"])


@every
def test_in_the_second_stage_the_whole_image_tower_learns_and_nothing_else(
    name: str, model: ImageTextModel, images: torch.Tensor
) -> None:
    feedback = made(model, name, images).learn_tower()
    loss_of(model, feedback, images).backward()
    image = {f"visual.{key}" for key, _ in model.visual.named_parameters()}
    moved = {key for key, p in model.backbone.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == image
    assert all(p.grad is None for p in feedback.generator.parameters())
    # DIVA's linear layer was not there in the first stage
    learned = [p.grad is not None for p in feedback.tap.parameters()]
    assert learned == [name == "diva"] * len(learned)


@every
def test_in_the_first_stage_the_tower_rests(name: str, model: ImageTextModel, images: torch.Tensor) -> None:
    feedback = made(model, name, images).learn_generator()
    with frozen(model):
        if feedback.told_by == "captions":
            loss = feedback.prompted(images, caption_condition(model, ["a red cat"] * len(images)))
        else:
            loss = loss_of(model, feedback, images)
        loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in feedback.generator.parameters())
    assert all((p.grad is None) == (name == "diva") for p in feedback.tap.parameters())


@every
def test_a_generator_that_is_told_nothing_gives_the_tower_no_gradient(
    name: str, model: ImageTextModel, images: torch.Tensor
) -> None:
    feedback = made(model, name, images).learn_tower()
    network = feedback.generator
    for layer in (network.sequence, network.pooled):
        if layer is not None:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type, union-attr]
    loss_of(model, feedback, images).backward()
    assert all(p.grad.abs().max() == 0 for p in model.visual.parameters() if p.grad is not None)


def test_a_bridge_of_zeros_leaves_the_prompt_s_loss_and_no_gradient(
    model: ImageTextModel, images: torch.Tensor
) -> None:
    feedback = made(model, "diva", images).learn_tower(bridge=False)
    assert feedback.tap.sequence is not None
    assert feedback.tap.prompt is not None
    nn.init.zeros_(feedback.tap.sequence.weight)  # type: ignore[arg-type]
    nn.init.zeros_(feedback.tap.sequence.bias)  # type: ignore[arg-type]
    condition = feedback.tap(feedback.tap.features(model.image_tower, images))
    empty = caption_condition(model, ["a photo of a ."] * len(images))
    torch.testing.assert_close(condition.sequence, empty.sequence)
    one, other = (feedback.held_out(images, each, times=2, noises=1) for each in (condition, empty))
    torch.testing.assert_close(one, other)
    loss_of(model, feedback, images).backward()
    assert all(p.grad.abs().max() == 0 for p in model.visual.parameters() if p.grad is not None)


def test_two_draws_with_the_same_noise_give_twice_the_gradient(model: ImageTextModel, images: torch.Tensor) -> None:
    class OneDraw(DiffusionCorruption):
        def sample(self, clean: torch.Tensor, generator: torch.Generator | None = None):  # type: ignore[no-untyped-def]
            return super().sample(clean, torch.Generator().manual_seed(9))

    gradients = []
    for draws in (1, 2):
        torch.manual_seed(0)
        network = PatchDenoiser((3, 8, 8), width=16, depth=1, pooled_width=24, last_time=1000)
        nn.init.normal_(network.leave.weight)
        tap = ConditionTap(24, pooled_width=24, bridge=None)
        feedback = GenerativeFeedback(network, OneDraw(), tap, PixelTarget(8), draws=draws)
        loss = loss_of(model, feedback, images)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.visual.parameters()])]))
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_with_adapters_that_start_the_loss_is_that_of_the_model_and_only_they_learn(
    model: ImageTextModel, images: torch.Tensor
) -> None:
    feedback = made(model, "genhancer", images).learn_tower()
    before, start = loss_of(model, feedback, images), copy.deepcopy(model.backbone.state_dict())
    with frozen(model), lora_(model, r=4, target_modules=("q", "k", "v", "out"), towers=("image",)) as lora:
        after = loss_of(model, feedback, images)
        assert torch.equal(before.detach(), after.detach())
        after.backward()
        named = dict(lora.named_parameters())
        assert all(p.grad is not None for p in named.values())
        strongest = {key: float(p.grad.abs().max()) for key, p in named.items() if p.grad is not None}
        assert all((value > 0) == key.endswith(".B") for key, value in strongest.items())  # B = 0 hides A
        torch.optim.SGD(lora.parameters(), 1.0).step()
        assert not torch.equal(loss_of(model, feedback, images).detach(), before.detach())
    assert all(torch.equal(start[key], value) for key, value in model.backbone.state_dict().items())


def test_a_trained_generator_prefers_the_picture_s_own_condition(model: ImageTextModel) -> None:
    g = torch.Generator().manual_seed(0)
    colours = torch.rand(64, 3, generator=g)
    images, condition = (
        colours[:, :, None, None].expand(-1, -1, 4, 4),
        ImageCondition(pooled=4 * (colours - 0.5) @ torch.randn(3, 24, generator=g)),
    )
    torch.manual_seed(0)
    feedback = un2clip(model, side=1, patch=1, width=32, depth=1).learn_generator()
    optimizer = torch.optim.Adam(feedback.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        feedback.prompted(images, condition, generator=g).backward()
        optimizer.step()
    own, other = (feedback.held_out(images, each).mean() for each in (condition, condition.rolled()))
    assert own < 0.8 * other


def test_the_held_out_table_is_fixed_and_its_control_rolls_conditions(
    model: ImageTextModel, images: torch.Tensor
) -> None:
    feedback = made(model, "genhancer", images)
    condition = feedback.tap(feedback.tap.features(model.image_tower, images))
    first, again = (feedback.held_out(images, condition, times=3, noises=2) for _ in range(2))
    assert torch.equal(first, again)
    assert condition.pooled is not None
    assert condition.sequence is not None
    rolled = condition.rolled()
    assert rolled.pooled is not None
    assert rolled.sequence is not None
    assert torch.equal(rolled.pooled[1], condition.pooled[0])
    assert torch.equal(rolled.sequence[0], condition.sequence[5])
    # the middle of each third of the distribution of times, by hand
    corruption, total, g = feedback.corruption, torch.zeros(6), torch.Generator().manual_seed(0)
    clean = feedback.target(images)
    for quantile in (1 / 6, 3 / 6, 5 / 6):
        for _ in range(2):
            noise = torch.randn(clean.shape, generator=g)
            t = torch.sigmoid(torch.distributions.Normal(0, 1).icdf(torch.full((6,), quantile)))
            total += feedback.losses(corruption.corrupt(clean, t, noise), condition).detach()
    torch.testing.assert_close(first, total / 6)


@pytest.mark.parametrize("make", [genhancer, un2clip, diva])
def test_methods_are_points_of_one_design(make: Callable[..., GenerativeFeedback], model: ImageTextModel) -> None:
    feedback = make(model, **SMALL)
    pixels = torch.rand(2, 3, 16, 16)
    condition = feedback.tap(feedback.tap.features(model.image_tower, pixels))
    shapes = [None if part is None else tuple(part.shape) for part in (condition.sequence, condition.pooled)]
    assert shapes == {genhancer: [(2, 1, 16), (2, 16)], un2clip: [None, (2, 24)], diva: [(2, 12, 20), None]}[make]
    assert feedback.draws == (2 if make is diva else 1)
    if make is un2clip:  # nothing stands between embedding and generator
        torch.testing.assert_close(condition.pooled, model.encode_pixels(pixels))
        assert not list(feedback.tap.parameters())


def test_what_cannot_be_done_is_refused(model: ImageTextModel, images: torch.Tensor) -> None:
    feedback = made(model, "un2clip", images)
    with pytest.raises(UsageError, match="batch"):
        loss_of(model, feedback, images[:0])
    with pytest.raises(UsageError, match="draws"):
        diva(model, draws=0, **SMALL)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="captions is empty"):
        caption_condition(model, [])
    with pytest.raises(UsageError, match="times"):
        feedback.held_out(images, ImageCondition(pooled=torch.zeros(6, 24)), times=0)
    with pytest.raises(UsageError, match="told_by"):
        GenerativeFeedback(feedback.generator, feedback.corruption, feedback.tap, feedback.target, told_by="x")  # type: ignore[arg-type]
