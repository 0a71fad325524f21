"""p079 (arXiv 2006.08812): sliced Wasserstein distances against SciPy, closed forms, bounds and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from torch import nn

from binderclip.errors import UsageError
from binderclip.losses import (
    AugmentedSlicedWasserstein,
    GeneralizedSlicedWasserstein,
    MaxSlicedWasserstein,
    SlicedWasserstein,
    sliced_wasserstein,
)


def samples(n=40, d=3, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(x, y):
    """W_2 by assignment."""
    cost = cdist(x.numpy(), y.numpy(), "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 25), (7, 30), (1, 5)])
def test_on_a_line_with_p_1_it_is_scipys_distance(n, m):
    x, y = samples(n, 1), samples(m, 1, seed=1, shift=0.7)
    expected = wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert float(sliced_wasserstein(x, y, 3, p=1)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_repeated_samples_are_the_same_distribution(p):
    x, y = samples(6, 1), samples(6, 1, seed=1)
    doubled = sliced_wasserstein(x.repeat(3, 1), y, 1, p=p)
    assert float(doubled) == pytest.approx(float(sliced_wasserstein(x, y, 1, p=p)), abs=1e-12)


def test_quantiles_are_integrated_as_on_a_fine_grid():
    x, y = samples(7, 1), samples(5, 1, seed=1)
    at = (np.arange(350_000) + 0.5) / 350_000
    both = [np.sort(v[:, 0].numpy())[np.floor(at * len(v)).astype(int)] for v in (x, y)]
    expected = np.sqrt(((both[0] - both[1]) ** 2).mean())
    assert float(sliced_wasserstein(x, y, 1)) == pytest.approx(float(expected), abs=1e-9)


def test_a_translation_has_a_closed_form():
    x, v = samples(20, 4), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    square = float(sliced_wasserstein(x, x + v, 200_000, generator=drawn())) ** 2
    assert square == pytest.approx(float(v.square().sum()) / 4, rel=0.01)
    along = torch.eye(4, dtype=torch.float64)
    assert float(sliced_wasserstein(x, x + v, projections=along)) == pytest.approx(float(v.norm()) / 2, abs=1e-12)


def test_metric_axioms_with_shared_projections():
    x, y, z = (samples(30, 3, seed=s, shift=0.3 * s) for s in range(3))
    shared = torch.randn(15, 3, generator=drawn(), dtype=torch.float64)

    def between(a, b):
        return float(sliced_wasserstein(a, b, projections=shared))

    assert between(x, y) == between(y, x)
    assert between(x, x[torch.randperm(30, generator=drawn())]) < 1e-12
    assert between(x, y) > 0.1
    assert between(x, z) <= between(x, y) + between(y, z) + 1e-12


def test_no_slice_exceeds_the_exact_distance():
    x, y = samples(30, 3), samples(30, 3, seed=1, shift=0.5)
    highest = exact(x, y)
    sliced = float(sliced_wasserstein(x, y, 500, generator=drawn()))
    worst = float(MaxSlicedWasserstein(n_projections=50, steps=200, lr=0.02, generator=drawn())(x, y))
    assert sliced < worst <= highest + 1e-9


def test_max_finds_the_direction_of_a_translation():
    x = samples(50, 6)
    v = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    maximum = MaxSlicedWasserstein(steps=300, lr=0.05, generator=drawn())
    assert float(maximum(x, x + v)) == pytest.approx(2.0, rel=1e-3)
    assert float(maximum.direction(x, x + v)[0, 2].abs()) == pytest.approx(1.0, rel=1e-3)
    assert float(MaxSlicedWasserstein(generator=drawn())(x, x + v)) < 1.9  # the default barely leaves its start


def test_the_gradient_moves_each_sample_to_its_partner():
    x, y = samples(12, 1).requires_grad_(), samples(12, 1, seed=1)
    value = sliced_wasserstein(x, y, 1)
    (grad,) = torch.autograd.grad(value, [x])
    partners = y.sort(0).values[x.detach().argsort(0).argsort(0)[:, 0]]
    torch.testing.assert_close(grad, (x.detach() - partners) / (12 * value.detach()), rtol=0, atol=1e-12)
    z = samples(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a: sliced_wasserstein(a, samples(7, 2, seed=3), projections=samples(4, 2, seed=4)), (z,)
    )


def test_equal_sets_have_a_finite_gradient():
    x = samples(8, 2).requires_grad_()
    sliced_wasserstein(x, x.detach()).backward()
    assert bool(x.grad.isfinite().all())


def test_the_sum_is_larger_by_the_root_of_the_number():
    x, y = samples(16, 2), samples(16, 2, seed=1)
    shared = samples(5, 2, seed=2)
    mean, total = (sliced_wasserstein(x, y, projections=shared, reduction=r) for r in ("mean", "sum"))
    assert float(total) == pytest.approx(4 * float(mean), rel=1e-12)


def test_circles_of_a_large_radius_are_lines():
    x, y = samples(30, 3), samples(30, 3, seed=1, shift=0.5)
    circular = GeneralizedSlicedWasserstein(r=1e4, n_projections=20, generator=drawn())(x, y)
    lines = SlicedWasserstein(20, generator=drawn())(x, y)
    assert float(circular) == pytest.approx(float(lines), rel=1e-3)
    near = GeneralizedSlicedWasserstein(r=1.0, n_projections=20, generator=drawn())(x, y)
    assert abs(float(near) - float(lines)) > 0.01


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x * 0 * self.unused


def test_with_h_zero_it_is_sliced_by_shortened_projections():
    x, y = samples(30, 3), samples(30, 3, seed=1, shift=0.5)
    found = AugmentedSlicedWasserstein(3, Zero().double(), n_projections=9, steps=0, generator=drawn())(x, y)
    directions = torch.randn(9, 6, generator=drawn(), dtype=torch.float64)
    directions = (directions / directions.norm(dim=1, keepdim=True))[:, :3]
    assert float(found) == pytest.approx(float(sliced_wasserstein(x, y, projections=directions)), abs=1e-12)


def separated(steps=50, **settings):
    distance = AugmentedSlicedWasserstein(3, n_projections=20, steps=steps, generator=drawn(), **settings).double()
    return distance, samples(60, 3), samples(60, 3, seed=1, shift=0.3)


@pytest.mark.parametrize("h", ["linear", "mlp"])
def test_the_ascent_raises_the_distance_on_the_same_projections(h):
    distance, x, y = separated(h=h, lam=0.0, lr=5e-3)
    shared = torch.randn(200, 6, generator=drawn(7), dtype=torch.float64)
    ends = []
    for _ in range(2):
        with torch.no_grad():
            ends.append(float(sliced_wasserstein(distance.augment(x), distance.augment(y), projections=shared)))
        distance.ascend(x, y)
    assert ends[1] > 1.05 * ends[0]


def test_the_penalty_keeps_the_surface_small():
    grown = []
    for lam in (0.0, 0.5, 5.0):
        distance, x, y = separated(steps=200, lam=lam, lr=1e-2)
        distance(x, y)
        grown.append(float(distance.augment(x).detach().norm(dim=1).mean()))
    assert grown[0] > grown[1] > grown[2]


def test_gradients_reach_the_samples_and_never_h():
    distance, x, y = separated(steps=3)
    x.requires_grad_()
    distance(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in distance.parameters())


def test_it_works_without_a_graph_and_goes_on_from_call_to_call():
    distance, x, y = separated(steps=3)
    before = [p.detach().clone() for p in distance.h.parameters()]
    with torch.no_grad():
        distance(x, y)
    after = [p.detach().clone() for p in distance.h.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    distance(x, y)
    assert all(not torch.equal(a, b) for a, b in zip(after, distance.h.parameters(), strict=True))
    distance.reset()
    assert all(torch.equal(a, b) for a, b in zip(before, distance.h.parameters(), strict=True))


def test_a_seed_repeats_everything():
    values = []
    for _ in range(2):
        distance, x, y = separated(steps=3)
        values.append(float(distance(x, y)))
    assert values[0] == values[1]


def test_a_learned_surface_is_still_a_metric():
    distance, x, y = separated()
    distance(x, y)
    z = samples(60, 3, seed=2, shift=-0.4)
    shared = torch.randn(30, 6, generator=drawn(3), dtype=torch.float64)

    def between(a, b):
        with torch.no_grad():
            return float(sliced_wasserstein(distance.augment(a), distance.augment(b), projections=shared))

    assert between(x, x.flip(0)) < 1e-12
    assert between(x, z) <= between(x, y) + between(y, z) + 1e-12
    assert between(x, y) == between(y, x) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(samples(4, 2), samples(4, 3)), "samples must be floats"),
        (lambda: sliced_wasserstein(samples(0, 2), samples(4, 2)), "at least one of each"),
        (lambda: sliced_wasserstein(samples(4, 2), samples(4, 2), p=0.5), "order p"),
        (lambda: sliced_wasserstein(samples(4, 2), samples(4, 2), 0), "n_projections"),
        (lambda: sliced_wasserstein(samples(4, 2), samples(4, 2), projections=samples(3, 3)), "projections must be"),
        (lambda: sliced_wasserstein(samples(4, 2), samples(3, 2), reduction="sum"), "sets of one size"),
        (lambda: sliced_wasserstein(samples(4, 2), samples(4, 2), reduction="max"), "'mean' or 'sum'"),
        (lambda: GeneralizedSlicedWasserstein("polynomial"), "circular"),
        (lambda: GeneralizedSlicedWasserstein(r=0.0), "r must be above 0"),
        (lambda: MaxSlicedWasserstein(steps=-1), "steps must be at least 0"),
        (lambda: AugmentedSlicedWasserstein(2, "conv"), "'linear', 'mlp'"),
        (lambda: AugmentedSlicedWasserstein(2, lam=-1.0), "lam must be"),
        (lambda: AugmentedSlicedWasserstein(2)(samples(4, 3), samples(4, 3)), "dim is 2"),
        (lambda: SlicedWasserstein(p=math.inf), "order p"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(UsageError, match=message):
        call()
