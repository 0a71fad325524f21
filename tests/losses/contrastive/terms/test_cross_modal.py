"""Barlow Twins, SimSiam and SwAV between modalities (p074): closed forms, Sinkhorn's theorem, stopped gradients."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import (
    ContrastiveLoss,
    CrossModalBarlow,
    CrossModalSimSiam,
    CrossModalSwAV,
    LogitScale,
    clip,
    clip_rocket,
)
from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.terms.cross_modal import SinkhornTargets

GLOBAL = (("image", "text"),)


def alone(term, image, text, chunk=None, **named):
    scales = {"main": LogitScale(), "local": LogitScale(10.0)}
    return ContrastiveLoss((), terms=[term], scales=scales, chunk=chunk).double()(image, text, **named).total


def local(rows=8, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(rows, 2, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for name in ("image_local", "text_local")
    }


# --- Barlow Twins -------------------------------------------------------------------------------------------------


def test_barlow_of_equal_uncorrelated_coordinates_is_nothing():
    corners = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(alone(CrossModalBarlow(pairs=GLOBAL), 3 * corners + 1, 3 * corners + 1)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.8])
def test_barlow_in_two_coordinates_has_its_closed_form(rho):
    """Text = (image_1, rho image_1 + sqrt(1 - rho^2) image_2): C = [[1, rho], [0, sqrt(1 - rho^2)]]."""
    corners = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    root = math.sqrt(1 - rho**2)
    text = torch.stack([corners[:, 0], rho * corners[:, 0] + root * corners[:, 1]], 1)
    found = alone(CrossModalBarlow(0.5, lam=0.3, scale=2.0, pairs=GLOBAL), corners, 7 * text - 2)
    assert float(found) == pytest.approx(0.5 * 2.0 * ((root - 1) ** 2 + 0.3 * rho**2), abs=1e-4)


def test_barlow_is_the_mean_of_numpys_correlations_over_the_pairings(features):
    image, text = features(rows=9)
    views = local(rows=9, width=8)
    found = alone(CrossModalBarlow(), image, text, **views)
    pairs = [(image, text)] + [(views["image_local"][:, a], views["text_local"][:, b]) for a in (0, 1) for b in (0, 1)]
    values = []
    for a, b in pairs:
        c = np.corrcoef(a.detach().numpy().T, b.detach().numpy().T)[:8, 8:]
        values.append(0.025 * (((np.diag(c) - 1) ** 2).sum() + 5e-3 * ((c - np.diag(np.diag(c))) ** 2).sum()))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-4)


def test_projections_are_trained_one_a_modality(features):
    image, text = features()
    heads = {name: nn.Linear(8, 4).double() for name in ("image", "text")}
    for term in (
        CrossModalBarlow(pairs=GLOBAL, projections=heads),
        CrossModalSimSiam(pairs=GLOBAL, projections=heads),
    ):
        loss = clip(terms=[term]).double()
        loss.zero_grad()
        loss(image, text).backward()
        assert all(float(p.grad.abs().sum()) > 0 for p in term.projections.parameters() if p.ndim > 1)


# --- SimSiam and BYOL ---------------------------------------------------------------------------------------------


def test_simsiam_of_equal_embeddings_without_predictor_is_nothing(features):
    image, _ = features()
    assert float(alone(CrossModalSimSiam(pairs=GLOBAL), image, 4 * image)) == pytest.approx(0, abs=1e-9)
    assert float(alone(CrossModalSimSiam(pairs=GLOBAL), image, -image)) == pytest.approx(4, abs=1e-9)


def test_simsiam_sends_no_gradient_to_targets_and_averages_all_directions(features):
    image, text = features(rows=9)
    views = local(rows=9, width=8)
    torch.manual_seed(0)
    predictors = {name: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)).double() for name in
                  ("image", "text")}  # fmt: skip
    total = alone(CrossModalSimSiam(predictors=predictors), image, text, **views)

    def distance(guess, target):
        return (F.normalize(guess, dim=1) - F.normalize(target.detach(), dim=1)).square().sum(1).mean()

    images, texts = views["image_local"].unbind(1), views["text_local"].unbind(1)
    pairs = [(image, text)] + [(a, b) for a in images for b in texts]
    rows = [distance(predictors["image"](a), b) for a, b in pairs]
    rows += [distance(predictors["text"](b), a) for a, b in pairs]
    expected = sum(rows) / 10
    assert float(total) == pytest.approx(float(expected), abs=1e-9)
    for mine, theirs in zip(
        torch.autograd.grad(total, [image, *views.values()]),
        torch.autograd.grad(expected, [image, *views.values()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    still = alone(CrossModalSimSiam(predictors=predictors, pairs=GLOBAL), image.detach(), text)
    only_text = distance(predictors["text"](text), image) / 2
    for mine, theirs in zip(torch.autograd.grad(still, text), torch.autograd.grad(only_text, text), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_a_momentum_copy_makes_the_targets_and_follows(features):
    image, text = features()
    heads = {name: nn.Linear(8, 4).double() for name in ("image", "text")}
    term = CrossModalSimSiam(pairs=GLOBAL, projections=heads, momentum=0.9)
    start = copy.deepcopy(term.projections)
    with torch.no_grad():
        for parameter in term.projections.parameters():
            parameter.add_(1.0)
    total = float(alone(term, image, text))
    for mine, before, now in zip(
        term.copied.module.parameters(), start.parameters(), term.projections.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, 0.9 * before + 0.1 * now)
        assert not mine.requires_grad
    followed = term.copied.module
    expected = sum(
        float((2 - 2 * F.cosine_similarity(a, b, dim=1)).mean())
        for a, b in (
            (term.projections["image"](image), followed["text"](text)),
            (term.projections["text"](text), followed["image"](image)),
        )
    )
    assert total == pytest.approx(expected / 2, abs=1e-6)
    term.eval()
    kept = copy.deepcopy(term.copied.state_dict())
    ContrastiveLoss((), terms=[term]).eval()(image, text)
    assert all(torch.equal(kept[name], value) for name, value in term.copied.state_dict().items())


def test_targets_may_come_from_a_momentum_copy_of_the_tower(features):
    image, text = features()
    other = [x.detach() for x in features(seed=6)]
    term = CrossModalSimSiam(pairs=GLOBAL, momentum=0.5)
    found = alone(term, image, text, momentum_image=other[0], momentum_text=other[1])
    expected = sum((2 - 2 * F.cosine_similarity(a, b, dim=1)).mean() for a, b in ((image, other[1]), (text, other[0])))
    assert float(found) == pytest.approx(float(expected) / 2, abs=1e-9)


# --- SwAV ---------------------------------------------------------------------------------------------------------


def assignments(logits, iters):
    """Sinkhorn and Knopp on the whole matrix: prototypes made even, then samples, samples last."""
    q = logits.exp() / logits.exp().sum()
    for _ in range(iters):
        q = q / q.sum(0) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("iters", [1, 3])
def test_assignments_are_sinkhorns_on_the_whole_matrix(chunk, iters):
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = SinkhornTargets(Share((7,)), left, right, chunk, iters=iters)
    whole = slice(0, 7)
    rows, columns = targets.targets(whole, whole)
    logits = left @ right.T
    torch.testing.assert_close(rows, assignments(logits, iters), rtol=0, atol=1e-12)
    torch.testing.assert_close(columns.T, assignments(logits.T, iters), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.sum(1), torch.ones(7, dtype=torch.float64))


def test_many_steps_are_the_one_even_scaling_of_the_matrix():
    """Sinkhorn's theorem: of all u_i exp(logits) v_j one alone has rows and columns that sum to 1."""
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = SinkhornTargets(Share((6,)), left, right, 100, iters=400)
    ones = torch.ones(6, dtype=torch.float64)
    for found in targets.targets(slice(0, 6), slice(0, 6)):
        torch.testing.assert_close(found.sum(0), ones)
        torch.testing.assert_close(found.sum(1), ones)
        offsets = found.log() - left @ right.T  # u_i + v_j
        centred = offsets - offsets.mean(0) - offsets.mean(1, keepdim=True) + offsets.mean()
        assert float(centred.abs().max()) < 1e-9


@pytest.mark.parametrize("chunk", [3, 100])
def test_swav_is_the_cross_entropy_towards_swapped_assignments(features, chunk):
    image, text = features(rows=8)
    views = local()
    term = CrossModalSwAV(1.0, eps=0.2, iters=3)
    found = alone(term, image, text, chunk, **views)
    unit = {name: F.normalize(value, dim=2) for name, value in views.items()}
    values = []
    for k in (0, 1):
        for m in (0, 1):
            cosines = unit["image_local"][:, k] @ unit["text_local"][:, m].T
            swapped = (unit["image_local"][:, 1 - k] @ unit["text_local"][:, 1 - m].T).detach() / 0.2
            values += [
                F.cross_entropy(10 * cosines, assignments(swapped, 3)),
                F.cross_entropy(10 * cosines.T, assignments(swapped.T, 3)),
            ]
    expected = sum(values) / 8
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, list(views.values())) for value in (found, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# --- wrong use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: CrossModalBarlow(lam=-1.0), "at least 0, got -1"),
        (lambda i, t: CrossModalBarlow(pairs=()), "at least one pair"),
        (lambda i, t: CrossModalBarlow(projections={"image": nn.Identity()}), r"one for 'text', got \['image'\]"),
        (lambda i, t: alone(CrossModalBarlow(pairs=GLOBAL), i[:1], t[:1]), "at least 2"),
        (
            lambda i, t: alone(CrossModalBarlow(pairs=(("image", "words"),)), i, t, words=t[:, :3]),
            "widths 8 and 3 must be equal",
        ),
        (lambda i, t: clip(terms=[CrossModalBarlow()])(i, t), "pass image_local="),
        (lambda i, t: CrossModalSimSiam(momentum=1.5), r"\[0, 1\] or be None, got 1.5"),
        (lambda i, t: CrossModalSwAV(eps=0.0), "eps must be positive"),
        (lambda i, t: CrossModalSwAV(iters=0), "iters at least 1"),
        (
            lambda i, t: clip_rocket(terms=[CrossModalSwAV()])(i, t, image_local=i, text_local=t),
            "between two views: image_local has 1, text_local 1",
        ),
        (
            lambda i, t: clip_rocket(terms=[CrossModalSwAV()], similarity="arc")(i, t, image_local=i, text_local=t),
            "cosines, not of ArcLength",
        ),
        (lambda i, t: clip(terms=[CrossModalSwAV()])(i, t), "no logit scale 'local', only main"),
    ],
)
def test_wrong_use_says_what_would_be_right(features, call, message):
    with pytest.raises(errors.UsageError, match=message):
        call(*features())
