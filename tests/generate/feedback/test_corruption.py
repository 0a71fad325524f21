"""Corruptions of generative feedback (p056, p072, p166): their limits, their conversions, and exact predictors."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import Corruption, DiffusionCorruption, NoiseSchedule, RectifiedFlow, TokenMasking


def pictures(count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(3)
    shape = (count, 2, 4, 4)
    return torch.randn(shape, generator=g).double(), torch.randn(shape, generator=g).double(), g


def test_a_flow_starts_at_the_picture_and_ends_at_the_noise() -> None:
    clean, noise, _ = pictures(2)
    ends = RectifiedFlow().corrupt(clean, torch.tensor([0.0, 1.0]), noise)
    torch.testing.assert_close(ends.x, torch.stack([clean[0], noise[1]]))
    torch.testing.assert_close(ends.target, noise - clean)  # the derivative of x_t by t


def test_a_diffusion_starts_near_the_picture_and_ends_near_the_noise() -> None:
    clean, noise, _ = pictures(2)
    schedule = NoiseSchedule.linear()
    ends = DiffusionCorruption(schedule).corrupt(clean, torch.tensor([0, 999]), noise)
    first, last = 1 - 1e-4, math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000))
    torch.testing.assert_close(ends.x[0], first**0.5 * clean[0] + (1 - first) ** 0.5 * noise[0])
    torch.testing.assert_close(ends.x[1], last**0.5 * clean[1] + (1 - last) ** 0.5 * noise[1])


def test_a_ratio_of_one_masks_all_tokens_and_a_small_one_masks_one() -> None:
    ids = torch.arange(16).repeat(3, 1) % 7
    masking = TokenMasking(7, (0.01, 1.0))
    noise = masking.draw_noise(ids, torch.Generator().manual_seed(0))
    corrupted = masking.corrupt(ids, torch.tensor([1.0, 0.5, 0.01]), noise)
    assert corrupted.hidden is not None
    assert corrupted.hidden.sum(1).tolist() == [16, 8, 1]
    assert torch.equal(corrupted.x == 7, corrupted.hidden)
    assert torch.equal(corrupted.x[~corrupted.hidden], ids[~corrupted.hidden])
    assert int(noise[2].argmin()) == int(corrupted.hidden[2].int().argmax())


@pytest.mark.parametrize(
    "corruption",
    [RectifiedFlow(), *(DiffusionCorruption(target=each) for each in ("epsilon", "sample", "v_prediction"))],  # type: ignore[arg-type]
    ids=["velocity", "epsilon", "sample", "v"],
)
def test_what_is_predicted_gives_the_picture_back_and_costs_nothing(corruption: Corruption) -> None:
    clean, _, g = pictures()
    corrupted = corruption.sample(clean, g)
    torch.testing.assert_close(corruption.clean_of(corrupted.target, corrupted), clean, rtol=1e-4, atol=1e-4)
    assert corruption.losses(corrupted.target, corrupted).abs().max() == 0


def test_targets_of_diffusion_are_those_that_the_schedule_converts_into_each_other() -> None:
    clean, noise, _ = pictures()
    schedule, t = NoiseSchedule.scaled_linear(), torch.tensor([0, 100, 400, 800, 999])
    for kind in ("epsilon", "sample", "v_prediction"):
        corrupted = DiffusionCorruption(schedule, kind).corrupt(clean, t, noise)  # type: ignore[arg-type]
        torch.testing.assert_close(corrupted.target, schedule.from_epsilon(noise, corrupted.x, t, kind))  # type: ignore[arg-type]


def test_the_loss_of_v_is_that_of_epsilon_over_abar() -> None:
    clean, noise, g = pictures()
    schedule, t = NoiseSchedule.linear(), torch.tensor([0, 100, 400, 800, 999])
    epsilon, v = (DiffusionCorruption(schedule, kind) for kind in ("epsilon", "v_prediction"))  # type: ignore[arg-type]
    guess = torch.randn(clean.shape, generator=g).double()
    corrupted = epsilon.corrupt(clean, t, noise)
    converted = schedule.from_epsilon(guess, corrupted.x, t, "v_prediction")
    expected = epsilon.losses(guess, corrupted) / schedule.alphas_cumprod[t]
    torch.testing.assert_close(v.losses(converted, v.corrupt(clean, t, noise)), expected)


def test_v_of_the_last_times_is_exact_in_float32() -> None:
    clean, noise, _ = pictures(1)
    exact, single = (
        DiffusionCorruption(target="v_prediction").corrupt(x, torch.tensor([999]), n).target
        for x, n in ((clean, noise), (clean.float(), noise.float()))
    )
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_best_linear_velocity_of_gaussian_data_is_its_closed_form() -> None:
    # E[eps - x | x_t] with x ~ N(m, v): m' + k (x_t - (1 - t) m), k = (t - (1 - t) v) / (t^2 + (1 - t)^2 v), m' = -m
    g, mean, variance, time = torch.Generator().manual_seed(0), 0.7, 0.25, 0.4
    clean = mean + variance**0.5 * torch.randn(200_000, 1, generator=g).double()
    flow = RectifiedFlow()
    corrupted = flow.corrupt(clean, torch.full((len(clean),), time).double(), flow.draw_noise(clean, g))
    design = torch.cat([corrupted.x, torch.ones_like(clean)], 1)
    slope, offset = torch.linalg.lstsq(design, corrupted.target).solution.flatten().tolist()
    k = (time - (1 - time) * variance) / (time**2 + (1 - time) ** 2 * variance)
    assert slope == pytest.approx(k, abs=0.01)
    assert offset == pytest.approx(-mean - k * (1 - time) * mean, abs=0.01)


def test_times_have_the_distributions_they_are_named_for() -> None:
    g = torch.Generator().manual_seed(0)
    clean = torch.zeros(4000, 1)
    t = RectifiedFlow(scale=0.5).sample(clean, g).t
    assert stats.kstest(torch.logit(t).numpy() / 0.5, "norm").pvalue > 0.01
    t = DiffusionCorruption().sample(clean, g).t
    assert int(t.min()) < 5
    assert int(t.max()) > 994
    assert stats.kstest(t.numpy() / 1000, "uniform").pvalue > 0.01
    t = TokenMasking(4, (0.5, 0.9)).sample(torch.zeros(4000, 8, dtype=torch.long), g).t
    assert stats.kstest((t.numpy() - 0.5) / 0.4, "uniform").pvalue > 0.01


def test_masked_tokens_alone_count() -> None:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(5, (3, 12), generator=g)
    masking = TokenMasking(5)
    corrupted = masking.sample(ids, g)
    logits = torch.randn(3, 12, 5, generator=g)
    expected = torch.stack([F.cross_entropy(logits[i][h], ids[i][h]) for i, h in enumerate(corrupted.hidden)])  # type: ignore[arg-type]
    torch.testing.assert_close(masking.losses(logits, corrupted), expected)
    right = 50.0 * F.one_hot(ids, 5).float()
    assert torch.equal(masking.clean_of(right, corrupted), ids)
    assert masking.losses(right, corrupted).max() < 1e-6


def test_what_cannot_be_corrupted_is_refused() -> None:
    with pytest.raises(UsageError, match="target"):
        DiffusionCorruption(target="score")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="scale"):
        RectifiedFlow(scale=float("nan"))
    with pytest.raises(UsageError, match="codes"):
        TokenMasking(1)
    with pytest.raises(UsageError, match="ratio"):
        TokenMasking(8, (0.9, 0.5))
    with pytest.raises(UsageError, match="token ids"):
        TokenMasking(8).corrupt(torch.zeros(1, 4, 2, dtype=torch.long), torch.ones(1), torch.zeros(1, 4))
    with pytest.raises(UsageError, match="mask token ids"):
        RectifiedFlow().sample(torch.zeros(2, 4, dtype=torch.long))
