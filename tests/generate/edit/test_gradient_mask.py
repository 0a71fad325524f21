"""Abs-Grad-SAM (p071, arXiv 2408.16232): what it keeps, what it takes from the reference, and its mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import (
    AbsGradSAM,
    AttentionSite,
    ClassifierFreeGuidance,
    GaussianDenoiser,
    LatentDenoiser,
    Prompt,
    StepContext,
    sample,
)

PROMPT = "a dog on grass"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


REFERENCE, X = drawn(1, 4, 8, 8, seed=1), drawn(2, 4, 8, 8)


def sampled(denoiser: LatentDenoiser, hook: AbsGradSAM | None, steps: int = 4, **more: Any) -> Tensor:
    hooks = [] if hook is None else [hook]
    return sample(denoiser, X, PROMPT, hooks=hooks, num_inference_steps=steps, **more)


def step_of(denoiser: LatentDenoiser, condition: Any = PROMPT, x: Tensor = X) -> StepContext:
    return StepContext(denoiser, x, t=500, target=400, i=0, n=2, condition=condition)


def test_below_every_score_it_samples_plainly_and_above_them_the_state_is_the_noised_reference(
    tiny_denoiser: LatentDenoiser,
) -> None:
    settings: dict[str, Any] = {"steps": (1,), "pooled": 2}
    plain = sampled(tiny_denoiser, None)
    kept = sampled(tiny_denoiser, AbsGradSAM(REFERENCE, "dog", spread=-float("inf"), **settings))
    torch.testing.assert_close(kept, plain)
    hook = AbsGradSAM(REFERENCE, "dog", spread=1e6, noise=drawn(1, 4, 8, 8, seed=2), **settings)
    step = step_of(tiny_denoiser)
    step.i = 1
    abar = float(tiny_denoiser.schedule.alphas_cumprod[400])  # of the next state's time
    expected = abar**0.5 * REFERENCE + (1 - abar) ** 0.5 * drawn(1, 4, 8, 8, seed=2)
    torch.testing.assert_close(hook.after(step, X), expected.expand(2, -1, -1, -1))
    last = AbsGradSAM(REFERENCE, "dog", spread=1e6, steps=(3,), pooled=2)
    torch.testing.assert_close(sampled(tiny_denoiser, last), REFERENCE.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)


def test_a_step_costs_two_rows_and_a_chosen_one_a_conditional_row_more(
    tiny_denoiser: LatentDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, forward = [], LatentDenoiser.forward

    def counted(self: LatentDenoiser, x: Tensor, t: Tensor, conditions: Any = (None,)) -> Tensor:
        rows.append(len(conditions))
        return forward(self, x, t, conditions)

    monkeypatch.setattr(LatentDenoiser, "forward", counted)
    hook = AbsGradSAM(REFERENCE, "dog", steps=(0, 2), pooled=2)
    sampled(tiny_denoiser, hook, terms=[ClassifierFreeGuidance(7.5)])
    assert rows == [2, 1, 2, 2, 1, 2]


def test_scores_are_finite_differences_of_the_last_attention(tiny_denoiser: LatentDenoiser) -> None:
    hook = AbsGradSAM(REFERENCE, "dog", steps=(0,), pooled=1)
    scores = hook.scores(step_of(tiny_denoiser))
    assert scores.shape == (2, 4, 8, 8)
    sites: list[AttentionSite] = []

    def moved(delta: float, head: int, query: int) -> Tensor:
        def control(probabilities: Tensor, site: AttentionSite) -> Tensor:
            sites.append(site)
            if site.kind != "text" or site.layer != last:
                return probabilities
            probabilities = probabilities.clone()
            probabilities[:, head, query, 2] += delta  # start, a, dog
            return probabilities

        with torch.no_grad():
            return tiny_denoiser.controlled(control).predict(X, 500, [PROMPT])[0].mean((2, 3))

    last = -1
    moved(0.0, 0, 0)
    last = max(site.layer for site in sites if site.kind == "text")
    slopes = torch.stack([
        (moved(0.5, head, query) - moved(-0.5, head, query)).abs()
        for head in range(tiny_denoiser.unet.config.attention_head_dim)
        for query in range(0, 64, 8)
    ])  # fmt: skip
    assert bool((scores[:, :, 0, 0] > 0.9 * slopes.sum(0)).all())  # of some of the queries


def test_words_whose_values_are_zero_leave_no_subject(tiny_denoiser: LatentDenoiser) -> None:
    words = tiny_denoiser.prompt(PROMPT)
    values = words.values.clone()
    values[2] = 0  # linear projections without a bias keep it zero
    hook = AbsGradSAM(REFERENCE, "dog", steps=(0,), pooled=2)
    step = step_of(tiny_denoiser, Prompt(PROMPT, words.keys, values))
    assert torch.equal(hook.scores(step), torch.zeros(2, 4, 8, 8))
    assert not bool(hook.mask(step).any())


def test_the_mask_is_blurred_widened_and_cut_per_channel(
    tiny_denoiser: LatentDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.zeros(1, 2, 16, 16)
    scores[0, 0, 8, 8], scores[0, 1, 3, 3] = 1.0, 1.0
    monkeypatch.setattr(AbsGradSAM, "scores", lambda self, step: scores)
    step = step_of(tiny_denoiser)
    mask = AbsGradSAM(REFERENCE, "dog").mask(step)
    expected = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    expected[0, 0, 4:13, 4:13] = expected[0, 1, :8, :8] = True  # a point, one place wider, then thrice
    assert torch.equal(mask, expected)
    released = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    released[0, 0, 7:10, 7:10] = released[0, 1, 2:5, 2:5] = True  # one sum of 3 x 3
    assert torch.equal(AbsGradSAM(REFERENCE, "dog", released=True).mask(step), released)
    joint = AbsGradSAM(REFERENCE, "dog", released=True, joint=True).mask(step)
    assert torch.equal(joint, (released[:, :1] | released[:, 1:]).expand(-1, 2, -1, -1))


def test_wrong_words_steps_and_references_are_refused(tiny_denoiser: LatentDenoiser) -> None:
    with pytest.raises(UsageError, match="has no word 'bird'"):
        sampled(tiny_denoiser, AbsGradSAM(REFERENCE, "bird", steps=(0,)))
    with pytest.raises(UsageError, match="and no step 37"):
        sampled(tiny_denoiser, AbsGradSAM(REFERENCE, "dog"))
    with pytest.raises(UsageError, match="and no step 5"):
        sampled(tiny_denoiser, AbsGradSAM(REFERENCE, "dog", steps=(5,)), steps=1)
    with pytest.raises(UsageError, match="reference has shape"):
        sampled(tiny_denoiser, AbsGradSAM(drawn(1, 4, 16, 16), "dog", steps=(0,)))
    with pytest.raises(UsageError, match="not finite"):
        AbsGradSAM(REFERENCE * torch.nan, "dog")
    with pytest.raises(UsageError, match="spread"):
        AbsGradSAM(REFERENCE, "dog", spread=float("nan"))
    with pytest.raises(UsageError, match="noise has shape"):
        AbsGradSAM(REFERENCE, "dog", noise=drawn(2, 4, 8, 8))
    with pytest.raises(UsageError, match="at least one word and one step"):
        AbsGradSAM(REFERENCE, [])
    exact = GaussianDenoiser(torch.zeros(4, 8, 8), torch.ones(256))
    with pytest.raises(NotSupported, match="GaussianDenoiser has no attention"):
        sample(exact, X, None, hooks=[AbsGradSAM(REFERENCE, "dog", steps=(0,))], num_inference_steps=2)


def test_it_acts_after_the_steps_that_lead_to_the_positions_of_the_released_code() -> None:
    """50 steps of which strength 0.8 leaves the last 40; the state at positions 5, 18 and 28 of those is changed."""
    left = list(range(50))[50 - int(50 * 0.8) :]
    assert AbsGradSAM(REFERENCE, "dog").steps == {left[position - 1] for position in (5, 18, 28)}
