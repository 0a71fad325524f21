"""Score distillation as a loop: what is drawn, refused, updated, and the loss that trains a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.generate import DistillationStep, GaussianDenoiser, NoiseSchedule, distill_score, distillation_loss

SOURCE = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
DENOISER = GaussianDenoiser(torch.full((1, 2, 2), 0.5), torch.full((4,), 0.3), NoiseSchedule.linear())


def test_it_descends_the_direction_from_the_source() -> None:
    seen: list[DistillationStep] = []

    def direction(step: DistillationStep) -> Tensor:
        seen.append(step)
        return step.image - step.source + 1

    source = SOURCE.clone()
    moved = distill_score(DENOISER, source, direction, num_steps=3, learning_rate=0.1, times=(7, 9))
    # z - z_src = d follows d <- d - 0.1 (d + 1).
    torch.testing.assert_close(moved - SOURCE, torch.full_like(SOURCE, 0.9**3 - 1))
    assert torch.equal(source, SOURCE)
    assert [(step.i, step.n) for step in seen] == [(0, 3), (1, 3), (2, 3)]
    assert {int(t) for step in seen for t in step.t} <= {7, 8}


def test_predictions_of_a_step_share_time_and_noise() -> None:
    t, noise = torch.tensor([5, 100, 900]), torch.randn(SOURCE.shape)
    step = DistillationStep(DENOISER, SOURCE + 1, SOURCE, t, noise, 0, 1)
    first, second = step.epsilons([(step.image, None), (step.source, None)])
    for image, epsilon in ((SOURCE + 1, first), (SOURCE, second)):
        torch.testing.assert_close(epsilon, DENOISER(DENOISER.schedule.add_noise(image, noise, t), t))


def test_a_refused_direction_is_drawn_again_and_an_accepted_one_updated() -> None:
    refusals: list[int] = []

    def accept(direction: Tensor, refused: int) -> bool:
        refusals.append(refused)
        return refused == 2

    draws: list[Tensor] = []

    def direction(step: DistillationStep) -> Tensor:
        draws.append(step.noise)
        return step.noise

    moved = distill_score(
        DENOISER, SOURCE, direction, num_steps=2, learning_rate=0.5, accept=accept,
        update=lambda step, direction: 2 * direction,
    )  # fmt: skip
    assert refusals == [0, 1, 2] * 2
    torch.testing.assert_close(moved, SOURCE - draws[2] - draws[5])
    assert len({float(draw.sum()) for draw in draws}) == 6


def test_pictures_are_refused_one_by_one() -> None:
    draws: list[Tensor] = []
    rows = [[False, True, False], [True, False], [True]]

    def direction(step: DistillationStep) -> Tensor:
        draws.append(step.noise)
        torch.testing.assert_close(step.source, SOURCE[[[0, 1, 2], [0, 2], [2]][len(draws) - 1]])
        return step.noise

    steps: list[DistillationStep] = []

    def update(step: DistillationStep, drawn: Tensor) -> Tensor:
        steps.append(step)
        return drawn

    def accept(_: Tensor, refused: int) -> Tensor:
        return torch.tensor(rows[refused])

    moved = distill_score(DENOISER, SOURCE, direction, num_steps=1, learning_rate=1.0, accept=accept, update=update)
    taken = torch.stack([draws[1][0], draws[0][1], draws[2][0]])
    torch.testing.assert_close(moved, SOURCE - taken)
    torch.testing.assert_close(steps[0].noise, taken)  # what the update sees are the draws that were taken
    assert torch.equal(steps[0].image, SOURCE)


def test_the_loss_has_the_direction_over_the_picture_s_size_as_its_gradient() -> None:
    weight = torch.ones(3, 1, 1, 1, requires_grad=True)
    direction = torch.randn(SOURCE.shape)
    distillation_loss(weight * SOURCE, direction).backward()
    torch.testing.assert_close(weight.grad, (direction * SOURCE).sum((1, 2, 3), keepdim=True) / 4)


def test_what_cannot_be_distilled_is_refused() -> None:
    def direction(step: DistillationStep) -> Tensor:
        return step.noise

    with pytest.raises(UsageError, match="source"):
        distill_score(DENOISER, SOURCE[:0], direction)
    with pytest.raises(UsageError, match="source"):
        distill_score(DENOISER, SOURCE * float("nan"), direction)
    for times in ((5, 5), (-1, 3), (0, 1001)):
        with pytest.raises(UsageError, match="times"):
            distill_score(DENOISER, SOURCE, direction, times=times)
    with pytest.raises(UsageError, match="num_steps"):
        distill_score(DENOISER, SOURCE, direction, num_steps=0)
    with pytest.raises(UsageError, match="learning_rate"):
        distill_score(DENOISER, SOURCE, direction, learning_rate=0.0)
    with pytest.raises(UsageError, match="share a shape"):
        distillation_loss(SOURCE, SOURCE[:1])


def test_an_edit_that_can_not_end_or_is_not_finite_stops_with_its_reason() -> None:
    def direction(step: DistillationStep) -> Tensor:
        return step.noise

    def broken(step: DistillationStep) -> Tensor:
        return step.noise * float("nan")

    seen: list[int] = []

    def never(_: Tensor, refused: int) -> bool:
        seen.append(refused)
        return False

    with pytest.raises(DataError, match=r"step 1 of 200 has refused 1000 directions"):
        distill_score(DENOISER, SOURCE, direction, accept=never)
    assert seen == list(range(1000))
    with pytest.raises(DataError, match=r"the direction of step 1 of 200 is not finite"):
        distill_score(DENOISER, SOURCE, broken, accept=never)
    with pytest.raises(DataError, match="edited picture is not finite"):
        distill_score(DENOISER, SOURCE, broken, num_steps=2)
