"""The loop of drawings: known minima, zero weights, schedules of groups, projection, and what is left as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip import load
from binderclip.errors import UsageError
from binderclip.fit import Diverged
from binderclip.generate import (
    ImageOptimisation,
    Parametrisation,
    PerspectiveCutouts,
    PixelImage,
    WeightedObjective,
    clip_prompt,
)

TARGET = 0.1 + 0.8 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def grey() -> PixelImage:
    return PixelImage(torch.full((3, 8, 8), 0.5))


class TwoGroups(Parametrisation):
    """Two numbers as a picture; one's learning rate falls to a tenth halfway, and is at most 1."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.slow = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return (self.fast + self.slow).expand(1, 3, 1, 1)

    def groups(self) -> list[dict[str, Any]]:
        falling = {"params": [self.slow], "lr": 0.1, "schedule": lambda progress: 1.0 if progress < 0.5 else 0.1}
        return [{"params": [self.fast], "lr": 0.5}, falling]

    def project_(self) -> None:
        self.fast.data.clamp_(max=1)


def test_reconstruction_converges_to_the_target() -> None:
    result = ImageOptimisation(grey(), {"error": lambda image: (image - TARGET).square().sum()}).run(400)
    torch.testing.assert_close(result.image, TARGET, atol=1e-3, rtol=0)
    assert result.steps == 400
    assert len(result.history["loss"]) == 400
    assert not result.image.requires_grad


def test_groups_keep_their_own_rates_and_schedules_and_are_projected() -> None:
    param = TwoGroups()
    result = ImageOptimisation(param, {"up": lambda image: -image[0, 0, 0, 0]}, optimizer="sgd").run(10)
    # plain gradient descent on -(fast + slow): the gradient is -1 at every step
    assert float(param.fast) == 1.0
    assert float(param.slow) == pytest.approx(5 * 0.1 + 5 * 0.01)
    assert result.history["up"][0] == 0
    assert result.history["up"][1] == pytest.approx(-0.6)


@pytest.mark.parametrize(
    "objective", [lambda image: image.sum() * 0, WeightedObjective(lambda image: image.sum(), 0.0)]
)
def test_nothing_to_do_changes_nothing(objective: Any) -> None:
    param = PixelImage(TARGET)
    result = ImageOptimisation(param, {"nothing": objective}).run(3)
    assert torch.equal(result.image, TARGET)


def test_weights_add_follow_the_progress_and_choose_what_is_seen() -> None:
    seen: list[tuple[int, ...]] = []

    def shape(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return image.mean()

    objectives = {
        "views": WeightedObjective(shape, lambda progress: 2 * progress),
        "picture": WeightedObjective(shape, 3.0, transformed=False),
    }
    result = ImageOptimisation(grey(), objectives, transforms=PerspectiveCutouts(4)).run(2)
    assert seen == [(1, 3, 8, 8), (4, 3, 8, 8), (1, 3, 8, 8)]  # at progress 0 the views have the weight 0
    history = result.history
    assert math.isnan(history["views"][0])
    assert history["loss"][1] == pytest.approx(history["views"][1] + 3 * history["picture"][1])


def test_the_model_is_left_as_it_was_and_the_distance_falls(tiny_clip: Any) -> None:
    model = load(tiny_clip(1)).train()
    objective = clip_prompt(model, "a cat", distance="cosine", weight=4)
    param = PixelImage(torch.full((3, 32, 32), 0.5))
    result = ImageOptimisation(param, {"prompt": objective}, transforms=PerspectiveCutouts(4)).run(15)
    assert result.history["prompt"][-1] < result.history["prompt"][0] - 0.1
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_runs_are_repeatable_stop_when_asked_and_zero_steps_give_the_picture() -> None:
    class Stop:
        def after_step(self, step: int) -> bool:
            return step == 2

    def run(seed: int, *callbacks: Any) -> Any:
        loss = {"views": lambda views: (views * torch.linspace(0, 1, 8)).mean()}
        transforms = PerspectiveCutouts(2)
        return ImageOptimisation(grey(), loss, transforms=transforms, callbacks=callbacks, seed=seed).run(4)

    assert torch.equal(run(1).image, run(1).image)
    assert not torch.equal(run(1).image, run(2).image)
    assert run(1, Stop()).steps == 2
    still = ImageOptimisation(PixelImage(TARGET), {"mean": lambda image: image.mean()}).run(0)
    assert torch.equal(still.image, TARGET)
    assert still.steps == 0
    assert not still.history


def test_refusals() -> None:
    with pytest.raises(UsageError, match="objectives"):
        ImageOptimisation(grey(), {})
    with pytest.raises(UsageError, match="weight"):
        WeightedObjective(lambda image: image.sum(), math.nan)
    with pytest.raises(UsageError, match="'map'"):
        ImageOptimisation(grey(), {"map": lambda image: image}).run(1)
    with pytest.raises(UsageError, match="steps"):
        ImageOptimisation(grey(), {"mean": lambda image: image.mean()}).run(-1)
    with pytest.raises(UsageError, match="initial"):
        PixelImage(torch.full((3, 4, 4), math.nan))
    with pytest.raises(Diverged):
        ImageOptimisation(grey(), {"nan": lambda image: image.sum() * math.nan}).run(1)
