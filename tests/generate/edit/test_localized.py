"""LUSD (p100, arXiv 2503.11054): its schedule, filter, mask and update, each against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    LUSD,
    ConditionalDenoiser,
    DistillationStep,
    GaussianDenoiser,
    attention_edit_mask,
    direction_std_schedule,
)

SHAPE = (2, 4, 4)
TARGET = torch.zeros(SHAPE, dtype=torch.float64)
TARGET[:, :2] = 1.0
DENOISER = ConditionalDenoiser(
    {
        "dog": GaussianDenoiser(TARGET, torch.ones(32, dtype=torch.float64)),
        "cat": GaussianDenoiser(-TARGET, torch.ones(32, dtype=torch.float64)),
    }
)


def drawn(seed: int) -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(i: int = 0, n: int = 1) -> DistillationStep:
    return DistillationStep(DENOISER, drawn(1), drawn(2), torch.tensor([100, 700]), drawn(3), i, n)


def test_the_deviations_fall_symmetrically_from_high_to_low() -> None:
    deviations = direction_std_schedule(301)
    torch.testing.assert_close(deviations + deviations.flip(0), torch.full((301,), 0.16))
    assert float(deviations[0]) == pytest.approx(0.01 + 0.14 / (1 + math.exp(-5)), rel=1e-5)
    assert bool((deviations.diff() < 0).all())


def test_its_direction_is_the_difference_of_two_conditions_at_one_noise() -> None:
    abar = DENOISER.schedule.alphas_cumprod[step().t][:, None, None, None]
    # eps(z_t, y) = s (z_t - a mu_y) for variance 1: the difference is s a (mu_source - mu_target).
    expected = (abar * (1 - abar)).sqrt() * (-2 * TARGET)
    torch.testing.assert_close(LUSD("dog", "cat").direction(step()), expected)


def test_a_direction_is_refused_until_the_threshold_has_fallen_to_its_deviation() -> None:
    method = LUSD("dog", "cat", threshold=0.2, threshold_decay=0.5)
    direction = (
        drawn(0) / drawn(0).flatten(1).std(1)[:, None, None, None] * torch.tensor([0.06, 1.0])[:, None, None, None]
    )
    taken = [method.accept(direction, refused).tolist() for refused in range(4)]
    assert taken == [[False, True], [False, True], [True, True], [True, True]]


def recorded(monkeypatch: pytest.MonkeyPatch, method: LUSD, **settings: Any) -> list[Tensor]:
    """States of an edit."""
    states: list[Tensor] = []
    direction = LUSD.direction

    def record(self: LUSD, step: DistillationStep) -> Tensor:
        states.append(step.image)
        return direction(self, step)

    monkeypatch.setattr(LUSD, "direction", record)
    states.append(method.edit(DENOISER, drawn(2), generator=torch.Generator().manual_seed(0), **settings))
    return states


def test_every_update_has_the_deviation_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    states = recorded(monkeypatch, LUSD("dog", "cat", threshold=0.0), num_steps=7, learning_rate=1.0)
    for before, after, deviation in zip(states[:-1], states[1:], direction_std_schedule(7).tolist(), strict=True):
        torch.testing.assert_close((after - before).flatten(1).std(1), torch.full((2,), deviation).double())


def test_the_mask_narrows_and_the_pull_is_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(k)).double() for k in range(4)]
    method = LUSD("dog", "cat", mask=lambda step: masks[step.i], pull=0.3, momentum=0.25, threshold=0.0)
    states = recorded(monkeypatch, method, num_steps=4, learning_rate=1.0)
    generator, average = torch.Generator().manual_seed(0), torch.zeros(1)
    for i, deviation in enumerate(direction_std_schedule(4).tolist()):
        t = torch.randint(50, 949, (2,), generator=generator)
        torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        abar = DENOISER.schedule.alphas_cumprod[t][:, None, None, None]
        update = (abar * (1 - abar)).sqrt() * (-2 * TARGET)
        if i > 0:
            average = masks[1] if i == 1 else 0.75 * average + 0.25 * masks[i]
            update = update * (i / 3 * average + 1 - i / 3)
        update = 0.7 * update + 0.3 * (states[i] - drawn(2))
        update = update / update.flatten(1).std(1)[:, None, None, None] * deviation
        torch.testing.assert_close(states[i + 1], states[i] - update)


def test_an_edit_moves_only_what_the_prompts_differ_in() -> None:
    source = drawn(2)
    edited = LUSD("dog", "cat").edit(DENOISER, source, num_steps=50)
    assert ((edited - source)[:, :, :2] > 0.3).all()
    # Nothing says anything of the other half, and what is pulled there is already at the source.
    assert torch.equal(edited[:, :, 2:], source[:, :, 2:])
    same = LUSD("cat", "cat", threshold=0.0).edit(DENOISER, source, num_steps=3)
    assert torch.equal(same, source)


def test_the_mask_is_where_the_words_attend_and_what_attends_to_it() -> None:
    cross = torch.zeros(3, 16, 5)
    cross[:, 5, 2] = torch.tensor([0.2, 0.5, 0.8])  # heads; one place, token 2
    identity = torch.eye(16).expand(2, 16, 16)
    mask = attention_edit_mask([cross], [identity], [2], (4, 4))
    expected = torch.zeros(16)
    expected[5] = 1
    torch.testing.assert_close(mask.flatten(), expected)
    # Self-attention that takes everything from place 5 to place 0.
    moved = torch.eye(16)
    moved[0], moved[5] = moved[5].clone(), moved[0].clone()
    assert int(attention_edit_mask([cross], [moved[None]], [2], (4, 4)).argmax()) == 0
    # The order of heads and layers is none.
    layers = [torch.rand(3, 16, 5, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    one = attention_edit_mask(layers, [identity], [1, 3], (8, 8))
    torch.testing.assert_close(attention_edit_mask([x.flip(0) for x in layers[::-1]], [identity], [1, 3], (8, 8)), one)
    assert (float(one.min()), float(one.max())) == pytest.approx((0.0, 1.0))
    # Uniform self-attention says nothing: everywhere.
    uniform = attention_edit_mask(layers, [torch.full((1, 16, 16), 1 / 16)], [1], (4, 4))
    assert torch.equal(uniform, torch.ones(1, 1, 4, 4))


def test_settings_that_mean_nothing_are_refused() -> None:
    for name, value in (("pull", 1.5), ("momentum", -0.1), ("threshold", -1.0), ("threshold_decay", 1.0)):
        with pytest.raises(UsageError, match=name):
            LUSD("dog", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no direction between them"):
        LUSD("dog", "dog")
    with pytest.raises(UsageError, match="high"):
        LUSD("dog", std_high=0.001)
    with pytest.raises(UsageError, match="num_steps"):
        direction_std_schedule(0)
    grid = torch.ones(1, 16, 4)
    with pytest.raises(UsageError, match="empty"):
        attention_edit_mask([grid], [torch.ones(1, 16, 16)], [], (4, 4))
    with pytest.raises(UsageError, match="from 0 to 3"):
        attention_edit_mask([grid], [torch.ones(1, 16, 16)], [4], (4, 4))
    with pytest.raises(UsageError, match="square"):
        attention_edit_mask([grid[:, :15]], [torch.ones(1, 16, 16)], [0], (4, 4))
