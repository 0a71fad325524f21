"""StyleDiffusion (p156, arXiv 2303.15649): its limiting cases, its path and its losses, on tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    AttentionStore,
    ClassifierFreeGuidance,
    LatentDenoiser,
    PromptEmbeddingInversion,
    PromptPair,
    StyleDiffusion,
    ValueMapping,
    edit_pair,
    invert,
    sample,
)

PROMPT, TARGET, STEPS = "a dog on grass", "a cat on grass", 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS = drawn(1, 4, 8, 8)


def neutral(denoiser: LatentDenoiser, guidance_scale: float) -> StyleDiffusion:
    """Scale 1 and shift 0."""
    states = invert(denoiser, LATENTS, PROMPT, num_inference_steps=STEPS)
    ones = torch.ones(STEPS, *denoiser.prompt(PROMPT).keys.shape)
    return StyleDiffusion(PROMPT, states, ones, torch.zeros_like(ones), guidance_scale)


def test_updates_of_the_released_setting() -> None:
    updates = PromptEmbeddingInversion().updates()
    assert (len(updates), updates[0], sum(updates)) == (30, 100, 1015)


def test_neutral_values_are_ordinary_guided_sampling(tiny_denoiser: LatentDenoiser) -> None:
    result = neutral(tiny_denoiser, 3.0)
    plain = sample(
        tiny_denoiser, result.states[-1], PROMPT, terms=[ClassifierFreeGuidance(3.0)], num_inference_steps=STEPS
    )
    torch.testing.assert_close(result.reconstruct(tiny_denoiser), plain, rtol=1e-4, atol=1e-5)
    picture, edited = result.edit(tiny_denoiser, TARGET, controls=[], value_steps=0.0)
    expected = edit_pair(
        tiny_denoiser, result.states[-1], PromptPair(PROMPT, TARGET), guidance_scale=3.0, num_inference_steps=STEPS
    )
    torch.testing.assert_close(picture, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(edited, expected[1], rtol=1e-4, atol=1e-5)


def test_the_guided_path_follows_the_inversion_better_than_without_it(tiny_denoiser: LatentDenoiser) -> None:
    settings = PromptEmbeddingInversion(
        guidance_scale=5.0, num_inference_steps=STEPS, inner_steps=25, decay=1.0, attention_weight=0.0, tolerance=0.0
    )
    result = settings.fit(tiny_denoiser, LATENTS, PROMPT, drawn(5, 10, seed=1))  # features of another width
    before, after = (
        float((r.reconstruct(tiny_denoiser) - LATENTS).square().mean()) for r in (neutral(tiny_denoiser, 5.0), result)
    )
    assert after < 0.5 * before
    assert torch.equal(result.states[0], LATENTS)
    # the same prompt for the edit gives the reconstruction, and values act on the edit for their steps alone
    picture, same = result.edit(tiny_denoiser, PROMPT, controls=[], value_steps=1.0)
    torch.testing.assert_close(picture, result.reconstruct(tiny_denoiser), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(same, picture, rtol=1e-4, atol=1e-5)
    picture_half, edited_half = result.edit(tiny_denoiser, TARGET, controls=[], value_steps=0.3)  # of the first step
    torch.testing.assert_close(picture_half, picture, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(edited_half, result.edit(tiny_denoiser, TARGET, controls=[])[1], atol=1e-4)


def test_the_loss_of_attention_keeps_attention(tiny_denoiser: LatentDenoiser) -> None:
    def distance(weight: float) -> float:
        settings = PromptEmbeddingInversion(
            guidance_scale=5.0,
            num_inference_steps=STEPS,
            inner_steps=12,
            decay=1.0,
            attention_weight=weight,
            tolerance=0.0,
        )
        result = settings.fit(tiny_denoiser, LATENTS, PROMPT, drawn(5, 24, seed=1))
        words, maps = tiny_denoiser.prompt(PROMPT), []
        values = words.keys * result.scales[0] + result.shifts[0]
        for prompt in (words, type(words)(PROMPT, words.keys, values)):
            store = AttentionStore()
            tiny_denoiser.controlled(store).predict(result.states[-1], 666, [prompt])
            maps.append(store.average("text", (4, 4), prompt))
        return float((maps[0] - maps[1]).square().mean())

    assert distance(1e4) < 0.5 * distance(0.0)


def test_keys_never_see_the_values(tiny_denoiser: LatentDenoiser) -> None:
    words, first = tiny_denoiser.prompt(PROMPT), ("text", 0)
    maps = []
    for values in (words.keys, drawn(*words.keys.shape, seed=2)):
        store = AttentionStore()
        tiny_denoiser.controlled(store).predict(LATENTS, 500, [type(words)(PROMPT, words.keys, values)])
        maps.append(store.maps)
    torch.testing.assert_close(maps[0][first], maps[1][first])
    assert any(not torch.allclose(maps[0][key], maps[1][key], atol=1e-6) for key in maps[0] if key != first)


def test_a_step_of_an_edit_is_one_forward_of_four_rows(
    tiny_denoiser: LatentDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, rows, forward = neutral(tiny_denoiser, 3.0), [], LatentDenoiser.forward

    def counted(self: LatentDenoiser, x: Tensor, t: Tensor, conditions: Any = (None,)) -> Tensor:
        rows.append(len(x))
        return forward(self, x, t, conditions)

    monkeypatch.setattr(LatentDenoiser, "forward", counted)
    result.edit(tiny_denoiser, TARGET)
    assert rows == [4] * STEPS
    rows.clear()
    settings = PromptEmbeddingInversion(num_inference_steps=2, inner_steps=3, decay=1.0, tolerance=0.0)
    settings.fit(tiny_denoiser, LATENTS, PROMPT, drawn(5, 24))
    # two of the inversion; in each step the null prediction, ceil(3 e^-i) updates, and the step itself
    assert rows == [1] * (2 + (1 + 3 + 1) + (1 + 2 + 1))


def test_a_mapping_is_the_published_one_token_by_token() -> None:
    mapping = ValueMapping((5, 6), (4, 6), num_blocks=0)
    features = drawn(5, 6)
    scale, shift = mapping(features)
    by_hand = mapping.last.weight[..., 0] @ (
        mapping.first.weight[..., 0] @ features + mapping.first.bias[:, None]
    ) + mapping.last.bias[:, None]  # fmt: skip
    torch.testing.assert_close(torch.cat([scale, shift]), by_hand)
    assert sum(p.numel() for p in ValueMapping((197, 768), (77, 768)).parameters()) == (
        197 * 154 + 154 + 2 * (154 * 154 + 154) + 2 * 154
    )
    one = ValueMapping((5, 6), (4, 6)).eval()
    torch.testing.assert_close(one(features)[0], one.train()(features)[0])  # its norm has no other mode


def test_wrong_settings_and_pictures_are_refused(tiny_denoiser: LatentDenoiser) -> None:
    for name in ("guidance_scale", "decay", "learning_rate", "attention_weight", "tolerance"):
        with pytest.raises(UsageError, match=name):
            PromptEmbeddingInversion(**{name: float("nan")})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_inference_steps must be a whole number of at least 2"):
        PromptEmbeddingInversion(num_inference_steps=1)
    settings = PromptEmbeddingInversion(num_inference_steps=2, inner_steps=1)
    with pytest.raises(UsageError, match="one picture is inverted at a time, got 2"):
        settings.fit(tiny_denoiser, drawn(2, 4, 8, 8), PROMPT, drawn(5, 24))
    with pytest.raises(UsageError, match="features has a value"):
        settings.fit(tiny_denoiser, LATENTS, PROMPT, drawn(5, 24) * torch.nan)
    with pytest.raises(UsageError, match="not finite"):
        settings.fit(tiny_denoiser, LATENTS * torch.nan, PROMPT, drawn(5, 24))
    ones = torch.ones(2, 16, 24)
    with pytest.raises(UsageError, match="2 states need as many"):
        StyleDiffusion(PROMPT, [LATENTS, LATENTS], ones, ones)
    with pytest.raises(UsageError, match="value_steps"):
        StyleDiffusion(PROMPT, [LATENTS] * 3, ones, ones).edit(tiny_denoiser, TARGET, value_steps=1.5)
