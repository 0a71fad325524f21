"""One autograd function for all rules of pruned weights (p097, arXiv 2402.04744), against autograd and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.compress import SRSTE, HardMask, MaskDecay, StraightThrough, nm_mask, pruned_weight
from binderclip.compress.weights.rules import DENSE, Coefficients, Rule
from binderclip.errors import UsageError


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, generator=g, dtype=torch.float64).requires_grad_()
    return weight, nm_mask(weight, 2, 4), torch.randn(6, 8, generator=g, dtype=torch.float64)


def gradient(value: torch.Tensor, weight: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, weight, upstream)[0]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_fading_is_the_product_rule(beta: float) -> None:
    weight, mask, upstream = sample()
    ours = pruned_weight(weight, mask, Coefficients(beta, beta))
    theirs = weight * (mask + (~mask) * beta)
    assert torch.allclose(ours, theirs)
    assert torch.allclose(gradient(ours, weight, upstream), gradient(theirs, weight, upstream))


def test_fading_straight_through_passes_all_as_the_released_code_does() -> None:
    weight, mask, upstream = sample()
    ours = pruned_weight(weight, mask, MaskDecay("linear", 0.1, "straight_through").at(4, 10))
    assert torch.allclose(ours, weight * (mask + (~mask) * 0.6))
    assert torch.equal(gradient(ours, weight, upstream), upstream)


def test_hard_mask_is_torchs_pruning() -> None:
    weight, mask, upstream = sample()
    layer = nn.Linear(8, 6, bias=False).double()
    layer.weight = nn.Parameter(weight.detach().clone())
    nn.utils.prune.custom_from_mask(layer, "weight", mask)
    layer(torch.eye(8, dtype=torch.float64)).backward(upstream.T)
    ours = pruned_weight(weight, mask, HardMask().at(0, 1))
    assert torch.equal(ours, layer.weight)
    assert torch.equal(gradient(ours, weight, upstream), layer.weight_orig.grad)


def test_the_released_sr_ste() -> None:
    weight, mask, upstream = sample()
    ours = pruned_weight(weight, mask, SRSTE().at(5, 10))
    assert torch.equal(ours, weight * mask)
    # grad_output + decay * (1 - mask) * weight
    expected = upstream + 2e-4 * (1 - mask.double()) * weight.detach()
    assert torch.allclose(gradient(ours, weight, upstream), expected, atol=1e-9)  # coefficients are float32


def test_limits_meet() -> None:
    weight, mask, upstream = sample()
    ste = pruned_weight(weight, mask, StraightThrough().at(0, 1))
    assert torch.equal(gradient(ste, weight, upstream), upstream)
    assert (
        SRSTE(0.0).at(3, 9)
        == StraightThrough().at(3, 9)
        == StraightThrough().last()
        == MaskDecay(backward="straight_through").last()
    )
    assert MaskDecay().last() == HardMask().last() == HardMask().at(1, 2)
    assert MaskDecay("exp").at(0, 10) == MaskDecay().at(0, 10) == DENSE
    dense = pruned_weight(weight, mask, DENSE)
    assert torch.equal(dense, weight)
    assert torch.equal(gradient(dense, weight, upstream), upstream)


def test_betas_are_the_papers() -> None:
    assert [MaskDecay("linear", 1e-4).at(t, 1).value for t in (0, 2500, 10_000, 20_000)] == [1.0, 0.75, 0.0, 0.0]
    assert MaskDecay("exp", 1e-4).at(10_000, 1).value == pytest.approx(math.exp(-1))
    assert MaskDecay("linear").at(60, 100).value == pytest.approx(0.0)
    assert MaskDecay("linear").at(30, 100).value == pytest.approx(0.5)
    assert MaskDecay("exp").at(100, 100).value == pytest.approx(math.exp(-5))


def test_a_threshold_is_softshrink_and_its_gradient_is_gated() -> None:
    weight, _, upstream = sample()
    threshold = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mask = weight.detach().abs() > 0.4
    ours = pruned_weight(weight, mask, Coefficients(0.0, 0.0), threshold)
    assert torch.allclose(ours, F.softshrink(weight, 0.4))
    of_weight, of_threshold = torch.autograd.grad(ours, (weight, threshold), upstream)
    assert torch.equal(of_weight, gradient(F.softshrink(weight, 0.4), weight, upstream))
    step = 1e-6
    moved = [(F.softshrink(weight.detach(), 0.4 + s) * upstream).sum() for s in (step, -step)]
    assert float(of_threshold) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=1e-6)


def test_finite_differences_agree_where_the_rule_is_a_derivative() -> None:
    weight, mask, _ = sample(1)
    threshold = torch.full((6, 1), 1e-3, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    mask = weight.detach().abs() > threshold
    assert torch.autograd.gradcheck(lambda w, t: pruned_weight(w, mask, zero, t), (weight, threshold))
    fade = torch.tensor([0.25, 0.25, 0.0], dtype=torch.float64)
    mask = nm_mask(weight, 2, 4)
    assert torch.autograd.gradgradcheck(lambda w: pruned_weight(w, mask, fade).square(), (weight,))


def test_it_maps_over_a_batch_of_weights() -> None:
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 6, 8, generator=g)
    masks = torch.stack([nm_mask(weight, 1, 4) for weight in weights])
    one = Coefficients(0.5, 0.5)
    mapped = torch.vmap(lambda w, m: pruned_weight(w, m, torch.tensor(one)))(weights, masks)
    assert torch.equal(mapped, torch.stack([pruned_weight(w, m, one) for w, m in zip(weights, masks, strict=True)]))


@pytest.mark.parametrize("rule", [HardMask(), StraightThrough(), SRSTE(), MaskDecay()])
def test_all_are_rules(rule) -> None:
    assert isinstance(rule, Rule)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: SRSTE(-1.0),
        lambda: SRSTE(float("nan")),
        lambda: MaskDecay("cosine"),
        lambda: MaskDecay("linear", 0.0),
        lambda: MaskDecay("linear", float("inf")),
        lambda: MaskDecay(backward="none"),
    ],
)
def test_settings_out_of_range_are_refused(bad) -> None:
    with pytest.raises(UsageError):
        bad()
