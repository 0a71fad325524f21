"""Delta denoising and score distillation (p113, arXiv 2304.07090): closed forms on Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    ConditionalDenoiser,
    DistillationStep,
    GaussianDenoiser,
    NoiseSchedule,
    ScoreDistillation,
    dds_direction,
    distillation_loss,
    sds_direction,
)

SHAPE = (1, 4, 4)
MEANS = {prompt: torch.full(SHAPE, value).double() for prompt, value in (("cat", -0.5), ("dog", 0.7), (None, 0.1))}
SCHEDULE = NoiseSchedule.scaled_linear()
ONES = torch.ones(16, dtype=torch.float64)


class Counted(ConditionalDenoiser):
    """Prompts are normal distributions of variance 1; counts its calls and their rows."""

    def __init__(self) -> None:
        super().__init__({prompt: GaussianDenoiser(mean, ONES) for prompt, mean in MEANS.items()}, SCHEDULE)
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Any] = (None,)) -> Tensor:
        self.rows.append(len(x))
        return super().forward(x, t, conditions)


def drawn(seed: int) -> Tensor:
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(seed: int = 0) -> DistillationStep:
    t = torch.tensor([60, 400, 900])
    return DistillationStep(Counted(), drawn(1), drawn(2), t, drawn(10 + seed), 0, 1)


def coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
    abar = SCHEDULE.alphas_cumprod[t][:, None, None, None]
    return abar.sqrt(), (1 - abar).sqrt()


def test_without_guidance_it_is_its_closed_form_whatever_the_noise() -> None:
    a, s = coefficients(step().t)
    # eps(z_t, y) = s (z_t - a mu_y), as a^2 + s^2 = 1: the noise falls out of the difference.
    expected = s * a * ((step().image - step().source) - (MEANS["dog"] - MEANS["cat"]))
    for seed in range(3):
        torch.testing.assert_close(dds_direction(step(seed), "dog", "cat", 1.0), expected)
    noisy = torch.stack([sds_direction(step(seed), "dog", 1.0) for seed in range(3)])
    assert bool((noisy.std(0) > 0).all())
    torch.testing.assert_close(noisy[0], s * (a * step().image + s * step().noise - a * MEANS["dog"]) - step().noise)


def test_guidance_stands_in_both_predictions_and_takes_one_forward_of_four() -> None:
    a, s = coefficients(step().t)
    now = step()
    # eps_w has the mean mu_null + w (mu_y - mu_null) in the place of mu_y: mu_null is the same on both sides.
    shift = 7.5 * (MEANS["dog"] - MEANS["cat"])
    torch.testing.assert_close(dds_direction(now, "dog", "cat", 7.5), s * a * ((now.image - now.source) - shift))
    sds_direction(now, "dog", 7.5)
    dds_direction(now, "dog", "cat", 1.0)
    assert isinstance(now.denoiser, Counted)
    assert now.denoiser.rows == [12, 6, 6]


def test_an_edit_ends_at_the_source_moved_by_the_difference_of_the_means() -> None:
    direction = ScoreDistillation("dog", "cat", guidance_scale=1.0)
    edited = direction.edit(Counted(), drawn(2), num_steps=300, learning_rate=0.2)
    torch.testing.assert_close(edited, drawn(2) + MEANS["dog"] - MEANS["cat"], rtol=0, atol=1e-4)
    # SDS forgets the source: what is left of it is the noise of the last steps.
    distilled = ScoreDistillation("dog", kind="sds", guidance_scale=1.0).edit(
        Counted(), drawn(2), num_steps=300, learning_rate=0.2, generator=torch.Generator().manual_seed(0)
    )
    assert (distilled - MEANS["dog"]).abs().mean() < 0.25
    assert (distilled - edited).abs().mean() > 0.5


def test_a_pair_of_the_same_prompt_does_not_move() -> None:
    moved = ScoreDistillation("cat", "cat").edit(Counted(), drawn(2), num_steps=5)
    assert torch.equal(moved, drawn(2))


def test_a_mask_of_zeros_keeps_the_source_and_one_of_ones_changes_nothing() -> None:
    settings: dict[str, Any] = {"num_steps": 5}
    half = torch.zeros(SHAPE, dtype=torch.float64)
    half[..., :2] = 1
    everywhere = ScoreDistillation("dog", "cat").edit(
        Counted(), drawn(2), **settings, generator=torch.Generator().manual_seed(0)
    )
    masked = ScoreDistillation("dog", "cat", mask=half).edit(
        Counted(), drawn(2), **settings, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(masked[..., :2], everywhere[..., :2])
    assert torch.equal(masked[..., 2:], drawn(2)[..., 2:])


def test_the_gradient_of_the_published_loss_is_the_direction_over_the_places() -> None:
    now = step()
    direction = dds_direction(now, "dog", "cat")
    image = now.image.clone().requires_grad_()
    distillation_loss(image, direction).backward()
    torch.testing.assert_close(image.grad, direction / 16)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="kind"):
        ScoreDistillation("dog", kind="vsd")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="guidance_scale"):
        ScoreDistillation("dog", guidance_scale=float("nan"))
    with pytest.raises(UsageError, match="mask"):
        ScoreDistillation("dog", mask=torch.tensor(float("inf")))
    with pytest.raises(UsageError, match="unknown condition 'dgo'"):
        ScoreDistillation("dgo", "cat").edit(Counted(), drawn(2), num_steps=1)
