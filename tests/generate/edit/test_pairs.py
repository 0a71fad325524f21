"""Pictures and edits side by side: on exact denoisers each half is what it would be alone, at one forward a step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import (
    AttentionStore,
    ClassifierFreeGuidance,
    ConditionalDenoiser,
    GaussianDenoiser,
    LatentDenoiser,
    PairedDenoiser,
    PromptPair,
    SamplingHook,
    StepContext,
    edit_pair,
    sample,
)

SHAPE = (1, 2, 2)
MEANS: dict[Hashable, float] = {"cat": -0.5, "dog": 0.7, None: 0.1}


class Counted(ConditionalDenoiser):
    """Prompts are normal distributions; keeps the rows of its calls."""

    def __init__(self) -> None:
        variance = torch.linspace(0.2, 1.0, 4, dtype=torch.float64)
        super().__init__(
            {prompt: GaussianDenoiser(torch.full(SHAPE, mean).double(), variance) for prompt, mean in MEANS.items()}
        )
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Hashable] = (None,)) -> Tensor:
        self.rows.append(len(x))
        return super().forward(x, t, conditions)


def noise(count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_half_is_sampled_as_it_would_be_alone() -> None:
    pictures, edits = edit_pair(
        Counted(), noise(), PromptPair("cat", "dog"), guidance_scale=3.0, source_guidance_scale=1.0,
        num_inference_steps=8,
    )  # fmt: skip
    torch.testing.assert_close(pictures, sample(Counted(), noise(), "cat", num_inference_steps=8))
    guided = sample(Counted(), noise(), "dog", terms=[ClassifierFreeGuidance(3.0)], num_inference_steps=8)
    torch.testing.assert_close(edits, guided)
    assert not torch.allclose(pictures, edits, atol=0.1)


@pytest.mark.parametrize(("scale", "rows"), [(7.5, 4), (1.0, 2)])
def test_a_step_is_one_forward_of_two_prompts_by_two_conditions(scale: float, rows: int) -> None:
    denoiser = Counted()
    edit_pair(denoiser, noise(1), PromptPair("cat", "dog"), guidance_scale=scale, num_inference_steps=5)
    assert denoiser.rows == [rows] * 5


def test_one_prompt_for_both_halves_gives_one_picture() -> None:
    pictures, edits = edit_pair(Counted(), noise(), PromptPair("cat", "cat"), num_inference_steps=4)
    assert torch.equal(pictures, edits)


def test_hooks_may_set_the_condition_and_the_noise_of_a_step() -> None:
    class Switch(SamplingHook):
        def condition(self, step: StepContext) -> Hashable:
            return "dog" if step.i >= 2 else step.condition

        def noise(self, step: StepContext, noise: Tensor) -> Tensor:
            return noise[:1].expand_as(noise)

    x = noise(1).expand(3, *SHAPE)
    switched = sample(Counted(), x, "cat", hooks=[Switch()], num_inference_steps=4, eta=1.0)
    assert torch.equal(switched[0], switched[1])  # one noise for all
    by_hand, schedule = x, Counted().schedule
    times = schedule.timesteps(4).tolist()
    for i, (t, target) in enumerate(zip(times, [*times[1:], None], strict=True)):
        (epsilon,) = Counted().predict(by_hand, t, ["cat" if i < 2 else "dog"])
        by_hand = schedule.step(epsilon, by_hand, t, target)
    torch.testing.assert_close(sample(Counted(), x, "cat", hooks=[Switch()], num_inference_steps=4), by_hand)


def test_wrong_calls_are_refused(tiny_denoiser: LatentDenoiser) -> None:
    pair = PromptPair("cat", "dog")
    with pytest.raises(UsageError, match="num_inference_steps must be a whole number of at least 2"):
        edit_pair(Counted(), noise(), pair, num_inference_steps=1)
    with pytest.raises(UsageError, match="not finite"):
        edit_pair(Counted(), noise() * torch.nan, pair)
    with pytest.raises(UsageError, match="guidance_scale"):
        edit_pair(Counted(), noise(), pair, guidance_scale=float("nan"))
    with pytest.raises(UsageError, match="3 rows are no pictures and as many edits"):
        sample(PairedDenoiser(Counted()), noise(3), pair)
    with pytest.raises(NotSupported, match="Counted has no attention"):
        edit_pair(Counted(), noise(), pair, controls=[AttentionStore()])
    with pytest.raises(UsageError, match="unknown condition 'bird'"):
        edit_pair(Counted(), noise(), PromptPair("cat", "bird"))
