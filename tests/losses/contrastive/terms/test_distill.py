from __future__ import annotations

import open_clip.loss
import pytest
import torch
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import ContrastiveLoss, EmbeddingDistill, LogitScale, SimilarityDistill


def loss_with(term, chunk=None):
    return ContrastiveLoss((), scales=LogitScale(20.0), terms=[term], chunk=chunk)


@pytest.mark.parametrize("own", [None, 3.0])
@pytest.mark.parametrize("chunk", [5, 100])
def test_similarity_distillation_is_torchs_kl_divergence(features, chunk, own):
    image, text = features()
    teacher_image, teacher_text = (x.detach() for x in features(seed=4, width=6))
    loss = loss_with(SimilarityDistill(teacher_scale=8.0, student_scale=own), chunk)
    output = loss(image, text, teacher_image=teacher_image, teacher_text=teacher_text)
    student = (own or 20.0) * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    teacher = 8.0 * F.normalize(teacher_image, dim=1) @ F.normalize(teacher_text, dim=1).T
    expected = (
        sum(
            F.kl_div(s.log_softmax(1), t.log_softmax(1), log_target=True, reduction="batchmean")
            for s, t in ((student, teacher), (student.T, teacher.T))
        )
        / 2
    )
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [5, 100])
def test_gradients_equal_open_clips_distillation(features, chunk):
    image, text = features()
    teachers = [F.normalize(x.detach(), dim=1) for x in features(seed=4, width=6)]
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    ours = loss_with(SimilarityDistill(teacher_scale=8.0), chunk)(
        image, text, logit_scale=scale, teacher_image=teachers[0], teacher_text=teachers[1]
    ).total
    unit = F.normalize(image, dim=1), F.normalize(text, dim=1)
    _, theirs = open_clip.loss.DistillClipLoss()(*unit, scale, *teachers, torch.tensor(8.0))
    mine, others = (torch.autograd.grad(value, [image, text, scale]) for value in (ours, theirs))
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_student_may_be_two_images_and_the_teacher_two_texts(features):
    image, text = features()
    teacher = features(seed=4, width=6)[1].detach()
    term = SimilarityDistill(student=("image", "image"), teacher=("words", "words"), teacher_scale=8.0)
    found = loss_with(term)(image, text, words=teacher).total
    student = 20.0 * F.normalize(image, dim=1) @ F.normalize(image, dim=1).T
    soft = 8.0 * F.normalize(teacher, dim=1) @ F.normalize(teacher, dim=1).T
    expected = F.kl_div(student.log_softmax(1), soft.log_softmax(1), log_target=True, reduction="batchmean")
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("chunk", [5, 100])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(features, chunk):
    image, text = features()
    loss = loss_with(SimilarityDistill(teacher_scale=20.0), chunk).double()
    output = loss(image, text, teacher_image=image, teacher_text=text)
    assert float(output.total) == pytest.approx(0.0, abs=1e-6)
    assert max(g.abs().max() for g in torch.autograd.grad(output.total, [image, text])) < 1e-6


def test_embedding_distillation_closed_forms(features):
    image, text = features()
    towards = loss_with(EmbeddingDistill(pairs={"image": "teacher"}))
    assert float(towards(image, text, teacher=3 * image).total) == pytest.approx(0.0, abs=1e-12)
    assert float(towards(image, text, teacher=-image).total) == pytest.approx(2.0, abs=1e-12)
    squared = loss_with(EmbeddingDistill(pairs={"image": "teacher"}, kind="mse"))
    assert float(squared(image, text, teacher=image + 0.5).total) == pytest.approx(0.25, abs=1e-12)


def test_the_teacher_gets_no_gradient(features):
    image, text = features()
    teacher = features(seed=4)
    for term in (SimilarityDistill(), EmbeddingDistill()):
        loss_with(term)(image, text, teacher_image=teacher[0], teacher_text=teacher[1]).backward()
    assert image.grad.abs().sum() > 0
    assert teacher[0].grad is None
    assert teacher[1].grad is None


def test_wrong_kind():
    with pytest.raises(errors.UsageError, match="kind must be one of cosine, mse"):
        EmbeddingDistill(kind="kl")
