"""Implicit images and their robust fit (p059, arXiv 2505.23161): formulas by NumPy, one step by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.generate import ImageOptimisation, ImplicitImage, robust_fit


def picture(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def by_numpy(param: ImplicitImage, size: tuple[int, int], finer: bool) -> np.ndarray:
    image = np.empty((3, *size))
    for row in range(size[0]):
        for column in range(size[1]):
            z = np.array([(column + 0.5) / size[1] * 2 - 1, (row + 0.5) / size[0] * 2 - 1])
            for number, layer in enumerate(param.layers):
                u = layer.weight.detach().double().numpy() @ z + layer.bias.detach().double().numpy()  # type: ignore[operator, union-attr]
                if number < len(param.layers) - 1:
                    z = np.sin(30 * (np.abs(u) + 1 if finer else 1) * u)
            image[:, row, column] = np.clip(0.5 + 0.5 * u, 0, 1)
    return image


@pytest.mark.parametrize("finer", [True, False])
def test_it_is_finer_and_without_alpha_siren(finer: bool) -> None:
    param = ImplicitImage((4, 6), width=5, hidden=2, first_bias=1.0, finer=finer, seed=3).double()
    np.testing.assert_allclose(param()[0].detach().numpy(), by_numpy(param, (4, 6), finer), atol=1e-9)
    np.testing.assert_allclose(param.render((3, 5))[0].detach().numpy(), by_numpy(param, (3, 5), finer), atol=1e-9)


def test_no_gradient_flows_through_alpha() -> None:
    """With alpha a constant, dz/du = omega alpha cos(omega alpha u): by hand for a network of one sine layer."""
    param = ImplicitImage((1, 1), width=3, hidden=1, first_bias=0.5, seed=1).double()
    first, second, last = param.layers
    param()[0, 0, 0, 0].backward()
    u1 = first.bias.detach()  # type: ignore[union-attr, operator]  # the one pixel lies at (0, 0)
    a1 = u1.abs() + 1  # type: ignore[operator]
    u2 = second.weight.detach() @ torch.sin(30 * a1 * u1) + second.bias.detach()  # type: ignore[union-attr, operator]
    a2 = u2.abs() + 1
    to_u2 = 0.5 * last.weight.detach()[0] * 30 * a2 * torch.cos(30 * a2 * u2)  # type: ignore[union-attr, operator, index]
    to_u1 = (to_u2 @ second.weight.detach()) * 30 * a1 * torch.cos(30 * a1 * u1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(first.bias.grad, to_u1)  # type: ignore[union-attr]


def test_its_first_weights_are_drawn_as_published() -> None:
    param = ImplicitImage((4, 4), width=400, hidden=2, seed=2)
    bounds = [1 / 2, np.sqrt(6 / 400) / 30, np.sqrt(6 / 400) / 30, np.sqrt(6 / 400) / 30]
    biases = [5.0, 1 / 20, 1 / 20, 1 / 20]
    for layer, bound, bias in zip(param.layers, bounds, biases, strict=True):
        for values, limit in ((layer.weight, bound), (layer.bias, bias)):
            assert isinstance(values, Tensor)
            assert float(values.detach().abs().max()) <= limit
            if values.numel() > 100:
                assert float(values.detach().std()) == pytest.approx(limit / np.sqrt(3), rel=0.1)


def test_a_narrow_sweep_moves_no_layer_before_its_turn() -> None:
    start = ImplicitImage((8, 8), width=8, sweep=0.02)
    moved = []
    for steps in (1, 5):
        param = copy.deepcopy(start)
        ImageOptimisation(param, {"error": lambda image: (image - picture()).square().sum()}).run(steps)
        moved.append([
            not torch.equal(a.weight, b.weight)  # type: ignore[arg-type]
            for a, b in zip(start.layers, param.layers, strict=True)
        ])  # fmt: skip
    # Of five steps the centres are 0, 0.8, 1.6, 2.4 and 3.2: only the first is within reach of a layer.
    assert moved == [[True, False, False, False, False]] * 2
    assert all("schedule" not in group for group in ImplicitImage((2, 2), sweep=None).groups())


def test_without_a_perturbation_the_fit_is_an_ordinary_one() -> None:
    ours, theirs = ImplicitImage((8, 8), width=8), ImplicitImage((8, 8), width=8)
    error = robust_fit(ours, picture(), steps=5, gamma=0.0, blur=0.1, lr=1e-2)
    target, optimizer = gaussian_blur(picture(), 0.8), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (theirs() - target).square().mean().backward()
        optimizer.step()
    assert torch.equal(ours(), theirs())
    assert error == pytest.approx(float((theirs() - target).square().mean().detach()))


def test_a_step_takes_the_gradient_at_the_perturbed_matrices_and_goes_back() -> None:
    ours, theirs = ImplicitImage((8, 8), width=8), ImplicitImage((8, 8), width=8)
    robust_fit(ours, picture(), steps=1, gamma=0.3, blur=0.0, lr=1e-2)
    first = copy.deepcopy(theirs)
    (first() - picture()).square().mean().backward()
    there = copy.deepcopy(theirs)
    with torch.no_grad():
        for weight, source in zip(there.parameters(), first.parameters(), strict=True):
            if weight.ndim == 2:
                assert source.grad is not None
                weight.add_(0.3 * weight.norm() * source.grad / source.grad.norm())
    (there() - picture()).square().mean().backward()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for weight, source in zip(theirs.parameters(), there.parameters(), strict=True):
        weight.grad = source.grad
    optimizer.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, "height"),
        ({"size": (4, 4), "width": 0}, "width"),
        ({"size": (4, 4), "hidden": -1}, "hidden"),
        ({"size": (4, 4), "omega": 0.0}, "omega"),
        ({"size": (4, 4), "first_bias": float("nan")}, "first_bias"),
        ({"size": (4, 4), "lr": -1.0}, "lr"),
        ({"size": (4, 4), "sweep": 0.0}, "width"),
    ],
)
def test_refusals_of_the_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImplicitImage(**settings)


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (picture()[..., :4], {}, "image"),
        (picture() * float("nan"), {}, "image"),
        (picture() + 1, {}, "image"),
        (picture(), {"steps": -1}, "steps"),
        (picture(), {"gamma": -0.1}, "gamma"),
        (picture(), {"blur": 2.0}, "blur"),
        (picture(), {"lr": 0.0}, "lr"),
    ],
)
def test_refusals_of_the_fit(image: Tensor, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        robust_fit(ImplicitImage((8, 8), width=4), image, **settings)
