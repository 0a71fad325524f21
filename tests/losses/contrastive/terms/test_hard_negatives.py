"""The loss against object hallucination (p181) against plain loops, its limits and its margins."""

from __future__ import annotations

import pytest
import torch

from binderclip import errors
from binderclip.losses import ContrastiveLoss, HardNegativeMargin, LogitScale, clip, hard_negative

SCALE = 12.0


@pytest.fixture
def negatives(features):
    generator = torch.Generator().manual_seed(8)
    _, text = features()
    found = text.detach()[:, None] + 0.3 * torch.randn(23, 4, 8, generator=generator, dtype=torch.float64)
    return found.requires_grad_()


@pytest.fixture
def valid():
    generator = torch.Generator().manual_seed(3)
    found = (torch.rand(23, 4, generator=generator) < 0.6).double()
    found[5] = 0.0
    return found


def loops(image, text, negatives, valid, tau=5.0, first=0.2, second=0.2, padding="mask", direction="above"):
    """The loss by loops over rows and entries, without a single matrix."""

    def cosine(a, b):
        return SCALE * (a @ b) / (a.norm() * b.norm())

    rows = []
    for i in range(len(image)):
        pair = cosine(text[i], image[i])
        others = [cosine(text[i], image[j]) for j in range(len(image)) if j != i]
        own = [cosine(negatives[i, k], image[i]) for k in range(negatives.shape[1]) if valid[i, k]]
        absent = negatives.shape[1] - len(own)
        listed = [pair, *others, *own] + ([torch.zeros(())] * absent if padding == "zero" else [])
        by_picture = [cosine(text[j], image[i]) for j in range(len(image))]
        value = (sum(z.exp() for z in listed).log() - pair) / 2 + (sum(z.exp() for z in by_picture).log() - pair) / 2
        count = absent if padding == "zero" else 0
        value = value + first * sum((tau + z - pair).clamp_min(0) for z in others + own) / (len(others + own) + count)
        best, sign = max(others), -1 if direction == "above" else 1
        if own:
            value = value + second * sum((tau + sign * (z - best)).clamp_min(0) for z in own) / (len(own) + count)
        rows.append(value)
    return torch.stack(rows).mean()


@pytest.mark.parametrize("chunk", [5, 100])
@pytest.mark.parametrize(("padding", "direction"), [("mask", "above"), ("zero", "above"), ("mask", "below")])
def test_the_whole_loss_is_that_of_plain_loops(features, negatives, valid, chunk, padding, direction):
    image, text = features()
    loss = hard_negative(padding=padding, direction=direction, chunk=chunk)
    found = loss(image, text, logit_scale=SCALE, negatives=negatives, negatives_valid=valid).total
    expected = loops(image, text, negatives, valid, padding=padding, direction=direction)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-8)
    mine, theirs = (torch.autograd.grad(value, [image, text, negatives]) for value in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
    assert mine[2].abs().sum() > 0


@pytest.mark.parametrize("chunk", [5, 100])
def test_without_negatives_and_margins_it_is_clips_loss(features, chunk):
    image, text = features()
    loss = hard_negative(pair_margin=0.0, negative_margin=0.0, init_scale=SCALE, chunk=chunk)
    plain = clip(init_scale=SCALE)
    values = loss(image, text, negatives=image.new_zeros(23, 0, 8)).total, plain(image, text).total
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), abs=1e-9)
    grads = [
        torch.autograd.grad(value, [image, text, own.scale.logit_scale])
        for value, own in zip(values, (loss, plain), strict=True)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def test_pictures_are_scored_against_true_captions_alone(features, negatives):
    image, text = features()
    loss = hard_negative(pair_margin=0.0, negative_margin=0.0)
    outputs = [loss(image, text, logit_scale=SCALE, negatives=x) for x in (negatives, negatives.flip(0))]
    sides = [{name: float(value.detach()) for name, value in output.terms.items()} for output in outputs]
    assert sides[0]["contrastive"] == sides[1]["contrastive"]
    assert abs(sides[0]["hard-negatives"] - sides[1]["hard-negatives"]) > 1e-2


def test_margins_are_silent_where_they_are_kept():
    """Orthogonal pairs at scale 100: the pair stands 100 above all others, the negatives 60 above other pictures."""
    image = torch.eye(6, 7)
    negatives = (0.6 * image + 0.8 * torch.eye(7)[6])[:, None]
    for tau, expected in ((40.0, 0.0), (41.0, 0.2 * 1 / 6), (60.0, 0.2 * 20 / 6), (61.0, 0.2 * 21 / 6 + 0.2)):
        loss = ContrastiveLoss((), scales=LogitScale(100.0), terms=[HardNegativeMargin(tau=tau)])
        assert float(loss(image, image, negatives=negatives).total.detach()) == pytest.approx(expected, abs=1e-4)


def test_a_missing_negative_has_no_gradient(features, negatives, valid):
    image, text = features()
    output = hard_negative()(image, text, logit_scale=SCALE, negatives=negatives, negatives_valid=valid)
    output.backward()
    assert bool(output.total.isfinite())
    assert (negatives.grad.abs().sum(-1) > 0).equal(valid > 0)
    assert all(bool(x.grad.isfinite().all()) for x in (image, text, negatives))


def test_what_is_wrong_is_said(features, negatives):
    image, text = features()
    with pytest.raises(errors.UsageError, match="pass negatives="):
        hard_negative()(image, text)
    with pytest.raises(errors.UsageError, match=r"negatives must be \(n, N, d\) = \(23, N, 8\), got \(23, 8\)"):
        hard_negative()(image, text, negatives=image)
    with pytest.raises(errors.UsageError, match=r"negatives_valid must be \(n, N\) = \(23, 4\)"):
        hard_negative()(image, text, negatives=negatives, negatives_valid=torch.ones(23, 3))
    with pytest.raises(errors.UsageError, match="compared by cosines, not Inner"):
        ContrastiveLoss((), similarity="inner", terms=[HardNegativeMargin()])(image, text, negatives=negatives)
    for settings in ({"tau": -1.0}, {"padding": "none"}, {"direction": "up"}):
        with pytest.raises(errors.UsageError):
            HardNegativeMargin(**settings)
