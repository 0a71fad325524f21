"""PGD and FGSM against foolbox on equal weights: the same steps, bounds and signs give the same pictures."""

from __future__ import annotations

from typing import Any

import foolbox
import pytest
import torch
from torch import Tensor, nn

from binderclip.robust import FGSM, PGD

ATTACKS = {
    "linf": (foolbox.attacks.LinfProjectedGradientDescentAttack, 0.05),
    "l2": (foolbox.attacks.L2ProjectedGradientDescentAttack, 1.0),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(512, 5)).double().eval()


def pictures() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(12, 3, 8, 8, generator=g, dtype=torch.float64), torch.arange(12) % 5


def peers(attack: Any, model: nn.Module, images: Tensor, criterion: Any, eps: float) -> Tensor:
    _, clipped, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, criterion, epsilons=[eps])
    return clipped[0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ten_steps_are_foolbox_s(norm: Any, targeted: bool) -> None:
    model, (images, labels) = network(), pictures()
    kind, eps = ATTACKS[norm]
    goal = (labels + 1) % 5
    wanted = peers(
        kind(abs_stepsize=eps / 4, steps=10, random_start=False),
        model,
        images,
        foolbox.criteria.TargetedMisclassification(goal) if targeted else foolbox.criteria.Misclassification(labels),
        eps,
    )
    pgd = PGD(model, eps, eps / 4, 10, norm, random_start=False, targeted=targeted, keep="last")
    found = pgd(images, goal if targeted else labels)
    assert torch.allclose(found.images, wanted, rtol=0, atol=1e-9)
    assert (found.images - images).abs().max() > eps / 20  # it moved, so that equality means something


def test_fgsm_is_foolbox_s() -> None:
    model, (images, labels) = network(), pictures()
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    wanted = peers(attack, model, images, foolbox.criteria.Misclassification(labels), 0.03)
    assert torch.allclose(FGSM(model, 0.03)(images, labels).images, wanted, rtol=0, atol=1e-12)
