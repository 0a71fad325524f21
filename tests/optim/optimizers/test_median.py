"""The geometric median (p016, arXiv 2402.12828) against SciPy, its optimality condition and symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from binderclip.errors import UsageError
from binderclip.optim.optimizers.median import geometric_median

DTYPE = torch.float64


def cloud(n=9, p=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, generator=generator, dtype=DTYPE) ** 3


def total(x, points):
    return float(np.linalg.norm(points - x, axis=1).sum())


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_scipy_finds_is_better(seed):
    points = cloud(seed=seed)
    ours = geometric_median(points).numpy()
    found = minimize(total, points.mean(0).numpy(), args=(points.numpy(),), method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000, "maxfev": 20000})  # fmt: skip
    np.testing.assert_allclose(ours, found.x, atol=1e-5)
    assert total(ours, points.numpy()) <= found.fun + 1e-9
    assert np.abs(points.numpy().mean(0) - ours).max() > 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["cubes", "heavy tails", "some turned round"])
def test_the_proximal_walk_comes_as_near_to_scipys_minimum_as_it_says(kind, seed):
    """With the mean distance as its first step it was off by up to 12 % where some samples are far away."""
    if kind == "cubes":
        points = cloud(seed=seed)
    else:
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(20, 6, generator=generator, dtype=DTYPE)
        if kind == "heavy tails":
            points /= torch.rand(20, 1, generator=generator, dtype=DTYPE) ** 1.2
        else:
            points += 1
            points[:3] *= -50
    start = points.median(0).values.numpy()
    gradient = lambda x, p: ((x - p) / np.linalg.norm(x - p, axis=1, keepdims=True)).sum(0)  # noqa: E731
    found = minimize(total, start, jac=gradient, args=(points.numpy(),), method="BFGS", options={"gtol": 1e-10}).x
    np.testing.assert_allclose(geometric_median(points, max_iterations=5000).numpy(), found, atol=1e-4)
    typical = np.median(np.linalg.norm(points.numpy() - found, axis=1))
    off = np.linalg.norm(geometric_median(points, method="proximal").numpy() - found) / typical
    later = np.linalg.norm(geometric_median(points, method="proximal", epochs=200).numpy() - found) / typical
    assert off < 0.035
    assert later < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_pulls_of_the_samples_cancel(seed):
    points = cloud(n=20, seed=seed)
    x = geometric_median(points, max_iterations=2000)
    offsets = points - x
    assert float((offsets / offsets.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-5


def test_at_a_sample_the_others_pull_by_at_most_its_number():
    """Three of seven samples coincide and hold the median, however far the others are."""
    points = cloud(n=7, p=3)
    points[:3] = torch.tensor([0.3, -0.2, 0.1], dtype=DTYPE)
    points[3:] = 100 * points[3:] + torch.tensor([50.0, 0.0, 0.0], dtype=DTYPE)
    x = geometric_median(points)
    others = points[3:] - x
    pull = (others / others.norm(dim=1, keepdim=True)).sum(0).norm()
    if float((points[0] - x).norm()) < 1e-9:
        assert pull <= 3
    else:
        offsets = points - x
        assert float((offsets / offsets.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-4


def test_it_leaves_a_sample_that_is_not_the_median():
    """The coordinate-wise median, where the iteration starts, is a sample here, but not the geometric median."""
    points = torch.tensor([[0.0, 0, 0], [-1, 2, 2], [2, -1, 2], [2, 2, -1], [-3, -3, -3]], dtype=DTYPE)
    assert torch.equal(points.median(dim=0).values, points[0])
    spread = points[1:] / points[1:].norm(dim=1, keepdim=True)
    assert float(spread.sum(0).norm()) < 1  # here the sample does hold it
    assert float(geometric_median(points).norm()) < 1e-9
    points[4] = torch.tensor([-0.1, -0.1, 5.0], dtype=DTYPE)
    points = torch.cat([points, torch.tensor([[-0.1, -0.1, 5.0], [-4.0, -3.0, -1.0]], dtype=DTYPE)])
    points[:, 2] -= points[:, 2].median()
    x = geometric_median(points, max_iterations=5000)
    offsets = points - x
    assert offsets.norm(dim=1).min() > 1e-3
    assert float((offsets / offsets.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-5


def test_it_moves_and_turns_with_the_samples():
    points = cloud()
    turn = torch.linalg.qr(cloud(4, 4, seed=7))[0]
    shift = torch.tensor([3.0, -1.0, 2.0, 10.0], dtype=DTYPE)
    x = geometric_median(points, max_iterations=2000)
    torch.testing.assert_close(geometric_median(points + shift, max_iterations=2000), x + shift, rtol=0, atol=1e-6)
    torch.testing.assert_close(geometric_median(points @ turn, max_iterations=2000), x @ turn, rtol=0, atol=1e-6)
    torch.testing.assert_close(geometric_median(1e-9 * points, max_iterations=2000), 1e-9 * x, rtol=0, atol=1e-15)


def test_in_one_dimension_it_is_the_median():
    points = torch.tensor([5.0, 1.0, 2.0, 100.0, 3.0])
    assert geometric_median(points).item() == pytest.approx(3.0, abs=1e-5)
    assert geometric_median(torch.tensor([[7.0, 1.0]])).tolist() == [7.0, 1.0]


def test_proximal_steps_approach_the_same_point():
    points = cloud(n=15)
    weiszfeld = geometric_median(points)
    errors = [
        float((geometric_median(points, method="proximal", epochs=epochs) - weiszfeld).norm()) for epochs in (20, 320)
    ]
    # sixteen times as many steps of size 1 / sqrt(k)
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.1 * float((points.mean(0) - weiszfeld).norm())


def test_shape_and_dtype_are_kept():
    points = cloud(n=6, p=12).reshape(6, 3, 4)
    whole = geometric_median(points)
    assert whole.shape == (3, 4)
    torch.testing.assert_close(whole.reshape(-1), geometric_median(points.reshape(6, 12)))
    half = geometric_median(points.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        (torch.zeros(0, 3), {}, "at least one sample"),
        (torch.tensor([[1.0], [float("nan")]]), {}, "finite samples"),
        (torch.zeros(2, 3), {"method": "mean"}, "method must be one of weiszfeld, proximal"),
        (torch.zeros(2, 3), {"method": "proximal", "tau": 0.0}, "tau must be above 0"),
        (torch.zeros(2, 3), {"max_iterations": 0}, "max_iterations and epochs at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(points, settings, message):
    with pytest.raises(UsageError, match=message):
        geometric_median(points, **settings)
