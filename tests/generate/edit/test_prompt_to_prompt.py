"""Prompt-to-Prompt (arXiv 2208.01626): its attention against the published formulas, its place, on tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import (
    AttentionEdit,
    AttentionRefine,
    AttentionReplace,
    AttentionReweight,
    AttentionSite,
    GaussianDenoiser,
    LatentDenoiser,
    LocalBlend,
    PromptPair,
    StepContext,
    edit_pair,
    refinement_mapper,
    replacement_mapper,
)

SOURCE, TARGET = "a dog on grass", "a cat on grass"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, seed=seed).softmax(-1)


def at_step(control: Any, i: int, n: int) -> None:
    denoiser = GaussianDenoiser(torch.zeros(2), torch.ones(2))
    control.before(StepContext(denoiser, torch.zeros(1, 2), t=5, target=None, i=i, n=n, condition=None))


def site(kind: Any = "text", size: tuple[int, int] = (2, 2)) -> AttentionSite:
    return AttentionSite(kind, 0, size, ("source", "target", None, None))


def test_replacing_and_refining_are_the_published_einsum_and_gather(tiny_denoiser: LatentDenoiser) -> None:
    text = tiny_denoiser.text
    rows = attention(8, 2, 4, 16)  # two pictures, two edits, and their null rows
    replace = AttentionReplace(text, "a dog", "a bee", cross_replace_steps=1.0)
    at_step(replace, 0, 4)
    new = replace(rows, site())
    mapper = replacement_mapper(text, "a dog", "a bee")
    torch.testing.assert_close(new[2:4], torch.einsum("bhpw,wn->bhpn", rows[:2], mapper))
    assert torch.equal(new[[0, 1, 4, 5, 6, 7]], rows[[0, 1, 4, 5, 6, 7]])
    refine = AttentionRefine(text, "a dog", "a red dog", cross_replace_steps=1.0)
    at_step(refine, 0, 4)
    positions, aligned = refinement_mapper(text, "a dog", "a red dog")
    alpha = aligned.float()
    expected = rows[:2][:, :, :, positions] * alpha + rows[2:4] * (1 - alpha)
    torch.testing.assert_close(refine(rows, site())[2:4], expected)
    louder = AttentionReweight(text, "a red dog", {"red": 2.5}, first=refine)
    at_step(louder, 0, 4)
    factors = torch.ones(16)
    factors[2] = 2.5  # start, a, red
    torch.testing.assert_close(louder(rows, site())[2:4], expected * factors)
    alone = AttentionReweight(text, "a red dog", {"red": -1.0})
    at_step(alone, 0, 4)
    torch.testing.assert_close(alone(rows, site())[2:4, :, :, 2], -rows[:2, :, :, 2])


def test_each_kind_of_attention_is_copied_for_its_part_of_the_steps(tiny_denoiser: LatentDenoiser) -> None:
    control = AttentionReplace(
        tiny_denoiser.text, SOURCE, TARGET, cross_replace_steps=0.5, self_replace_steps=0.4, image_replace_steps=0.2,
        null_self_replace_steps=0.1,
    )  # fmt: skip
    rows = attention(4, 2, 4, 16)
    for kind, steps in (("text", 5), ("self", 4), ("image", 2)):  # int(0.5 * 11), int(0.4 * 10), int(0.2 * 10)
        for i in range(10):
            at_step(control, i, 10)
            assert torch.equal(control(rows, site(kind))[1], rows[0] if i < steps else rows[1]), (kind, i)
            assert torch.equal(control(rows, site(kind))[3], rows[2] if i < 1 and kind == "self" else rows[3])
    at_step(control, 0, 10)
    large = attention(4, 1, 33 * 33, 3)
    assert torch.equal(control(large, site("self", (33, 33))), large)


def test_without_steps_it_is_ordinary_sampling_and_with_all_of_them_the_picture(tiny_denoiser: LatentDenoiser) -> None:
    x, pair, settings = drawn(1, 4, 8, 8), PromptPair(SOURCE, TARGET), {"num_inference_steps": 3}
    plain = edit_pair(tiny_denoiser, x, pair, num_inference_steps=3)
    nothing = AttentionReplace(tiny_denoiser.text, SOURCE, TARGET, cross_replace_steps=0.0, self_replace_steps=0.0)
    for one, other in zip(edit_pair(tiny_denoiser, x, pair, controls=[nothing], **settings), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    everything = AttentionReplace(tiny_denoiser.text, SOURCE, TARGET, cross_replace_steps=1.0, self_replace_steps=1.0)
    pictures, edits = edit_pair(tiny_denoiser, x, pair, controls=[everything], **settings)
    torch.testing.assert_close(pictures, plain[0], rtol=1e-3, atol=1e-4)
    # keys no longer matter; values still do, so that the edit is nearer to the picture and yet another
    assert 1e-4 < float((edits - pictures).norm()) < float((plain[1] - plain[0]).norm())
    same = AttentionRefine(tiny_denoiser.text, SOURCE, SOURCE)
    pictures, edits = edit_pair(tiny_denoiser, x, PromptPair(SOURCE, SOURCE), controls=[same], **settings)
    torch.testing.assert_close(pictures, edits, rtol=1e-4, atol=1e-5)


def blend_of(tiny_denoiser: LatentDenoiser, **settings: float) -> LocalBlend:
    return LocalBlend(tiny_denoiser.text, SOURCE, TARGET, "dog", "cat", **settings)


def test_a_blend_is_the_published_mask_of_summed_attention(tiny_denoiser: LatentDenoiser) -> None:
    blend = blend_of(tiny_denoiser, threshold=0.5)
    at_step(blend, 0, 4)
    rows = torch.zeros(4, 2, 16, 16)  # a grid of 4 x 4
    rows[0, :, 0, 2] = 1.0  # the picture's dog: upper left corner
    rows[1, :, 15, 2] = 0.3  # the edit's cat: lower right, and fainter than half above
    rows[1, :, 12, 2] = 0.14
    rows[1, :, :, 3] = 9.0  # another word
    for _ in range(3):  # over layers and steps
        assert blend(rows, site("text", (4, 4))) is rows
    blend(torch.ones(4, 2, 64, 16), site("text", (8, 8)))  # a finer grid, which is not the one
    mask = blend.mask((8, 8))
    expected = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    expected[..., :2, :2] = expected[..., 2:, 2:] = True  # each maximum spread by one place
    assert torch.equal(mask, expected.repeat_interleave(2, 2).repeat_interleave(2, 3))
    x = drawn(2, 3, 8, 8)
    step = StepContext(tiny_denoiser, x, t=5, target=None, i=1, n=5, condition=None)
    blended = blend.after(step, x)
    assert torch.equal(blended[0], x[0])
    assert torch.equal(blended[1], torch.where(mask[0], x[1], x[0]))
    early = StepContext(tiny_denoiser, x, t=5, target=None, i=0, n=5, condition=None)
    assert torch.equal(blend.after(early, x), x)
    at_step(blend, 0, 5)
    with pytest.raises(NotSupported, match="no attention"):
        blend.mask((8, 8))


def test_outside_of_a_blend_the_edit_is_the_picture(tiny_denoiser: LatentDenoiser) -> None:
    controls = [
        AttentionReplace(tiny_denoiser.text, SOURCE, TARGET),
        blend := blend_of(tiny_denoiser, threshold=0.97),
    ]
    pictures, edits = edit_pair(
        tiny_denoiser, drawn(2, 4, 8, 8), PromptPair(SOURCE, TARGET), controls=controls, num_inference_steps=4
    )
    inside = blend.mask((8, 8)).expand_as(pictures)
    assert bool(inside.any())
    assert not bool(inside.all())
    assert torch.equal(edits[~inside], pictures[~inside])
    assert not torch.allclose(edits[inside], pictures[inside], atol=1e-3)


def test_wrong_words_settings_and_uses_are_refused(tiny_denoiser: LatentDenoiser) -> None:
    text = tiny_denoiser.text
    with pytest.raises(UsageError, match="has no word 'bird'"):
        AttentionReweight(text, TARGET, {"bird": 2.0})
    with pytest.raises(UsageError, match="has no word 'bird'"):
        LocalBlend(text, SOURCE, TARGET, "bird", "cat")
    with pytest.raises(UsageError, match="no word is named"):
        LocalBlend(text, SOURCE, TARGET, [], "cat")
    with pytest.raises(UsageError, match="the factor of 'cat' must be a finite number"):
        AttentionReweight(text, TARGET, {"cat": float("nan")})
    for name in ("cross_replace_steps", "self_replace_steps", "image_replace_steps", "null_self_replace_steps"):
        with pytest.raises(UsageError, match=name):
            AttentionReplace(text, SOURCE, TARGET, **{name: float("nan")})
    with pytest.raises(UsageError, match="threshold"):
        blend_of(tiny_denoiser, threshold=1.5)
    control: AttentionEdit = AttentionReplace(text, SOURCE, TARGET)
    with pytest.raises(UsageError, match="does not know the step"):
        control(attention(4, 2, 4, 16), site())
    with pytest.raises(UsageError, match="side by side"):
        control(attention(3, 2, 4, 16), AttentionSite("text", 0, (2, 2), ("a dog", None, "a cat")))
