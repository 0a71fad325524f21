"""p011 (arXiv 2305.16202): bounds of single layers against dense operators, autograd and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from binderclip.errors import NotSupported, UsageError
from binderclip.models import (
    AddBias,
    BoundedInput,
    Centring,
    ClipLogitGradient,
    GroupSort2,
    L2NormPool2d,
    LipschitzResidual,
    SpectralConv2d,
    SpectralLinear,
    lipschitz_rule,
)
from binderclip.models.layers.spectral import largest_singular_value, orthonormalised


def unrolled(layer: nn.Module, channels: int, h: int, w: int) -> torch.Tensor:
    """Dense matrix of a linear operator on images, one column a basis image."""
    basis = torch.eye(channels * h * w, dtype=torch.float64).view(-1, channels, h, w)
    with torch.no_grad():
        return layer.double()(basis).flatten(1).T


def set_kernel(layer: SpectralConv2d, kind: str) -> None:
    """Kernels that stretch as much as a projected kernel can: smooth, one tap, random rank one, random orthogonal."""
    with torch.no_grad():
        weight = torch.randn_like(layer.weight)
        if kind == "smooth":
            weight = torch.ones_like(weight)
        elif kind == "corner":
            weight = torch.zeros_like(weight)
            weight[:, :, 0, 0] = 1
        elif kind == "rank one":
            weight = torch.randn(len(weight), 1, 1, 1) * weight[:1]
        layer.weight.copy_(weight / largest_singular_value(weight.flatten(1)))


@pytest.mark.parametrize("kind", ["smooth", "corner", "rank one", "random"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), ((1, 3), 1), (3, 2), (5, 2), (3, 3)])
def test_a_projected_convolution_is_1_lipschitz_as_a_dense_operator(kind, kernel, stride):
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 3, kernel, stride=stride)
    set_kernel(layer, kind)
    layer.iterations = 0
    layer.project()
    matrix = unrolled(layer, 2, 7, 6)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= 1 + 1e-6


def test_the_released_constant_exceeds_1_for_a_smooth_kernel_but_not_the_stated_constant():
    layer = SpectralConv2d(1, 1, 3, size=(8, 8), released=True)
    set_kernel(layer, "smooth")
    norm = float(torch.linalg.matrix_norm(unrolled(layer, 1, 8, 8), 2))
    # Toeplitz eigenvalues of a box of width 3 on 8 points, once a direction.
    closed_form = layer.coefficient * (1 + 2 * math.cos(math.pi / 9)) ** 2 / 3
    assert norm == pytest.approx(closed_form, rel=1e-6)
    assert 1.004 < norm < layer.lipschitz
    assert layer.coefficient == pytest.approx(8 / 22)
    with pytest.raises(UsageError, match="not \\(6, 8\\)"):
        layer(torch.zeros(1, 1, 6, 8, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (6, 6)])
def test_orthonormalised_is_the_polar_factor(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    got = orthonormalised(matrix, 40)
    torch.testing.assert_close(got.double(), u @ vh, atol=1e-5, rtol=0)
    assert float(torch.linalg.matrix_norm(got.double(), 2)) <= 1
    few = orthonormalised(1e-3 * matrix, 2)
    assert float(torch.linalg.matrix_norm(few.double(), 2)) <= 1


def test_projection_without_iterations_only_scales_down():
    matrix = torch.diag(torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(orthonormalised(matrix, 0), matrix / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(orthonormalised(matrix / 4, 0), matrix / 4, atol=0, rtol=0)
    torch.testing.assert_close(orthonormalised(torch.zeros(3, 2)), torch.zeros(3, 2))


LAYERS = {
    "linear": (lambda: SpectralLinear(12, 5), (12,)),
    "conv": (lambda: SpectralConv2d(2, 4, 3), (2, 6, 6)),
    "conv stride": (lambda: SpectralConv2d(2, 4, 3, stride=2), (2, 6, 6)),
    "conv released": (lambda: SpectralConv2d(2, 4, 3, size=(6, 6), released=True), (2, 6, 6)),
    "bias": (lambda: AddBias(12, radius=0.5), (12,)),
    "bias of maps": (lambda: AddBias(2, radius=0.5, positions=36), (2, 6, 6)),
    "residual": (lambda: LipschitzResidual(SpectralLinear(12, 12), GroupSort2(), AddBias(12, radius=0.3)), (12,)),
    "residual add": (lambda: LipschitzResidual(SpectralConv2d(2, 2, 3), nn.ReLU(), merge="add"), (2, 6, 6)),
    "sort": (GroupSort2, (12,)),
    "sort of maps": (GroupSort2, (2, 6, 6)),
    "pool": (L2NormPool2d, (2, 7, 6)),
    "global pool": (lambda: L2NormPool2d(None), (2, 6, 6)),
    "centring": (Centring, (2, 6, 6)),
    "input": (lambda: BoundedInput(3.0), (12,)),
    "max pool": (lambda: nn.MaxPool2d(2), (2, 6, 6)),
    "tanh": (nn.Tanh, (12,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_input_and_no_gradient_beats_a_layers_bounds(name):
    """Ascent on the input and the output gradient looks for a violation of each of the three bounds."""
    make, shape = LAYERS[name]
    torch.manual_seed(2)
    layer = make().double()
    rule = lipschitz_rule(layer)
    for p in layer.parameters():
        with torch.no_grad():
            p.copy_(torch.randn_like(p))
    rule.project()
    radius, slope = 3.0, 2.0
    x = torch.randn(1, *shape, dtype=torch.float64)
    x = (x / x.norm() * radius).requires_grad_()
    out = layer(x)
    direction = torch.randn_like(out)
    for _ in range(30):
        out = layer(x)
        assert float(out.detach().norm()) <= rule.out_bound(radius) * (1 + 1e-9)
        names = [key for key, _ in layer.named_parameters()]
        pulled = slope * direction / direction.norm()
        gradients = torch.autograd.grad(out, [x, *layer.parameters()], pulled)
        assert float(gradients[0].norm()) <= rule.back_input(radius, slope) * (1 + 1e-9)
        bounds = rule.back_params(radius, slope)
        assert set(bounds) == set(names)
        for key, gradient in zip(names, gradients[1:], strict=True):
            assert float(gradient.norm()) <= bounds[key] * (1 + 1e-9)
        # Power step: the output's own direction and its pull on the input are what a linear layer stretches most.
        direction = out.detach() + 1e-6
        x = (gradients[0] / gradients[0].norm().clamp(min=1e-12) * radius).detach().requires_grad_()


def test_a_linear_layers_gradient_bound_is_attained():
    layer = SpectralLinear(6, 4)
    x, g = torch.randn(1, 6), torch.randn(1, 4)
    (gradient,) = torch.autograd.grad(layer(x), [layer.weight], g)
    bound = layer.back_params(float(x.norm()), float(g.norm()))["weight"]
    assert float(gradient.norm()) == pytest.approx(bound, rel=1e-5)


def test_without_steps_a_projection_only_scales_a_norm_above_one_back():
    for steps, factor in ((0, 3.0), (0, 0.2), (15, 3.0)):
        layer = SpectralLinear(6, 4, iterations=steps)
        given = factor * torch.diag(torch.tensor([1.0, 0.8, 0.6, 0.5])) @ torch.linalg.qr(torch.randn(6, 4))[0].T
        with torch.no_grad():
            layer.weight.copy_(given)
        layer.project()
        expected = torch.ones(4) if steps else min(factor, 1.0) * torch.tensor([1.0, 0.8, 0.6, 0.5])
        torch.testing.assert_close(torch.linalg.svdvals(layer.weight.detach()), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 5, 5)])
def test_groupsort_preserves_norms_both_ways(shape):
    x = torch.randn(shape, requires_grad=True)
    out = GroupSort2()(x)
    torch.testing.assert_close(out.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    pairs = out.unflatten(1, (-1, 2))
    assert bool((pairs[:, :, 0] >= pairs[:, :, 1]).all())
    pull = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, pull)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), pull.flatten(1).norm(dim=1))
    with pytest.raises(UsageError, match="even number"):
        GroupSort2()(torch.zeros(1, 3))


def test_l2_norm_pool_preserves_the_norm_and_survives_a_black_window():
    x = torch.zeros(2, 3, 4, 4)
    x[0] = torch.randn(3, 4, 4)
    x.requires_grad_()
    out = L2NormPool2d(2)(x)
    assert out.shape == (2, 3, 2, 2)
    torch.testing.assert_close(out.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(torch.isfinite(gradient).all())
    with pytest.raises(UsageError, match="window"):
        L2NormPool2d(0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_logit_clip_limits_each_samples_own_gradient(reduction):
    torch.manual_seed(3)
    logits, labels = 5 * torch.randn(7, 4), torch.randint(4, (7,))
    layer = ClipLogitGradient(0.6, reduction=reduction)
    z = logits.clone().requires_grad_()
    nn.functional.cross_entropy(layer(z), labels, reduction=reduction).backward()
    own = torch.softmax(logits, 1) - nn.functional.one_hot(labels, 4)
    expected = own * (0.6 / own.norm(dim=1, keepdim=True)).clamp(max=1)
    assert bool((own.norm(dim=1) > 0.6).any() & (own.norm(dim=1) < 0.6).any())
    torch.testing.assert_close(z.grad, expected / (7 if reduction == "mean" else 1))
    assert layer.back_input(9.0, math.sqrt(2)) == 0.6
    assert layer.back_input(9.0, 0.1) == 0.1

    def loss(z, y):
        return nn.functional.cross_entropy(layer(z[None]), y[None], reduction=reduction)

    torch.testing.assert_close(vmap(grad(loss))(logits, labels), expected)


def test_the_input_ball():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(BoundedInput(1.0)(x), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    with pytest.raises(UsageError, match="radius"):
        BoundedInput(0.0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 3),
        nn.Conv2d(1, 1, 3),
        nn.BatchNorm2d(1),
        nn.LayerNorm(3),
        nn.AvgPool2d(2),
        nn.Dropout(),
        nn.MaxPool2d(3, stride=2),
        nn.MaxPool2d(2, padding=1),
        nn.Softmax(dim=1),
        nn.Flatten(0),
        nn.Unflatten(0, (-1, 2)),
        nn.Sequential(nn.ReLU()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_a_bound_are_refused(layer):
    with pytest.raises(NotSupported):
        lipschitz_rule(layer)
    with pytest.raises(NotSupported):
        LipschitzResidual(layer)


def test_known_layers_are_accepted_and_bad_sizes_are_not():
    for layer in (nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(), nn.Identity()):
        rule = lipschitz_rule(layer)
        assert (rule.out_bound(3.0), rule.back_input(3.0, 2.0), rule.back_params(3.0, 2.0)) == (3.0, 2.0, {})
        x = torch.randn(20, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        out, up = torch.func.vjp(layer, x)
        down = up(torch.ones_like(out))[0]
        assert bool((out.flatten(1).norm(dim=1) <= x.flatten(1).norm(dim=1) * (1 + 1e-6)).all())
        assert bool((down.flatten(1).norm(dim=1) <= out[0].numel() ** 0.5 * (1 + 1e-6)).all())
    own = BoundedInput(2.0)
    assert lipschitz_rule(own) is own
    with pytest.raises(UsageError, match="odd"):
        SpectralConv2d(1, 1, 2)
    with pytest.raises(UsageError, match="size="):
        SpectralConv2d(1, 1, 3, released=True)
    with pytest.raises(UsageError, match="in_features"):
        SpectralLinear(0, 3)
    with pytest.raises(UsageError, match="positions"):
        AddBias(2)(torch.zeros(1, 2, 3, 3))
    with pytest.raises(UsageError, match="merge"):
        LipschitzResidual(nn.ReLU(), merge="sum")
    with pytest.raises(NotSupported, match="Flatten"):
        SpectralLinear(3, 2)(torch.zeros(2, 4, 3))
