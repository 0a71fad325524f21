"""Largest eigenvalue and trace (for p088, arXiv 2304.02688) against the whole Hessian of a small net."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.landscape import hessian_trace, top_eigenvalue


def test_a_small_net_has_the_eigenvalue_and_trace_of_its_whole_hessian() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 3
    names = dict(net.named_parameters())
    sizes = [p.numel() for p in names.values()]

    def flat_loss(flat: torch.Tensor) -> torch.Tensor:
        parts = [part.view_as(p) for part, p in zip(flat.split(sizes), names.values(), strict=True)]
        return F.cross_entropy(functional_call(net, dict(zip(names, parts, strict=True)), (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in names.values()])
    hessian = torch.autograd.functional.hessian(flat_loss, flat)
    values = torch.linalg.eigvalsh(hessian)
    wanted = float(values[values.abs().argmax()])
    loss = lambda: F.cross_entropy(net(x), y)  # noqa: E731
    found = top_eigenvalue(loss, list(net.parameters()), iterations=500, tolerance=1e-7)
    assert found.converged
    assert found.value == pytest.approx(wanted, rel=1e-3)
    trace = hessian_trace(loss, list(net.parameters()), probes=4000, tolerance=0)
    assert trace.products == 4000
    assert trace.value == pytest.approx(float(hessian.trace()), rel=0.05)
    assert abs(trace.value - found.value) > 0.1 * found.value  # not the same number


def test_the_sign_and_the_diagonal_case() -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    diagonal = torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64)
    loss = lambda: 0.5 * (diagonal * w * w).sum()  # noqa: E731
    assert top_eigenvalue(loss, [w], tolerance=1e-9).value == pytest.approx(-5.0)
    # For a diagonal Hessian every vector of signs gives the trace itself.
    assert hessian_trace(loss, {"w": w}) == hessian_trace(loss, {"w": w}, seed=7)
    assert hessian_trace(loss, {"w": w}).value == pytest.approx(-2.0)
    assert hessian_trace(loss, {"w": w}).products == 2


def test_a_flat_loss_and_no_iteration() -> None:
    w = nn.Parameter(torch.ones(3))
    assert top_eigenvalue(lambda: w.sum(), [w]).value == 0.0
    limited = top_eigenvalue(lambda: (w**4).sum() + w.prod(), [w], iterations=1)
    assert not limited.converged
    with pytest.raises(UsageError, match="iterations"):
        top_eigenvalue(lambda: w.sum(), [w], iterations=0)
    with pytest.raises(UsageError, match="probes"):
        hessian_trace(lambda: w.sum(), [w], probes=0)
