"""Losses of several views a row (p074, p064): torch's cross-entropies, and what the views collapse to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import (
    ContrastiveLoss,
    EmbeddingDistill,
    LogitScale,
    Pair,
    clip,
    clip_rocket,
    info_nce,
    mammo_clip,
)


def cross_entropy(a, b, scale, smoothing=0.0):
    """One direction, from a to b, by torch's own function."""
    logits = scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    return F.cross_entropy(logits, torch.arange(len(a)), label_smoothing=smoothing)


def views(features, count, seed):
    """`count` views of both sides, (n, count, d) each."""
    both = [features(rows=9, seed=seed + number) for number in range(count)]
    return tuple(torch.stack([pair[side] for pair in both], 1).detach().requires_grad_() for side in (0, 1))


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize(("n_local", "reduction"), [(2, "mean"), (3, "sum")])
def test_rocket_is_the_weighted_sum_of_torchs_cross_entropies(features, chunk, n_local, reduction):
    image, text = features(rows=9)
    image_local, text_local = views(features, n_local, seed=20)
    loss = clip_rocket(n_local=n_local, reduction=reduction, chunk=chunk).double()
    output = loss(image, text, image_local=image_local, text_local=text_local)
    near, sides = loss.scales["local"].value, []
    for one, other, local, others in (
        (image, text, image_local, text_local),
        (text, image, text_local, image_local),
    ):
        whole = cross_entropy(one, other, loss.scale.value)
        parts = [cross_entropy(local[:, a], others[:, b], near, 0.1) for a in range(n_local) for b in range(n_local)]
        sides.append((whole + n_local * sum(parts) / len(parts)) / (1 + n_local))
    expected = sum(sides) / 2 * (2 if reduction == "sum" else 1)
    assert float(output.total.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    inputs = [image, text, image_local, text_local]
    mine, theirs = (torch.autograd.grad(value, inputs) for value in (output.total, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_without_local_views_it_is_clips_loss(features):
    image, text = features()
    loss = clip_rocket(n_local=0)
    assert float(loss(image, text).total.detach()) == pytest.approx(
        float(clip()(image, text).total.detach()), abs=1e-12
    )
    assert list(loss.scales) == ["main"]


def test_smoothing_and_the_second_scale_touch_local_pairings_alone(features):
    image, text = features(rows=9)
    image_local, text_local = views(features, 2, seed=20)
    local = {"image_local": image_local, "text_local": text_local}
    plain, smoothed = (clip_rocket(smoothing=s)(image, text, **local).terms for s in (0.0, 0.3))
    assert torch.equal(plain["image-text"], smoothed["image-text"])
    assert float((plain["image_local-text_local"] - smoothed["image_local-text_local"]).abs().detach()) > 1e-3
    loss = clip_rocket()
    assert float(loss.scales["local"].value.detach()) == pytest.approx(10.0)
    assert float(clip_rocket(local_scale=4.0).scales["local"].value.detach()) == pytest.approx(4.0)
    output = loss(image, text, **local)
    for name, term in output.terms.items():
        grads = torch.autograd.grad(term, list(loss.parameters()), allow_unused=True, retain_graph=True)
        moved = {n for (n, _), g in zip(loss.named_parameters(), grads, strict=True) if g is not None and float(g)}
        assert moved == {f"scales.{'local' if 'local' in name else 'main'}.logit_scale"}


def test_one_view_a_side_is_the_plain_pair_and_its_metrics(features):
    image, text = features()
    plain, single = ContrastiveLoss()(image, text), ContrastiveLoss()(image[:, None], text[:, None])
    assert torch.equal(plain.total, single.total)
    assert plain.metrics == single.metrics


def test_views_of_one_embedding_meet_each_other_once(features):
    image = views(features, 3, seed=3)[0]
    loss = ContrastiveLoss((Pair("image", "image"),), scales=LogitScale(5.0))
    expected = sum(info_nce(image[:, a], image[:, b], 5.0) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    assert float(loss(image).total.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)


def test_metrics_are_means_over_the_pairings(features):
    image, text = views(features, 2, seed=8)
    several = ContrastiveLoss()(image, text).metrics
    each = [ContrastiveLoss()(image[:, a], text[:, b]).metrics for a in (0, 1) for b in (0, 1)]
    for name, value in several.items():
        assert float(value) == pytest.approx(sum(float(m[name]) for m in each) / 4)


@pytest.mark.parametrize("chunk", [4, 100])
def test_mammo_is_the_sum_of_torchs_cross_entropies(features, chunk):
    image, text = views(features, 2, seed=5)
    loss = mammo_clip(i2i=0.7, t2t=0.3, smoothing=0.1, chunk=chunk).double()
    scale = loss.scale.value
    sides = [(image[:, a], text[:, b]) for a in (0, 1) for b in (0, 1)]
    across = sum(cross_entropy(a, b, scale, 0.1) + cross_entropy(b, a, scale, 0.1) for a, b in sides) / 8
    within = [
        (cross_entropy(x[:, 0], x[:, 1], scale) + cross_entropy(x[:, 1], x[:, 0], scale)) / 2 for x in (image, text)
    ]
    expected = across + 0.7 * within[0] + 0.3 * within[1]
    output = loss(image, text)
    assert float(output.total.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_mammo_of_equal_views_without_the_inner_pairs_is_clips_loss(features):
    image, text = (x.detach() for x in features())
    twice = [x[:, None].expand(-1, 2, -1) for x in (image, text)]
    assert float(mammo_clip(i2i=0, t2t=0)(*twice).total.detach()) == pytest.approx(
        float(clip()(image, text).total.detach()), abs=1e-9
    )
    inner = mammo_clip()(*twice).terms
    logits = (F.normalize(image, dim=1) @ F.normalize(image, dim=1).T) / 0.07
    assert float(inner["image-image"]) == pytest.approx(
        float(F.cross_entropy(logits, torch.arange(len(image)))), abs=1e-6
    )


def test_mammo_does_not_ask_which_view_comes_first(features):
    image, text = (x.detach() for x in views(features, 2, seed=5))
    total = mammo_clip()(image, text).total
    torch.testing.assert_close(mammo_clip()(image.flip(1), text.flip(1)).total, total)
    assert float((mammo_clip()(image, text.roll(1, 0)).total - total).abs()) > 1e-2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: mammo_clip(t2t=-1.0), "at least 0, got 1.0 and -1.0"),
        (lambda i, t: mammo_clip()(i, t), r"pass image as \(n, V, d\)"),
        (lambda i, t: clip_rocket(n_local=-1), "at least 0 views, got -1"),
        (lambda i, t: clip_rocket(reduction="max"), "reduction must be one of mean, sum, got 'max'"),
        (lambda i, t: clip_rocket()(i, t), "pass image_local="),
        (lambda i, t: clip_rocket()(i, t, image_local=i, text_local=t[:3]), "text_local features 3"),
        (lambda i, t: clip_rocket()(i, t, image_local=i, text_local=t * torch.nan), "text_local features are NaN"),
        (lambda i, t: ContrastiveLoss((Pair("image", "image"),))(i), r"\(n, V, d\) of at least 2, got \(23, 8\)"),
        (
            lambda i, t: clip(terms=[EmbeddingDistill()])(i[:, None], t[:, None], teacher_image=i, teacher_text=t),
            "one image and one text a row",
        ),
    ],
)
def test_wrong_use_says_what_would_be_right(features, call, message):
    with pytest.raises(errors.UsageError, match=message):
        call(*features())
