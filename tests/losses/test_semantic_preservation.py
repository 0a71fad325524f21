"""The semantic preservation loss of ClassDiffusion (p145): angles in closed form, bounds, and scale."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.losses import SemanticPreservationLoss


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, math.pi])
def test_it_is_one_minus_the_cosine_of_the_angle(angle: float) -> None:
    phrases = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    classes = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for scale in (1.0, 7.0):  # of either phrase: the angle alone counts
        value = SemanticPreservationLoss()(scale * phrases, 3 * classes / scale)
        assert math.isclose(float(value), 1 - math.cos(angle), abs_tol=1e-12)


def test_several_words_are_averaged_and_the_gradient_turns_the_phrase_towards_its_class() -> None:
    phrases = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    classes = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    value = SemanticPreservationLoss()(phrases, classes)
    assert float(value) == 0.5
    (gradient,) = torch.autograd.grad(value, phrases)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5], [0.0, 0.0]]))


def test_shapes_that_differ_are_refused() -> None:
    loss = SemanticPreservationLoss()
    for phrases, classes in ((torch.ones(2, 3), torch.ones(1, 3)), (torch.ones(0, 3), torch.ones(0, 3))):
        with pytest.raises(UsageError, match="must be as many"):
            loss(phrases, classes)
