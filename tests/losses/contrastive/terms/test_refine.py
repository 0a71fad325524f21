"""CLIP-Refine (p117): torch's divergence, closed forms of the prior, and the draws of a resumed run."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import (
    ContrastiveLoss,
    HybridContrastiveDistillation,
    RandomFeatureAlignment,
    SimilarityDistill,
    clip_refine,
)


def loss_with(term, chunk=None):
    return ContrastiveLoss((), terms=[term], chunk=chunk)


def torchs_divergence(image, text, teachers, alpha, temperature):
    """The divergence as a dense matrix by torch's own `kl_div`, rows and columns averaged."""
    student, teacher = image @ text.T / temperature, teachers[0] @ teachers[1].T / temperature
    pairing = torch.eye(len(image), dtype=image.dtype)
    values = [
        F.kl_div(s.log_softmax(1), alpha * pairing + (1 - alpha) * t.softmax(1), reduction="batchmean")
        for s, t in ((student, teacher), (student.T, teacher.T))
    ]
    return temperature**2 * sum(values) / 2


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("temperature", "normalize"), [(1.0, False), (4.0, False), (0.05, True)])
@pytest.mark.parametrize("chunk", [5, 100])
def test_hybrid_distillation_is_torchs_divergence(features, chunk, temperature, normalize, alpha):
    image, text = features()
    teachers = [x.detach() for x in features(seed=4, width=6)]
    term = HybridContrastiveDistillation(alpha=alpha, temperature=temperature, normalize=normalize)
    found = loss_with(term, chunk)(image, text, teacher_image=teachers[0], teacher_text=teachers[1]).total
    sides = [F.normalize(x, dim=1) if normalize else x for x in (image, text, *teachers)]
    expected = torchs_divergence(sides[0], sides[1], sides[2:], alpha, temperature)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-8)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


@pytest.mark.parametrize("chunk", [5, 100])
def test_the_pairing_alone_is_info_nce_of_dot_products(features, chunk):
    image, text = features()
    other = [x.detach() for x in features(seed=9)]
    term = HybridContrastiveDistillation(alpha=1.0)
    found = loss_with(term, chunk)(image, text, teacher_image=other[0], teacher_text=other[1]).total
    rows, logits = torch.arange(len(image)), image @ text.T
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)


@pytest.mark.parametrize("chunk", [5, 100])
def test_a_model_that_has_not_moved_learns_nothing_from_itself(features, chunk):
    image, text = features()
    moved = {}
    for alpha in (0.0, 0.5):
        term = HybridContrastiveDistillation(alpha=alpha)
        total = loss_with(term, chunk)(image, text, teacher_image=image, teacher_text=text).total
        moved[alpha] = float(torch.autograd.grad(total, image)[0].abs().max())
    assert moved[0.0] < 1e-9
    assert moved[0.5] > 1e-3


def test_hybrid_distillation_of_unit_features_without_pairing_is_similarity_distillation(features):
    image, text = features()
    teachers = dict(zip(("teacher_image", "teacher_text"), (x.detach() for x in features(seed=4)), strict=True))
    one = loss_with(HybridContrastiveDistillation(alpha=0.0, temperature=0.1, normalize=True))(image, text, **teachers)
    other = loss_with(SimilarityDistill(teacher_scale=10.0, student_scale=10.0))(image, text, **teachers)
    assert float(one.total) == pytest.approx(0.01 * float(other.total), rel=1e-6)


def test_random_alignment_has_the_expected_value_of_its_prior():
    generator = torch.Generator().manual_seed(3)
    image, text = torch.randn(40, 8, generator=generator), 3 + torch.randn(40, 8, generator=generator)
    loss = loss_with(RandomFeatureAlignment(mean=0.5, std=2.0))
    values = [float(loss(image, text).total) for _ in range(400)]
    # E (x - r)^2 = (x - mean)^2 + std^2, for each side
    expected = sum(float((x - 0.5).square().mean()) + 4.0 for x in (image, text))
    error = torch.tensor(values).std() / math.sqrt(len(values))
    assert abs(sum(values) / len(values) - expected) < 4 * error
    assert float(error) < 0.05


@pytest.mark.parametrize("shared", [True, False])
def test_free_features_go_to_their_vector_and_only_shared_ones_meet(shared):
    """One gradient step of the length at which a square is solved lands on the draw itself."""
    image, text = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    loss_with(RandomFeatureAlignment(shared=shared))(image, text).backward()
    at_image, at_text = (x.detach() - x.grad * image.numel() / 2 for x in (image, text))
    assert torch.allclose(at_image, at_text, atol=1e-5) is shared
    assert 0.5 < float(at_image.std()) < 1.6


def test_draws_are_new_in_every_step_and_go_on_where_they_were_saved(features):
    image, text = features()

    def values(loss, count):
        return [float(loss(image, text).total) for _ in range(count)]

    whole = values(loss_with(RandomFeatureAlignment(seed=5)), 4)
    assert len(set(whole)) == 4
    first = loss_with(RandomFeatureAlignment(seed=5))
    assert values(first, 2) == whole[:2]
    second = loss_with(RandomFeatureAlignment(seed=5))
    second.load_state_dict(first.state_dict())
    assert values(second, 2) == whole[2:]
    assert values(loss_with(RandomFeatureAlignment(seed=6)), 1) != whole[:1]
    still = loss_with(RandomFeatureAlignment(seed=5)).eval()
    assert len(set(values(still, 2))) == 1


def test_the_decay_takes_it_linearly_to_nothing(features):
    image, text = features()
    plain, decayed = loss_with(RandomFeatureAlignment()), loss_with(RandomFeatureAlignment(decay=4))
    shares = [float(decayed(image, text).total) / float(plain(image, text).total) for _ in range(6)]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_a_matched_prior_has_the_first_batchs_spread_and_keeps_it():
    image, text = 3 * torch.ones(50, 400), 4 * torch.ones(50, 400)
    loss = loss_with(RandomFeatureAlignment(std="match"))
    spread = math.sqrt((9 + 16) / 2)
    expected = 9 + 16 + 2 * spread**2
    assert float(loss(image, text).total) == pytest.approx(expected, rel=0.03)
    assert float(loss(0 * image, 0 * text).total) == pytest.approx(2 * spread**2, rel=0.03)


def test_the_preset_is_the_sum_and_trains_no_scale(features):
    image, text = features()
    teachers = dict(zip(("teacher_image", "teacher_text"), (x.detach() for x in features(seed=4)), strict=True))
    loss = clip_refine(rafa=0.5, hycd=2.0)
    output = loss(image, text, **teachers)
    parts = [
        0.5 * loss_with(RandomFeatureAlignment())(image, text).total,
        2.0 * loss_with(HybridContrastiveDistillation())(image, text, **teachers).total,
    ]
    assert float(output.total) == pytest.approx(float(sum(parts)))
    assert 0 <= float(output.metrics["accuracy_a_to_b"]) <= 1
    output.backward()
    assert all(p.grad is None for p in loss.parameters())
    assert [term.name for term in clip_refine(rafa=0.0).terms] == ["hycd"]


def test_what_is_wrong_is_said(features):
    image, text = features()
    with pytest.raises(errors.UsageError, match="pass teacher_image="):
        clip_refine()(image, text)
    with pytest.raises(errors.UsageError, match=r"mean has shape \(3,\), the features 8"):
        loss_with(RandomFeatureAlignment(mean=torch.zeros(3)))(image, text)
    for make in (
        lambda: HybridContrastiveDistillation(alpha=1.5),
        lambda: HybridContrastiveDistillation(temperature=0.0),
        lambda: RandomFeatureAlignment(std=-1.0),
        lambda: RandomFeatureAlignment(std="fit"),
        lambda: RandomFeatureAlignment(decay=0),
    ):
        with pytest.raises(errors.UsageError):
            make()
