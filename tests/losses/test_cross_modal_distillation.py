"""p046: the distillation loss against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import CrossModalDistillation, CrossModalFeatures


def features(seed: int, scale: float = 5.0, hidden: int = 2) -> CrossModalFeatures:
    g = torch.Generator().manual_seed(seed)
    states = [torch.randn(6, 4, 3, generator=g, dtype=torch.float64) for _ in range(hidden)]
    image, text = (torch.randn(6, 8, generator=g, dtype=torch.float64) for _ in range(2))
    return CrossModalFeatures(image, text, torch.tensor(scale, dtype=torch.float64), states)


def test_a_student_that_is_its_teacher_has_the_teachers_entropy() -> None:
    teacher = features(0)
    output = CrossModalDistillation()(teacher, teacher)
    logits = 5 * F.normalize(teacher.image, dim=1) @ F.normalize(teacher.text, dim=1).T
    entropy = sum(torch.distributions.Categorical(logits=side).entropy().mean() for side in (logits, logits.T)) / 2
    torch.testing.assert_close(output.total, entropy)
    assert float(output.terms["features"]) == 0 == float(output.terms["hidden"])


def test_the_terms_are_those_of_torch() -> None:
    student, teacher = features(1, 3.0), features(2, 7.0)
    output = CrossModalDistillation(similarity=0.5, features=10.0, hidden=2.0)(student, teacher)
    own = 3 * F.normalize(student.image, dim=1) @ F.normalize(student.text, dim=1).T
    other = 7 * F.normalize(teacher.image, dim=1) @ F.normalize(teacher.text, dim=1).T
    similarity = (F.cross_entropy(own, other.softmax(1)) + F.cross_entropy(own.T, other.T.softmax(1))) / 2
    distance = F.mse_loss(student.image, teacher.image) + F.mse_loss(student.text, teacher.text)
    hidden = (F.mse_loss(student.hidden[0], teacher.hidden[0]) + F.mse_loss(student.hidden[1], teacher.hidden[1])) / 2
    torch.testing.assert_close(output.metrics["distillation/similarity"], similarity)
    torch.testing.assert_close(output.metrics["distillation/features"], distance)
    torch.testing.assert_close(output.metrics["distillation/hidden"], hidden)
    torch.testing.assert_close(output.total, 0.5 * similarity + 10 * distance + 2 * hidden)


def test_the_gradient_of_the_similarities_is_a_difference_of_probabilities_and_the_teacher_has_none() -> None:
    student, teacher = features(1, hidden=0), features(2, hidden=0)
    for side in (student.image, teacher.image, teacher.text):
        side.requires_grad_(True)
    CrossModalDistillation(features=0.0)(student, teacher).total.backward()
    assert teacher.image.grad is None or float(teacher.image.grad.abs().max()) == 0
    image, text = F.normalize(student.image, dim=1), F.normalize(student.text, dim=1)
    own, other = 5 * image @ text.T, 5 * F.normalize(teacher.image, dim=1) @ F.normalize(teacher.text, dim=1).T
    difference = (own.softmax(1) - other.softmax(1) + own.softmax(0) - other.softmax(0)) / 12
    expected = torch.autograd.grad(image, student.image, (5 * difference @ text).detach())[0]
    torch.testing.assert_close(student.image.grad, expected.detach())


def test_what_does_not_fit_is_refused() -> None:
    for weight in (-1.0, math.nan):
        with pytest.raises(UsageError, match="hidden"):
            CrossModalDistillation(hidden=weight)
    with pytest.raises(UsageError, match="1 hidden states of the student and 2"):
        CrossModalDistillation()(features(0, hidden=1), features(0))
    teacher = features(0)
    with pytest.raises(UsageError, match="image: shape"):
        CrossModalDistillation()(teacher._replace(image=teacher.image[:, :4]), teacher)
