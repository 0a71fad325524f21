"""TrAct (p082, arXiv 2410.23970) against ridge regression, limits, and linear layers on unfolded patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import fit
from binderclip.optim import TrAct, tract_weight_grad
from binderclip.optim.estimators.tract import first_layer


def rows(seed: int, b: int, *widths: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, width, generator=g, dtype=torch.float64) for width in widths]


@pytest.mark.parametrize("b", [5, 30])
@pytest.mark.parametrize("lam", [0.1, 3.0])
def test_it_is_the_ridge_regression_of_the_outputs_step(b: int, lam: float) -> None:
    x, d = rows(0, b, 8, 3)
    ridge = Ridge(fit_intercept=False, alpha=b * lam, solver="svd").fit(x.numpy(), b * d.numpy())
    torch.testing.assert_close(tract_weight_grad(x, d, lam), torch.tensor(ridge.coef_))


def test_limits() -> None:
    x, d = rows(1, 30, 6, 3)
    torch.testing.assert_close(1e9 * tract_weight_grad(x, d, 1e9), d.T @ x, rtol=1e-6, atol=0)
    least_squares = torch.linalg.lstsq(x, 30 * d).solution.T
    torch.testing.assert_close(tract_weight_grad(x, d, 1e-12), least_squares, rtol=1e-8, atol=1e-8)
    white = torch.linalg.qr(x).Q * 30**0.5  # X^T X / b = I
    torch.testing.assert_close(tract_weight_grad(white, d, 0.25), d.T @ white / 1.25)


def test_both_forms_agree() -> None:
    """Fewer rows than inputs, or the same rows twice with half the gradient each, which is more of them."""
    x, d = rows(2, 5, 8, 3)
    many = tract_weight_grad(x.repeat(2, 1), d.repeat(2, 1) / 2, 0.1)
    torch.testing.assert_close(tract_weight_grad(x, d, 0.1), many, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tract_weight_grad(x.reshape(1, 5, 8), d.reshape(1, 5, 3), 0.1), many)


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 4, "stride": 4, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=lambda s: str(s["kernel_size"]) + str(s.get("padding", "")))
def test_a_convolution_is_a_linear_layer_on_its_patches(settings: dict[str, Any]) -> None:
    """Patches are read off brute force: what a kernel with a single 1 gives is what stands under that place."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, **settings).double()
    tract = TrAct(layer, lam=0.2)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(layer(x))
    (layer(x) * weights).sum().backward()
    plain = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    before = x.grad.clone() if x.grad is not None else None
    tract()
    one_hot = nn.Conv2d(2, layer.weight[0].numel(), **{**settings, "bias": False}).double()
    with torch.no_grad():
        one_hot.weight.copy_(torch.eye(layer.weight[0].numel()).reshape(-1, *layer.weight.shape[1:]))
        patches = one_hot(x).permute(0, 2, 3, 1).reshape(-1, layer.weight[0].numel())
    expected = tract_weight_grad(patches, weights.permute(0, 2, 3, 1).reshape(-1, 3), 0.2)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.flatten(1), expected)
    assert not torch.allclose(layer.weight.grad, plain["weight"])
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, plain["bias"], rtol=0, atol=0)
    torch.testing.assert_close(x.grad, before, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(7, 8), (8, 5)])
def test_padding_as_needed_is_that_of_timm(size: tuple[int, int]) -> None:
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    layer, plain = Conv2dSame(1, 2, 3, stride=2).double(), nn.Conv2d(9, 2, 1).double()
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    tract = TrAct(layer)
    weights = torch.randn_like(layer(x).detach())
    (layer(x) * weights).sum().backward()
    tract()
    tract.close()
    one_hot = Conv2dSame(1, 9, 3, stride=2, bias=False).double()
    with torch.no_grad():
        one_hot.weight.copy_(torch.eye(9).reshape(9, 1, 3, 3))
        patches = one_hot(x)
    tract = TrAct(plain)
    (plain(patches) * weights).sum().backward()
    tract()
    torch.testing.assert_close(layer.weight.grad.flatten(), plain.weight.grad.flatten())


def test_a_large_batch_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(1, 2, 3).double(), torch.randn(7, 1, 6, 6, dtype=torch.float64)
    found = []
    for chunk in (1 << 24, 300, 1):
        monkeypatch.setattr("binderclip.optim.estimators.tract._CHUNK", chunk)
        tract = TrAct(layer)
        layer.zero_grad()
        layer(x).square().sum().backward()
        tract()
        tract.close()
        assert layer.weight.grad is not None
        found.append(layer.weight.grad)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_in_fit_two_micro_batches_are_one_batch() -> None:
    x, y = rows(3, 12, 5, 2)

    def weights(**settings: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        transform = TrAct(model) if settings.pop("tract", True) else None
        parts = settings.pop("parts")
        batches = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
        options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "grad_transform": transform}
        fit(lambda b: (model(b[0]) - b[1]).square().mean(), model, batches, steps=3, accumulate=parts, **options)
        return [p.detach() for p in model.parameters()]

    whole = weights(parts=1)
    torch.testing.assert_close(weights(parts=3), whole)
    assert not torch.allclose(weights(parts=1, tract=False)[0], whole[0])


def test_only_passes_that_train_count() -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    tract = TrAct(layer)
    with torch.no_grad():
        layer(100 * x)
    layer.eval()(100 * x)
    layer.train()(x).sum().backward()
    tract([layer.weight])
    expected = tract_weight_grad(x, torch.ones(4, 2))
    torch.testing.assert_close(layer.weight.grad, expected)
    with pytest.raises(UsageError, match="saw no inputs"):
        tract()
    layer.zero_grad()
    tract()
    assert layer.weight.grad is None


def test_one_picture_and_rows_in_any_shape() -> None:
    torch.manual_seed(0)
    picture, tokens = torch.randn(1, 2, 5, 5), torch.randn(2, 3, 4)
    for layer, whole, part in (
        (nn.Conv2d(2, 3, 2), picture, picture[0]),
        (nn.Linear(4, 2), tokens.reshape(6, 4), tokens),
    ):
        found = []
        for inputs in (whole, part):
            tract = TrAct(layer)
            layer.zero_grad()
            layer(inputs).square().sum().backward()
            tract()
            tract.close()
            found.append(layer.weight.grad)
        torch.testing.assert_close(found[0], found[1])


def test_half_precision_is_computed_in_more() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 2, bias=False), torch.randn(40, 6)
    tract = TrAct(layer)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    tract()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, tract_weight_grad(x, torch.ones(40, 2)), rtol=0.02, atol=0.02)


def test_the_first_layer_is_the_one_that_sees_the_picture() -> None:
    from binderclip.models import load

    tower = load("small").backbone.visual
    assert first_layer(tower).weight.shape[1] == 3
    block = nn.Sequential(nn.ReLU(), nn.Linear(2, 3), nn.Linear(3, 4))
    assert first_layer(block) is block[1]


def test_what_it_cannot_do_is_refused() -> None:
    from binderclip.models import ScaledStdConv2d

    for lam in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="lam must be"):
            TrAct(nn.Linear(2, 2), lam=lam)
        with pytest.raises(UsageError, match="lam must be"):
            tract_weight_grad(torch.ones(2, 2), torch.ones(2, 1), lam)
    for layer in (nn.Conv2d(4, 4, 3, groups=2), ScaledStdConv2d(3, 4, 3)):
        with pytest.raises(NotSupported, match="groups or a forward of its own"):
            TrAct(layer)
    with pytest.raises(UsageError, match="name the layer itself"):
        TrAct(nn.ReLU())
    for x, d in ((torch.ones(2, 2), torch.ones(3, 1)), (torch.ones(0, 2), torch.ones(0, 1))):
        with pytest.raises(UsageError, match="rows in common"):
            tract_weight_grad(x, d)
    layer = nn.Linear(3, 1)
    tract = TrAct(layer, lam=1e-12)
    layer(1e6 * torch.ones(4, 3)).sum().backward()
    tract()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isnan().all()  # float32 has lost such a lam
