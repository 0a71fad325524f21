"""PGD and FGSM against foolbox on equal weights, MI-FGSM and DI2-FGSM against torchattacks' formulas written again."""

from __future__ import annotations

from typing import Any

import foolbox
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.robust import DIFGSM, FGSM, MIFGSM, PGD, InputDiversity, Momentum

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


def along_a_sum(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int, decay: float, sizes: Any = None
) -> Tensor:
    """As torchattacks has it: mean loss, gradients over their mean absolute value, a decaying sum, its sign.

    With `sizes` (height and width, rows above, columns left) of each step the gradient is of the resized and padded
    images; None leaves them.
    """
    alpha, summed, found = eps / steps, torch.zeros_like(images), images.clone()
    for step in range(steps):
        leaf = found.clone().requires_grad_()
        seen = leaf
        if sizes is not None and sizes[step] is not None:
            side, top, left = sizes[step]
            rest = images.shape[-1] - side
            seen = F.interpolate(leaf, size=[side, side], mode="bilinear", align_corners=False)
            seen = F.pad(seen, [left, rest - left, top, rest - top], value=0)
        gradient = torch.autograd.grad(F.cross_entropy(model(seen), labels), leaf)[0]
        gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        summed = gradient + decay * summed
        found = found + alpha * summed.sign()
        found = (images + (found - images).clamp(-eps, eps)).clamp(0, 1).detach()
    return found


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_momentum_is_torchattacks_s_formula(decay: float) -> None:
    model, (images, labels) = network(), pictures()
    found = MIFGSM(model, 0.05, steps=7, momentum=decay)(images, labels)
    wanted = along_a_sum(model, images, labels, 0.05, 7, decay)
    assert torch.allclose(found.images, wanted, rtol=0, atol=1e-12)
    assert torch.equal(found.success, model(wanted).argmax(1) != labels)
    assert found.queries == 8
    plain = PGD(model, 0.05, 0.05 / 7, 7, random_start=False, keep="last")(images, labels).images
    assert torch.allclose(found.images, plain, rtol=0, atol=1e-12) == (decay == 0)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_input_diversity_is_torchattacks_s_formula(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    draw = InputDiversity.draw

    def noted(self: InputDiversity, size: tuple[int, int], generator: torch.Generator) -> Any:
        found = draw(self, size, generator)
        drawn.append(None if found is None else (found[0], *found[2:]))
        return found

    monkeypatch.setattr(InputDiversity, "draw", noted)
    model, (images, labels) = network(), pictures()
    options: dict[str, Any] = {"steps": 9, "resize_rate": 0.6, "momentum": decay, "seed": 2}
    found = DIFGSM(model, 0.05, **options)(images, labels)
    assert len(drawn) == 9
    assert len(set(drawn)) > 3
    assert None in drawn
    assert torch.allclose(found.images, along_a_sum(model, images, labels, 0.05, 9, decay, drawn), rtol=0, atol=1e-12)
    # Success and objective are of the images themselves.
    with torch.no_grad():
        logits = model(found.images)
    assert torch.equal(found.success, logits.argmax(1) != labels)
    assert torch.allclose(found.objective, F.cross_entropy(logits, labels, reduction="none"))
    again, other = (DIFGSM(model, 0.05, **{**options, "seed": seed})(images, labels).images for seed in (2, 3))
    assert torch.equal(again, found.images)
    assert not torch.equal(other, found.images)
    # The best on the way is judged without the change, which takes a second look a step.
    best = DIFGSM(model, 0.05, **options, keep="best")(images, labels)
    assert torch.allclose(best.objective, F.cross_entropy(model(best.images), labels, reduction="none"))
    assert (best.success >= found.success).all()
    assert best.queries == 9 * 2 + 1


def test_momentum_in_the_euclidean_norm_and_without_a_gradient() -> None:
    gradients = [torch.tensor([[3.0, -4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])]
    step, theta = Momentum(0.5, 0.25, "l2"), torch.zeros(2, 2)
    one = step(theta, lambda _: (torch.zeros(2), gradients[0]))
    assert torch.allclose(one, 0.5 * torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    # (3, -4) / 3.5 falls to a quarter, (1, 0) / 0.5 is added.
    summed = torch.tensor([3.0 / 3.5 / 4 + 2.0, -4.0 / 3.5 / 4])
    two = step(one, lambda _: (torch.zeros(2), gradients[1]))
    assert torch.allclose(two - one, 0.5 * torch.stack([summed / summed.norm(), torch.zeros(2)]))


def test_mistakes_of_these_are_named() -> None:
    model, (images, labels) = network(), pictures()
    for make, said in (
        (lambda: MIFGSM(model, steps=0), "steps must be a whole number of at least 1"),
        (lambda: MIFGSM(model, momentum=-1.0), "momentum must be"),
        (lambda: DIFGSM(model, diversity=1.5), r"probability must be in \[0, 1\]"),
        (lambda: Momentum(0.1, norm="l1"), "norm must be linf or l2"),  # type: ignore[arg-type]
        (lambda: DIFGSM(model, diversity=1.0)(images.flatten(1), labels), r"images \(B, C, H, W\)"),
    ):
        with pytest.raises(UsageError, match=said):
            make()
