"""p149's loss against NumPy, and in the cases where its value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from binderclip.errors import UsageError
from binderclip.losses import SoftTargetContrastive


def pairs(n: int = 7, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("tau", [1.0, 0.5, 3.0])
def test_by_numpy(tau: float) -> None:
    images, texts = pairs()
    i, t = images.numpy(), texts.numpy()
    logits, targets = t @ i.T / tau, softmax((i @ i.T + t @ t.T) / 2 * tau, axis=1)
    rows = [-(targets[k] @ log_softmax(logits[k]) + targets[:, k] @ log_softmax(logits[:, k])) / 2 for k in range(7)]
    found = SoftTargetContrastive(tau)(images, texts)
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-9)
    assert float(SoftTargetContrastive(tau, detach_targets=True)(images, texts)) == pytest.approx(float(found))


def test_known_values() -> None:
    alike = torch.ones(6, 4)
    assert float(SoftTargetContrastive()(alike, alike)) == pytest.approx(math.log(6), rel=1e-6)
    # far apart and equal on both sides: targets and predictions are the diagonal
    apart = 10 * torch.eye(5)
    assert float(SoftTargetContrastive()(apart, apart)) == pytest.approx(0, abs=1e-6)
    # the wrong way round it is not
    assert float(SoftTargetContrastive()(apart, apart.roll(1, 0))) > 10


def test_two_of_a_kind_are_no_negatives() -> None:
    """Two rows of nearly one thing: InfoNCE pushes them apart, these targets share between them."""
    thing = 5 * torch.eye(4)[[0, 0, 1, 2]]
    thing[1, 3] = 0.5
    soft = SoftTargetContrastive(detach_targets=True)
    images = thing.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft(images, thing), images)
    hard = torch.nn.functional.cross_entropy(thing @ images.T, torch.arange(4))
    assert float(gradient.abs().max()) < 0.2 * float(torch.autograd.grad(hard, images)[0].abs().max())


def test_gradients_flow_through_targets_unless_they_are_detached() -> None:
    images, texts = pairs(4, 3)
    images.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: SoftTargetContrastive()(x, texts), images)
    free, held = (
        torch.autograd.grad(SoftTargetContrastive(detach_targets=d)(images, texts), images)[0] for d in (False, True)
    )
    assert not torch.allclose(free, held)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="temperature"):
        SoftTargetContrastive(0.0)
    with pytest.raises(UsageError, match="a row is a pair"):
        SoftTargetContrastive()(torch.ones(3, 2), torch.ones(4, 2))
