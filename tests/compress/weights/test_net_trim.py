"""Net-Trim of p098 (arXiv 1806.06457) against convex programs that SciPy and scikit-learn solve, and its theorems."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog, minimize
from sklearn.linear_model import lars_path
from torch import nn

from binderclip.compress import NetTrim, net_trim_layer
from binderclip.errors import NotSupported, UsageError


def problem(samples: int, inputs: int, outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(samples, n, generator=g, dtype=torch.float64) for n in (inputs, outputs))  # type: ignore[return-value]


@pytest.mark.parametrize("kappa", [0.3, 0.6])
def test_a_linear_layer_is_the_lasso_of_that_residual(kappa: float) -> None:
    x, noise = problem(40, 12, 1)
    y = x @ torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None] + noise
    least = float((x @ torch.linalg.lstsq(x, y).solution - y).norm())
    epsilon = least + kappa * (float(y.norm()) - least)
    layer = net_trim_layer(x, y, "linear", epsilon, iterations=50_000, tolerance=1e-11)
    _, _, path = lars_path(x.numpy(), y[:, 0].numpy(), method="lasso")  # (inputs, knots); linear between them

    def between(place: float) -> np.ndarray:
        low = min(int(place), path.shape[1] - 2)
        return path[:, low] + (place - low) * (path[:, low + 1] - path[:, low])

    theirs = between(
        brentq(lambda t: np.linalg.norm(x.numpy() @ between(t) - y[:, 0].numpy()) - epsilon, 0, path.shape[1] - 1)
    )
    assert layer.converged
    assert layer.residual == pytest.approx(epsilon, rel=1e-5)
    assert float(layer.weight.abs().sum()) == pytest.approx(np.abs(theirs).sum(), rel=1e-4)
    assert ((layer.weight[0] == 0).numpy() == (theirs == 0)).all()


def relu_program(x: np.ndarray, y: np.ndarray) -> float:
    """Least l1 norm with epsilon = 0 as a linear program: u = a - b with a, b >= 0."""
    n, active = x.shape[1], y > 1e-6
    both = np.concatenate([x, -x], 1)
    solved = linprog(np.ones(2 * n), both[~active], np.zeros((~active).sum()), both[active], y[active])
    assert solved.status == 0
    return float(solved.fun)


def test_a_relu_layer_without_tolerance_is_a_linear_program() -> None:
    x, teacher = problem(14, 20, 20, seed=1)
    y = (x @ teacher[0]).relu()[:, None]
    layer = net_trim_layer(x, y, "relu", 0.0, iterations=10_000, tolerance=1e-9)
    assert float(layer.weight.abs().sum()) == pytest.approx(relu_program(x.numpy(), y[:, 0].numpy()), rel=2e-3)
    assert layer.residual < 1e-3
    assert layer.violation < 1e-3


def test_a_relu_layer_with_tolerance_is_what_a_general_solver_finds() -> None:
    x, teacher = problem(25, 6, 6, seed=2)
    y = (x @ teacher[:6, :2]).relu()
    epsilon = 0.2 * float(y.norm())
    layer = net_trim_layer(x, y, "relu", epsilon, iterations=20_000, tolerance=1e-10)
    xs, ys = x.numpy(), y.numpy()
    active = ys > 1e-6

    def weights(ab: np.ndarray) -> np.ndarray:
        return (ab[:12] - ab[12:]).reshape(6, 2)

    constraints = [
        {"type": "ineq", "fun": lambda ab: epsilon**2 - np.square((xs @ weights(ab) - ys)[active]).sum()},
        {"type": "ineq", "fun": lambda ab: -(xs @ weights(ab))[~active]},
    ]
    start = teacher[:6, :2].numpy().ravel()
    solved = minimize(
        lambda ab: ab.sum(), np.concatenate([np.maximum(start, 0), np.maximum(-start, 0)]), jac=lambda ab: np.ones(24),
        bounds=[(0, None)] * 24, constraints=constraints, method="SLSQP", options={"maxiter": 500},
    )  # fmt: skip
    assert solved.success
    assert float(layer.weight.abs().sum()) == pytest.approx(solved.fun, rel=1e-3)
    assert layer.residual == pytest.approx(epsilon, rel=1e-4)  # the constraint is active
    assert layer.violation < 1e-5


def test_limits_of_the_tolerance() -> None:
    x, teacher = problem(60, 8, 8, seed=3)
    y = (x @ teacher[:8, :3]).relu()
    assert net_trim_layer(x, y, "relu", float(y.norm())).weight.eq(0).all()
    assert net_trim_layer(x, y, "relu", 1.1 * float(y.norm())).sparsity == 1.0
    exact = net_trim_layer(x, y, "relu", 0.0)
    assert torch.allclose(exact.weight.T, teacher[:8, :3], atol=1e-4)
    assert exact.weight.dtype == torch.float64


def test_a_higher_limit_of_inactive_responses_is_used() -> None:
    x, teacher = problem(60, 8, 8, seed=4)
    y = (x @ teacher[:8, :3]).relu()
    strict = net_trim_layer(x, y, "relu", 0.3 * float(y.norm()))
    loose = net_trim_layer(x, y, "relu", 0.3 * float(y.norm()), limits=torch.full_like(y, 10.0))
    assert float(loose.weight.abs().sum()) < float(strict.weight.abs().sum()) - 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_sparse_weights_are_recovered_from_few_samples(seed: int) -> None:
    # s log(N / s) samples and not N: the paper's sample complexity; least squares has more unknowns than equations.
    n, s = 100, 4
    samples = round(8 * s * math.log(n / s))
    x, _ = problem(samples, n, 1, seed=10 + seed)
    w = torch.zeros(n, 1, dtype=torch.float64)
    w[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:s]] = torch.tensor(
        [[1.0], [-1], [2], [-2]]
    ).double()
    y = (x @ w).relu()
    layer = net_trim_layer(x, y, "relu", 0.0, iterations=30_000, tolerance=1e-11)
    assert torch.allclose(layer.weight.T, w, atol=1e-3)
    active = y[:, 0] > 0
    assert int(active.sum()) < n
    dense = torch.linalg.lstsq(x[active], y[active], driver="gelsd").solution
    assert float((dense - w).norm()) > 1


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


def responses(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    out = []
    for index in range(0, 5, 2):
        x = model[index](x)
        x = x.relu() if index < 4 else x
        out.append(x)
    return out


@torch.no_grad()
def test_layers_keep_their_responses_and_the_errors_add_up_as_the_theorem_says() -> None:
    model, x = net(), torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    before = [x, *responses(model, x)]
    l1 = {str(i): float(model[i].weight.abs().sum() + model[i].bias.abs().sum()) for i in (0, 2, 4)}
    trimmed = NetTrim(0.1, iterations=5000)(model, x)
    bound = 0.0
    for place, (name, layer) in enumerate(trimmed.items()):
        alone = model[int(name)](before[place])
        alone = alone.relu() if place < 2 else alone
        assert float((alone - before[place + 1]).norm()) <= layer.epsilon * (1 + 1e-3)
        assert layer.weight.abs().sum() < l1[name]
        bound = bound * float(torch.linalg.matrix_norm(model[int(name)].weight.detach(), 2)) + layer.epsilon
    assert float((responses(model, x)[-1] - before[-1]).norm()) <= bound * (1 + 1e-3)


@torch.no_grad()
def test_the_cascade_sees_what_the_layers_before_it_return() -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    model, parallel = net(), net()
    target = responses(model, x)[-1]
    trimmed = NetTrim(0.1, mode="cascade")(model, x)
    NetTrim(0.1)(parallel, x)
    # epsilon of the last layer is sqrt(1.1) of what its own weights would leave, on inputs that are pruned already
    hidden = responses(model, x)[1]
    left = float((net()[4](hidden) - target).norm())
    assert trimmed["4"].epsilon == pytest.approx(1.1**0.5 * left, rel=1e-4)
    assert float((model(x) - target).norm()) == pytest.approx(trimmed["4"].residual, rel=1e-3)
    assert not torch.equal(model[2].weight, parallel[2].weight)
    assert torch.allclose(model[0].weight, parallel[0].weight)
    # the layer before it: epsilon is that error on the active responses, and the others stay below V = max(0, W'X^),
    # not below 0, so that the original weights are feasible
    hidden, target = responses(model, x)[0], responses(net(), x)[1]
    today, active = net()[2](hidden), target > 1e-6
    assert trimmed["2"].epsilon == pytest.approx(1.1**0.5 * float((today - target)[active].norm()), rel=1e-4)
    above = (model[2](hidden) - today.clamp(min=0))[~active]
    assert float(above.max()) < 1e-3
    assert trimmed["2"].violation < 1e-3
    limited = model[2](hidden)[~active & (today > 0)]
    assert float(limited.max()) > 0.01
    zeros = net_trim_layer(torch.cat([hidden, torch.ones(200, 1)], 1), target, "relu", trimmed["2"].epsilon)
    assert float(trimmed["2"].weight.abs().sum()) < float(zeros.weight.abs().sum()) - 1e-2


def test_a_model_without_relus_and_some_of_its_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6, bias=False)).eval()
    held = copy.deepcopy(model)
    trimmed = NetTrim(0.2, layers=["2"])(model, torch.randn(4, 30, 6))  # tokens of a transformer
    assert list(trimmed) == ["2"]
    assert trimmed["2"].weight.shape == (6, 6)
    assert torch.equal(model[0].weight, held[0].weight)
    assert not torch.equal(model[2].weight, held[2].weight)


def test_what_cannot_be_done_is_refused() -> None:
    x, noise = problem(30, 4, 2)
    relu = noise.relu()
    for bad in (
        lambda: net_trim_layer(x, relu, "gelu", 1.0),
        lambda: net_trim_layer(x, relu, "relu", -1.0),
        lambda: net_trim_layer(x, relu, "relu", float("nan")),
        lambda: net_trim_layer(x[:3], relu, "relu", 1.0),
        lambda: net_trim_layer(x[:0], relu[:0], "relu", 1.0),
        lambda: net_trim_layer(x * float("nan"), relu, "relu", 1.0),
        lambda: net_trim_layer(x, noise, "relu", 1.0),
        lambda: net_trim_layer(x, relu, "relu", 1.0, limits=-relu - 1),
        lambda: net_trim_layer(x, relu, "relu", 1.0, rho=0),
        lambda: NetTrim(0.0),
        lambda: NetTrim(0.1, mode="serial"),
        lambda: NetTrim(0.1, growth=0.9),
        lambda: NetTrim(0.1)(net().train(), torch.zeros(2, 10)),
        lambda: NetTrim(0.1)(nn.Sequential(nn.ReLU()).eval(), torch.zeros(2, 10)),
    ):
        with pytest.raises(UsageError):
            bad()
    with pytest.raises(UsageError, match="least squares"):
        net_trim_layer(x, relu, "linear", 1e-3)
    with pytest.raises(NotSupported, match="Conv2d"):
        NetTrim(0.1, layers=["*"])(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), torch.zeros(1, 1, 2, 2))
    layer = nn.Linear(4, 4)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = layer, nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    with pytest.raises(UsageError, match="more than once"):
        NetTrim(0.1, layers=["layer"])(Twice().eval(), torch.randn(9, 4))
    with pytest.raises(UsageError, match="do not reach other"):
        NetTrim(0.1, layers=["other"])(Twice().eval(), torch.randn(9, 4))
