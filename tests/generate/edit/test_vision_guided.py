"""ViMAEdit (p165, arXiv 2410.10496): closed forms, and its anchor, noise and mask on tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import (
    AttentionSite,
    LatentDenoiser,
    PropagatedBlend,
    SourceAnchor,
    StepContext,
    ViMAEdit,
    edited_image_embedding,
    propagate_attention,
)

SOURCE, TARGET = "a dog on grass", "a cat on grass"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def edit(denoiser: LatentDenoiser, method: ViMAEdit, latents: Tensor, steps: int = 4, **more: Any) -> Tensor:
    return method.edit(denoiser, latents, num_inference_steps=steps, generator=torch.Generator().manual_seed(3), **more)


def test_attention_is_spread_as_its_closed_forms_say() -> None:
    maps = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(propagate_attention(maps, torch.eye(6).expand(2, 6, 6)), maps)
    uniform = torch.full((2, 6, 6), 1 / 6)
    expected = 0.5**5 * maps + (1 - 0.5**5) * maps.mean(1, keepdim=True)
    torch.testing.assert_close(propagate_attention(maps, uniform), expected)
    rows = drawn(2, 6, 6).softmax(-1)  # rows are queries: each takes from the places that it attends to
    powered = 0.3 * torch.eye(6) + 0.7 * rows
    torch.testing.assert_close(
        propagate_attention(maps, rows, order=2, gamma=0.3), (powered @ powered @ maps[..., None])[..., 0]
    )
    assert torch.equal(propagate_attention(maps, rows, order=0), maps)


def test_an_image_direction_is_that_of_the_prompts_at_the_pictures_length() -> None:
    image, source, target = drawn(3, 5)
    edited = edited_image_embedding(image, source, target)
    direction = torch.nn.functional.normalize(target, dim=0) - torch.nn.functional.normalize(source, dim=0)
    torch.testing.assert_close(edited, image + image.norm() * direction)
    assert float((edited - image).norm()) <= 2 * float(image.norm())
    assert torch.equal(edited_image_embedding(image, source, source), image)
    torch.testing.assert_close(edited_image_embedding(image, 7 * source, target), edited)
    with pytest.raises(UsageError, match="embedding of target"):
        edited_image_embedding(image, source, torch.zeros(5))
    with pytest.raises(UsageError, match="embedding of image"):
        edited_image_embedding(image * torch.nan, source, target)


def test_equal_prompts_or_an_empty_mask_give_the_picture_back(tiny_denoiser: LatentDenoiser) -> None:
    latents = drawn(2, 4, 8, 8, seed=1)
    same = edit(tiny_denoiser, ViMAEdit(SOURCE, SOURCE, guidance_scale=1.0), latents)
    torch.testing.assert_close(same, latents, rtol=1e-4, atol=1e-4)
    moved = edit(tiny_denoiser, ViMAEdit(SOURCE, TARGET), latents)
    assert float((moved - latents).norm()) > 0.01
    kept = edit(tiny_denoiser, ViMAEdit(SOURCE, TARGET), latents, mask=torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(kept, latents, rtol=1e-5, atol=1e-5)
    half = torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1
    edited = edit(tiny_denoiser, ViMAEdit(SOURCE, TARGET), latents, mask=half)
    torch.testing.assert_close(edited[..., 4:], latents[..., 4:], rtol=1e-5, atol=1e-5)
    assert float((edited - latents)[..., :4].norm()) > 0.01


def test_words_make_the_mask_and_one_forward_of_four_rows_is_a_step(
    tiny_denoiser: LatentDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = LatentDenoiser.forward

    def counted(self: LatentDenoiser, x: Tensor, t: Tensor, conditions: Any = (None,)) -> Tensor:
        rows.append(len(x))
        return forward(self, x, t, conditions)

    monkeypatch.setattr(LatentDenoiser, "forward", counted)
    method = ViMAEdit(SOURCE, TARGET, "dog", "cat", swap="replace")
    embeddings = (drawn(6), drawn(6, seed=4), drawn(6, seed=5))
    latents = drawn(1, 4, 8, 8, seed=1)
    edited = edit(tiny_denoiser, method, latents, steps=5, embeddings=embeddings)
    assert rows == [4] * 5
    assert bool(edited.isfinite().all())
    changed = ((edited - latents).abs() > 1e-4).any(1)
    assert 0 < int(changed.sum()) < 64  # something, and not everywhere
    without = edit(tiny_denoiser, method, latents, steps=5)
    assert not torch.allclose(edited, without, atol=1e-4)


def step_of(denoiser: LatentDenoiser, x: Tensor, i: int, n: int) -> StepContext:
    return StepContext(denoiser, x, t=500, target=400, i=i, n=n, condition=None)


def test_the_mask_is_the_published_one(tiny_denoiser: LatentDenoiser) -> None:
    blend = PropagatedBlend(([2], [2]), order=0, thresholds=(0.5, 0.8), start=0.5)
    x = drawn(2, 4, 8, 8)
    text, own = torch.zeros(4, 1, 16, 16), torch.eye(16).expand(4, 1, 16, 16)
    text[0, 0, 0, 2], text[1, 0, 15, 2], text[1, 0, 14, 2] = 0.5, 1.0, 0.7
    conditions = ("a", "b", None, None)
    for i in range(3):
        step = step_of(tiny_denoiser, x, i, 4)
        blend.before(step)
        blend(text, AttentionSite("text", 0, (4, 4), conditions))
        blend(own, AttentionSite("self", 0, (4, 4), conditions))
        blend(torch.ones(4, 1, 64, 64), AttentionSite("self", 1, (8, 8), conditions))  # finer than needed
        eta = blend.eta(step, 0.0)
        if i == 0:  # the first of int(0.5 * 4), counted from 1, is the second
            assert eta == 0.0
            assert torch.equal(blend.after(step, x), x)
    assert isinstance(eta, Tensor)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :2, :2] = expected[..., 6:, 6:] = 1  # union of picture and edit; 0.7 lies below 0.8
    assert torch.equal(eta, expected.repeat(2, 1, 1, 1))
    wider = expected.clone()
    wider[..., 6:, 4:6] = 1  # but above 0.5
    assert torch.equal(blend.after(step, x)[1], torch.where(wider[0] > 0, x[1], x[0]))
    shared = blend.noise(step, x)
    assert torch.equal(shared[0], shared[1])


def test_noise_inside_the_mask_is_ddpms(tiny_denoiser: LatentDenoiser) -> None:
    from diffusers import DDIMScheduler

    half = torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1
    blend = PropagatedBlend(mask=half, eta=1.0)
    x, epsilon, noise = drawn(2, 4, 8, 8), drawn(2, 4, 8, 8, seed=1), drawn(1, 4, 8, 8, seed=2)
    step = step_of(tiny_denoiser, x, 0, 10)
    eta = blend.eta(step, 0.0)
    ours = tiny_denoiser.schedule.step(
        epsilon, x, 500, 400, eta=eta, noise=blend.noise(step, noise.repeat(2, 1, 1, 1))
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(10)
    ancestral, plain = (
        scheduler.step(epsilon, 500, x, eta=value, variance_noise=noise.repeat(2, 1, 1, 1)).prev_sample
        for value in (1.0, 0.0)
    )
    torch.testing.assert_close(ours[..., :4], ancestral[..., :4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[..., 4:], plain[..., 4:], rtol=1e-4, atol=1e-5)


def test_wrong_words_masks_and_numbers_are_refused(tiny_denoiser: LatentDenoiser, make_denoiser: Any) -> None:
    latents = drawn(1, 4, 8, 8)
    method = ViMAEdit(SOURCE, TARGET)
    with pytest.raises(UsageError, match="has no word 'bird'"):
        edit(tiny_denoiser, ViMAEdit(SOURCE, TARGET, "bird", "cat"), latents)
    with pytest.raises(UsageError, match="num_inference_steps must be a whole number of at least 2"):
        edit(tiny_denoiser, method, latents, steps=1)
    with pytest.raises(UsageError, match="mask has shape"):
        edit(tiny_denoiser, method, latents, mask=torch.ones(1, 1, 16, 16))
    with pytest.raises(UsageError, match=r"mask must lie in \[0, 1\]"):
        edit(tiny_denoiser, method, latents, mask=torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(UsageError, match="finite pictures"):
        edit(tiny_denoiser, method, latents * torch.nan)
    with pytest.raises(UsageError, match="give source_word and target_word"):
        ViMAEdit(SOURCE, TARGET, "dog")
    for name in ("eta", "gamma", "start", "guidance_scale", "image_scale", "self_replace_steps"):
        with pytest.raises(UsageError, match=name):
            ViMAEdit(SOURCE, TARGET, **{name: float("nan")})  # type: ignore[arg-type]
    embeddings = (drawn(6), drawn(6, seed=4), drawn(6, seed=5))
    with pytest.raises(UsageError, match="of one picture"):
        edit(tiny_denoiser, method, latents.repeat(2, 1, 1, 1), embeddings=embeddings)
    with pytest.raises(NotSupported, match="no image attention"):
        edit(make_denoiser(4), method, latents, embeddings=embeddings)
    with pytest.raises(UsageError, match="words or a mask"):
        PropagatedBlend()
    with pytest.raises(UsageError, match="do not fit"):
        SourceAnchor(latents).on_x0(step_of(tiny_denoiser, latents, 0, 2), drawn(4, 4, 8, 8))
