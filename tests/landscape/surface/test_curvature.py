"""p133 (arXiv 1712.09913): extreme eigenvalues over a plane, against whole Hessians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from binderclip import errors
from binderclip.landscape import curvature_ratio_map, extreme_eigenvalues, random_direction

F64 = torch.float64


def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return net, (torch.randn(20, 5, dtype=F64), torch.randint(0, 3, (20,)))


def ends(net, batch, weights):
    """Least and largest eigenvalue of the Hessian in the weights of two axes, whole."""
    fixed = dict(net.named_parameters())
    names = [name for name in weights if weights[name].ndim > 1]

    def loss(moved):
        return nn.functional.cross_entropy(functional_call(net, fixed | weights | moved, (batch[0],)), batch[1])

    moved = {name: weights[name] for name in names}
    blocks = hessian(loss)(moved)
    rows = [torch.cat([blocks[a][b].reshape(moved[a].numel(), -1) for b in names], 1) for a in names]
    values = torch.linalg.eigvalsh(torch.cat(rows))
    return float(values[0]), float(values[-1])


def test_the_map_has_the_extremes_of_whole_hessians():
    net, batch = problem()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    directions = (random_direction(net, seed=0), random_direction(net, seed=1))
    calls = []
    found = curvature_ratio_map(
        net, [(batch[0][:12], batch[1][:12]), (batch[0][12:], batch[1][12:])], directions, alphas=[0.0, 1.0],
        betas=[-0.5, 0.5], tolerance=1e-8, progress=lambda *count: calls.append(count),
    )  # fmt: skip
    for i, a in enumerate([0.0, 1.0]):
        for j, b in enumerate([-0.5, 0.5]):
            weights = {name: w + a * directions[0][name] + b * directions[1][name] for name, w in before.items()}
            least, largest = ends(net, batch, weights)
            assert float(found.least[i, j]) == pytest.approx(least, abs=1e-6)
            assert float(found.largest[i, j]) == pytest.approx(largest, abs=1e-6)
            assert float(found.ratio[i, j]) == pytest.approx(abs(least / largest), abs=1e-4)
    assert calls[-1] == (4, 4)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    assert found.fraction_above(0.0) == 1.0
    assert found.fraction_above(10.0) == 0.0


@pytest.mark.parametrize("values", [(-3.0, 0.5, 1.0, 2.0), (1.0, 2.0, 5.0), (-4.0, -1.0), (7.0,)])
def test_of_a_quadratic_they_are_its_coefficients(values):
    curvature = torch.tensor(values, dtype=F64)
    w = torch.ones(len(values), dtype=F64, requires_grad=True)
    found = extreme_eigenvalues(lambda: (curvature * w * w).sum() / 2, [w], tolerance=1e-6)
    assert found == pytest.approx((min(values), max(values)), abs=1e-6)


def test_single_precision_with_many_eigenvalues_stays_within_the_tolerance():
    curvature = torch.linspace(-1, 10, 2000)
    w = torch.ones(2000, requires_grad=True)
    least, largest = extreme_eigenvalues(lambda: (curvature * w * w).sum() / 2, [w], iterations=60)
    assert abs(largest - 10) < 0.15
    assert abs(least + 1) < 0.15


def test_a_point_without_a_finite_hessian_is_a_gap(tmp_path):
    net, batch = problem()
    start = float(net[0].weight[0, 0].detach())

    def broken(model, batch):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * torch.where(model[0].weight[0, 0] > start + 0.1, torch.nan, 1.0)

    step = {"0.weight": torch.zeros(6, 5, dtype=F64)}
    step["0.weight"][0, 0] = 1
    found = curvature_ratio_map(net, [batch], (step, random_direction(net)), alphas=[0.0, 1.0], betas=[0.0, 0.1],
                                loss=broken)  # fmt: skip
    assert found.least[0].isfinite().all()
    assert found.least[1].isnan().all()
    assert math.isfinite(found.fraction_above())
    found.plot().savefig(tmp_path / "map.png")


def test_what_has_no_curvature_is_refused():
    net, batch = problem()
    directions = (random_direction(net, seed=0), random_direction(net, seed=1))
    for settings in ({"iterations": 0}, {"tolerance": 0.0}, {"tolerance": math.nan}, {"seed": -1}):
        with pytest.raises(errors.UsageError, match=next(iter(settings))):
            curvature_ratio_map(net, [batch], directions, alphas=[0.0, 1.0], **settings)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(errors.UsageError, match="requires a gradient"):
        curvature_ratio_map(net, [batch], directions, alphas=[0.0, 1.0])
