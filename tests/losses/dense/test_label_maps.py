"""Losses of label maps (p112, arXiv 2303.06268; p172, arXiv 2401.14487): limits, gradients, slow twins, torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from binderclip.errors import UsageError
from binderclip.losses import (
    DenseLoss,
    FocalLoss,
    MarginLabelSmoothingLoss,
    NACLLoss,
    NeighborPenaltyLoss,
    SVLSLoss,
    neighbor_prior,
)

B, K, H, W = 2, 4, 7, 6
EVERY: list[Callable[..., DenseLoss]] = [
    DenseLoss,
    FocalLoss,
    SVLSLoss,
    MarginLabelSmoothingLoss,
    NACLLoss,
    NeighborPenaltyLoss,
    lambda **o: NeighborPenaltyLoss("image_proportions_l1", "l2", **o),
]


def drawn(seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(B, K, H, W, generator=g).double(), torch.randint(0, K, (B, H, W), generator=g)


def pictures() -> Tensor:
    return torch.rand(B, 3, H, W, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    "loss",
    [DenseLoss(), FocalLoss(0), MarginLabelSmoothingLoss(alpha=0), MarginLabelSmoothingLoss(1e3),
     NeighborPenaltyLoss(alpha=0)],
)  # fmt: skip
def test_without_their_terms_they_are_cross_entropy(loss: DenseLoss) -> None:
    logits, labels = drawn()
    labels[0, :3, :3] = -1
    expected = F.cross_entropy(logits, labels, ignore_index=-1)
    assert float(loss(logits, labels)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_penalty_is_torchs_distance_of_logits_and_shares(distance: str) -> None:
    logits, labels = drawn()
    loss = NeighborPenaltyLoss(distance=distance, alpha=0.3)  # type: ignore[arg-type]
    value = loss(logits, labels)
    tau = neighbor_prior(labels, K)
    apart = (F.l1_loss if distance == "l1" else F.mse_loss)(logits, tau.double())
    assert float(loss.parts["neighbors"]) == pytest.approx(0.3 * float(apart), rel=1e-6)
    assert float(value) == pytest.approx(float(F.cross_entropy(logits, labels)) + 0.3 * float(apart), rel=1e-6)
    probable = NeighborPenaltyLoss(distance=distance, on_softmax=True, alpha=0.3)  # type: ignore[arg-type]
    probable(logits, labels)
    apart = (F.l1_loss if distance == "l1" else F.mse_loss)(logits.softmax(1), tau.double())
    assert float(probable.parts["neighbors"]) == pytest.approx(0.3 * float(apart), rel=1e-6)


def test_the_journal_versions_name_is_the_same_class() -> None:
    assert NACLLoss is NeighborPenaltyLoss
    logits, labels = drawn()
    quadratic = NACLLoss("gaussian", "l2", alpha=1.0)(logits, labels) - F.cross_entropy(logits, labels)
    tau = neighbor_prior(labels, K, prior="gaussian")
    assert float(quadratic) == pytest.approx(float(F.mse_loss(logits, tau.double())), rel=1e-6)


def filtered(labels: Tensor, kernel: np.ndarray, border: str) -> Tensor:
    """Shares of the classes around each pixel, by scipy; beyond the image stands its edge, or class 0."""
    maps = F.one_hot(labels, K).movedim(-1, 1).double().numpy()
    way = "nearest" if border == "replicate" else "constant"
    found = [[ndimage.correlate(m, kernel, mode=way, cval=float(k == 0)) for k, m in enumerate(each)] for each in maps]
    return torch.from_numpy(np.array(found))


@pytest.mark.parametrize("border", ["replicate", "zeros"])
def test_the_window_is_as_wide_and_ends_as_it_was_asked(border: str) -> None:
    logits, labels = drawn()
    loss = NeighborPenaltyLoss(alpha=1.0, size=5, border=border)  # type: ignore[arg-type]
    loss(logits, labels)
    expected = F.l1_loss(logits, filtered(labels, np.full((5, 5), 1 / 25), border))
    assert float(loss.parts["neighbors"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("border", ["replicate", "zeros"])
@pytest.mark.parametrize(("size", "sigma"), [(5, 1.0), (3, 2.5)])
def test_the_gaussian_window_is_scipys(size: int, sigma: float, border: str) -> None:
    logits, labels = drawn()
    away = np.square(np.indices((size, size)) - size // 2).sum(0)
    kernel = np.exp(-away / (2 * sigma**2))
    kernel[size // 2, size // 2] = kernel.sum() - 1  # as much as all others
    tau = filtered(labels, kernel / kernel.sum(), border)
    settings: dict[str, Any] = {"size": size, "sigma": sigma, "border": border}
    penalty = NeighborPenaltyLoss("gaussian", "l2", alpha=1.0, **settings)
    penalty(logits, labels)
    assert float(penalty.parts["neighbors"]) == pytest.approx(float(F.mse_loss(logits, tau)), rel=1e-6)
    assert float(SVLSLoss(**settings)(logits, labels)) == pytest.approx(float(F.cross_entropy(logits, tau)), rel=1e-6)


def test_inside_a_region_the_penalty_is_that_of_the_one_hot_label() -> None:
    logits, _ = drawn()
    loss = NeighborPenaltyLoss(alpha=1.0, reduction="none")
    labels = torch.full((B, H, W), 2)
    cost = loss(logits, labels) - F.cross_entropy(logits, labels, reduction="none")
    expected = ((1 - logits[:, 2]).abs() + logits[:, [0, 1, 3]].abs().sum(1)) / K
    assert torch.allclose(cost, expected, atol=1e-6)


def test_the_gradient_of_the_linear_penalty_is_a_sign() -> None:
    logits, labels = drawn()
    logits.requires_grad_()
    value = NeighborPenaltyLoss(alpha=1.0)(logits, labels) - F.cross_entropy(logits, labels)
    (found,) = torch.autograd.grad(value, logits)
    expected = torch.sign(logits.detach() - neighbor_prior(labels, K)) / logits.numel()
    assert torch.allclose(found, expected, atol=1e-12)


def test_an_equal_logit_and_share_cost_only_the_cross_entropy() -> None:
    _, labels = drawn()
    tau = neighbor_prior(labels, K)
    loss = NeighborPenaltyLoss()
    assert float(loss(tau, labels)) == pytest.approx(float(F.cross_entropy(tau, labels)))
    assert float(loss.parts["neighbors"]) == 0


def test_svls_is_cross_entropy_with_soft_targets_and_its_best_logits_are_their_logarithm() -> None:
    logits, labels = drawn()
    soft = neighbor_prior(labels, K, prior="gaussian")
    assert float(SVLSLoss()(logits, labels)) == pytest.approx(float(F.cross_entropy(logits, soft.double())), rel=1e-6)
    best = soft.clamp(min=1e-12).log()
    entropy = float(-(soft * best).sum(1).mean())
    assert float(SVLSLoss()(best, labels)) == pytest.approx(entropy, rel=1e-5)
    assert entropy > 0.1
    whole = torch.full((B, H, W), 1)
    assert float(SVLSLoss()(logits, whole)) == pytest.approx(float(F.cross_entropy(logits, whole)), rel=1e-6)


def test_the_margin_counts_only_what_lies_beyond_it() -> None:
    logits = torch.tensor([5.0, 3.0, -4.0, -8.0]).reshape(1, 4, 1, 1)
    loss = MarginLabelSmoothingLoss(6.0, alpha=0.5)
    loss(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    # Gaps are 0, 2, 9, 13; beyond the margin 3 and 7, over four classes.
    assert float(loss.parts["margin"]) == pytest.approx(0.5 * 10 / 4)


def test_focal_is_torchvisions_for_two_classes() -> None:
    logits, labels = drawn()
    labels = labels % 2
    x = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(x, labels.double(), alpha=-1, gamma=3, reduction="mean")
    assert float(FocalLoss(3)(logits[:, :2], labels)) == pytest.approx(float(expected), rel=1e-6)
    sure = torch.tensor([200.0, -200.0]).reshape(1, 2, 1, 1).requires_grad_()
    FocalLoss()(sure, torch.zeros(1, 1, 1, dtype=torch.long)).backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize("make", EVERY)
def test_ignored_pixels_are_in_no_term_and_get_no_gradient(make: Callable[..., DenseLoss]) -> None:
    logits, labels = drawn()
    labels[0, 2:5, 1:4] = 255
    labels[1, :, 5] = 7
    loss = make(ignore_index=7)
    ignored = (labels == 7) | (labels == 255)
    logits.requires_grad_()
    value = loss(logits, labels, images=pictures())
    (grad,) = torch.autograd.grad(value, logits)
    assert float(sum(loss.parts.values())) == pytest.approx(value.item())
    assert not grad.masked_select(ignored[:, None]).any()
    assert grad.masked_select(~ignored[:, None]).abs().min() > 0
    wild = logits.detach().masked_fill(ignored[:, None], math.inf)
    assert float(loss(wild, labels, images=pictures())) == pytest.approx(value.item())


@pytest.mark.parametrize("make", EVERY)
def test_reductions_agree_and_gradients_are_those_of_differences(make: Callable[..., DenseLoss]) -> None:
    logits, labels = drawn(1, 2.0)
    labels[1, 0, :2] = -1
    counted = int((labels != -1).sum())
    maps = make(reduction="none")(logits, labels, images=pictures())
    assert maps.shape == (B, H, W)
    assert not maps[1, 0, :2].any()
    total = float(make(reduction="sum")(logits, labels, images=pictures()))
    assert float(maps.sum()) == pytest.approx(total)
    assert float(make()(logits, labels, images=pictures())) == pytest.approx(total / counted)
    small, few = logits[:1, :, :3, :3].clone().requires_grad_(), labels[:1, :3, :3]
    assert torch.autograd.gradcheck(lambda x: make()(x, few, images=pictures()[:1, :, :3, :3]), (small,))


@pytest.mark.parametrize("make", EVERY)
def test_half_precision_is_raised_and_nothing_counted_costs_nothing(make: Callable[..., DenseLoss]) -> None:
    logits, labels = drawn()
    half = logits.half()
    value = make()(half, labels, images=pictures())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(make()(half.float(), labels, images=pictures())))
    nothing = logits.clone().requires_grad_()
    empty = make()(nothing, torch.full((B, H, W), 255), images=pictures())
    empty.backward()
    assert empty.item() == 0
    assert nothing.grad is not None
    assert not nothing.grad.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseLoss(reduction="median"), "reduction"),  # type: ignore[arg-type]
        (lambda: FocalLoss(-1), "gamma"),
        (lambda: SVLSLoss(size=2), "odd"),
        (lambda: MarginLabelSmoothingLoss(-1), "margin"),
        (lambda: NeighborPenaltyLoss("nearest"), "no prior 'nearest'"),  # type: ignore[arg-type]
        (lambda: NeighborPenaltyLoss(distance="l3"), "distance"),  # type: ignore[arg-type]
        (lambda: NeighborPenaltyLoss(alpha=-0.1), "alpha"),
        (lambda: DenseLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5, dtype=torch.long)), "do not belong"),
        (lambda: DenseLoss()(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 3)), "classes are 0 to 2"),
        (lambda: NeighborPenaltyLoss("gradient")(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long()), "images="),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
