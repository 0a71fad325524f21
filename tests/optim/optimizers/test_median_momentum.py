"""MedianMomentum and SampleMedianSGD (p016, arXiv 2402.12828) against numeric minimisation and limiting cases."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.optim import NonFiniteGradient
from binderclip.optim.optimizers import MedianMomentum, SampleMedianSGD
from binderclip.optim.optimizers.median import geometric_median

DTYPE = torch.float64
INF = math.inf


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def centre_after(grads, estimator, **settings):
    """The running estimate after these gradients of one tensor."""
    param = nn.Parameter(torch.zeros(grads.shape[1:], dtype=DTYPE))
    optimizer = MedianMomentum([param], 1.0, estimator, **settings)
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return optimizer.state[param]["centre"]


DISTANCES = {
    "mean": lambda x, mu: 0.5 * x @ x,
    "l2": lambda x, mu: np.sqrt(x @ x),
    "l1": lambda x, mu: np.abs(x).sum(),
    "huber": lambda x, mu: 0.5 * x @ x if x @ x <= mu * mu else mu * np.sqrt(x @ x) - mu * mu / 2,
}


@pytest.mark.parametrize("tau", [0.1, 0.7, 20.0])
@pytest.mark.parametrize("estimator", DISTANCES)
def test_one_step_minimises_the_proximal_objective(estimator, tau):
    for seed in range(2):
        m, g = draw(2, 3, seed=seed)
        mu = 0.8

        def objective(x, m=m, g=g, mu=mu):
            return DISTANCES[estimator](x - g.numpy(), mu) + ((x - m.numpy()) ** 2).sum() / (2 * tau)

        ours = centre_after(torch.stack([m, g]), estimator, tau=tau, mu=mu).numpy()
        best = min(
            (minimize(objective, start, method="Nelder-Mead",
                      options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 8000, "maxfev": 8000})
             for start in (ours + 0.1, m.numpy(), g.numpy())), key=lambda found: found.fun)  # fmt: skip
        np.testing.assert_allclose(ours, best.x, atol=2e-5)
        assert objective(ours) <= best.fun + 1e-10


@pytest.mark.parametrize("estimator", ["l2", "l1", "huber", "mean"])
def test_with_an_endless_tau_it_is_plain_sgd(estimator):
    grads = draw(5, 4)
    param = nn.Parameter(torch.zeros(4, dtype=DTYPE))
    plain = nn.Parameter(torch.zeros(4, dtype=DTYPE))
    settings = {"mu": INF} if estimator == "huber" else {}
    ours = MedianMomentum([param], 0.1, estimator, tau=INF, weight_decay=0.3, **settings)
    theirs = torch.optim.SGD([plain], 0.1, weight_decay=0.3)
    for grad in grads:
        param.grad, plain.grad = grad.clone(), grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(param, plain, rtol=1e-12, atol=1e-12)
    assert ours.active_fraction() == 0


def test_the_mean_is_heavy_ball_momentum():
    """torch's momentum with dampening beta: m <- beta m + (1 - beta) g, started at the first gradient."""
    grads, tau = draw(8, 4), 1 / 9
    param, plain = nn.Parameter(torch.zeros(4, dtype=DTYPE)), nn.Parameter(torch.zeros(4, dtype=DTYPE))
    ours, theirs = MedianMomentum([param], 0.1, "mean", tau=tau), torch.optim.SGD([plain], 0.1, 0.9, 0.9)
    for grad in grads:
        param.grad, plain.grad = grad.clone(), grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(param, plain, rtol=1e-12, atol=1e-14)


def test_a_wide_huber_is_the_mean_and_a_narrow_one_has_short_steps():
    grads = draw(6, 4)
    wide = centre_after(grads, "huber", tau=0.3, mu=1e6)
    torch.testing.assert_close(wide, centre_after(grads, "mean", tau=0.3), rtol=1e-12, atol=1e-14)
    m = centre_after(grads[:1], "huber", tau=0.3, mu=0.05)
    moved = centre_after(grads[:2], "huber", tau=0.3, mu=0.05) - m
    assert float(moved.norm()) == pytest.approx(0.3 * 0.05, rel=1e-12)


def test_in_one_dimension_l2_and_l1_coincide_and_find_the_median():
    generator = torch.Generator().manual_seed(3)
    samples = torch.empty(2500, dtype=DTYPE).exponential_(generator=generator)[:, None]
    ends = {e: centre_after(samples[:200], e, tau=0.05) for e in ("l2", "l1")}
    assert torch.equal(ends["l2"], ends["l1"])
    param = nn.Parameter(torch.zeros(1, dtype=DTYPE))
    optimizer, signs = MedianMomentum([param], 0.0, "l2", tau=0.02), []
    for number, sample in enumerate(samples):
        if number > 500:
            signs.append(float(torch.sign(sample - optimizer.state[param]["centre"])))
        param.grad = sample
        optimizer.step()
    assert abs(float(np.mean(signs))) < 0.04
    # the mean is 1, the median ln 2; with a small tau the estimate is near the second
    assert float(optimizer.state[param]["centre"]) == pytest.approx(math.log(2), abs=0.15)


def test_l2_turns_with_the_space_and_l1_does_not():
    grads, turn = draw(6, 3), torch.linalg.qr(draw(3, 3, seed=5))[0]
    for estimator, alike in (("l2", True), ("l1", False)):
        turned = centre_after(grads @ turn, estimator, tau=0.3)
        assert torch.allclose(turned, centre_after(grads, estimator, tau=0.3) @ turn, atol=1e-10) is alike


def test_decreasing_steps_find_the_geometric_median_of_a_fixed_sample():
    points = draw(12, 3) ** 3
    param = nn.Parameter(torch.zeros(3, dtype=DTYPE))
    optimizer = MedianMomentum([param], 0.0, "l2", tau=1.0)
    total = torch.zeros(3, dtype=DTYPE)
    for k in range(1, 3001):
        optimizer.param_groups[0]["tau"] = 1.0 / math.sqrt(k)
        param.grad = points[(k - 1) % 12].clone()
        optimizer.step()
        total += optimizer.state[param]["centre"] if k > 2400 else 0
    torch.testing.assert_close(total / 600, geometric_median(points), rtol=0, atol=0.05)


def test_global_granularity_is_one_long_vector():
    grads = draw(6, 7)
    split = [nn.Parameter(torch.zeros(3, dtype=DTYPE)), nn.Parameter(torch.zeros(2, 2, dtype=DTYPE))]
    whole = nn.Parameter(torch.zeros(7, dtype=DTYPE))
    for estimator in ("l2", "huber"):
        results = []
        for params, granularity in ((split, "global"), ([whole], "tensor"), (split, "tensor")):
            with torch.no_grad():
                for param in params:
                    param.zero_()
            optimizer = MedianMomentum(
                [{"params": [param]} for param in params], 0.5, estimator, tau=0.4, mu=0.3, granularity=granularity
            )
            for grad in grads:
                for param, part in zip(params, grad.split([3, 4] if len(params) == 2 else [7]), strict=True):
                    param.grad = part.reshape(param.shape).clone()
                optimizer.step()
            results.append(torch.cat([param.detach().reshape(-1) for param in params]))
        torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(results[2], results[1])


def test_a_late_parameter_starts_at_its_first_gradient_and_widens_nothing():
    early, late = nn.Parameter(torch.zeros(2, dtype=DTYPE)), nn.Parameter(torch.zeros(2, dtype=DTYPE))
    optimizer = MedianMomentum([early, late], 1.0, "l2", tau=0.5, granularity="global")
    early.grad = torch.tensor([1.0, 0.0], dtype=DTYPE)
    optimizer.step()
    late.grad = torch.tensor([1000.0, 0.0], dtype=DTYPE)
    early.grad = torch.tensor([1.2, 0.0], dtype=DTYPE)
    optimizer.step()
    assert optimizer.state[early]["centre"].tolist() == pytest.approx([1.2, 0])
    assert optimizer.state[late]["centre"].tolist() == [1000, 0]


def test_the_fraction_of_active_bounds():
    param = nn.Parameter(torch.zeros(1))
    optimizer = MedianMomentum([param], 0.1, "l2", tau=1.0)
    assert optimizer.active_fraction() == 0
    for value in (0.0, 0.5, 10.0, 1.0):  # distances: first, 0.5, 9.5, 0.5 below 1.5
        param.grad = torch.tensor([value])
        optimizer.step()
    assert optimizer.active_fraction() == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0.0}, "tau must be above 0"),
        ({"mu": -1.0}, "mu must be above 0"),
        ({"estimator": "median"}, "estimator must be one of l2, l1, huber, mean"),
        ({"granularity": "unit"}, "granularity must be one of tensor, global"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        MedianMomentum([nn.Parameter(torch.zeros(1))], 0.1, **settings)


# -- across samples ----------------------------------------------------------------------------------------------------


def model():
    return [nn.Parameter(draw(2, 3, seed=1)), nn.Parameter(draw(3, seed=2)), nn.Parameter(draw(seed=3))]


def samples(n=7):
    return [draw(n, 2, 3, seed=4) ** 3, draw(n, 3, seed=5) ** 3, draw(n, seed=6) ** 3]


def flat(tensors, n):
    return torch.cat([tensor.reshape(n, -1) for tensor in tensors], 1)


@pytest.mark.parametrize("estimator", ["l2", "l1", "mean"])
def test_the_step_goes_along_the_centre_of_the_samples(estimator):
    params, grads = model(), samples()
    before = torch.cat([param.detach().reshape(-1) for param in params])
    optimizer = SampleMedianSGD(params, 0.5, estimator, weight_decay=0.1)
    optimizer.collect(grads)
    optimizer.step()
    points = flat(grads, 7)
    centre = {
        "l2": geometric_median(points),
        "l1": torch.from_numpy(np.median(points.numpy(), axis=0)),
        "mean": points.mean(0),
    }[estimator]
    after = torch.cat([param.detach().reshape(-1) for param in params])
    torch.testing.assert_close(after, before - 0.5 * (centre + 0.1 * before), rtol=1e-12, atol=1e-12)


def test_micro_batches_are_collected_from_backward_and_cleared():
    params, grads = model(), samples()
    others = copy.deepcopy(params)
    ours, theirs = SampleMedianSGD(params, 0.5), SampleMedianSGD(others, 0.5)
    for number in range(7):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad[number].clone()
        ours.collect()
        assert all(param.grad is None for param in params)
    theirs.collect(grads)
    ours.step()
    theirs.step()
    for one, other in zip(params, others, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match="steps along collected gradients"):
        ours.step()


def test_a_minority_of_wild_samples_cannot_carry_it_off():
    """Two of seven samples point the wrong way, fifty times too large."""
    grads = [1 + 0.1 * draw(7, 3, seed=9)]
    grads[0][:2] *= -50
    moves = {}
    for estimator in ("l2", "l1", "mean"):
        param = nn.Parameter(torch.zeros(3, dtype=DTYPE))
        optimizer = SampleMedianSGD([param], 1.0, estimator)
        optimizer.collect(grads)
        optimizer.step()
        moves[estimator] = param.detach()
    assert (moves["mean"] > 10).all()
    for estimator in ("l2", "l1"):
        torch.testing.assert_close(moves[estimator], -torch.ones(3, dtype=DTYPE), rtol=0, atol=0.25)


def test_medians_per_tensor_differ_from_the_median_of_all():
    ends = []
    for granularity in ("global", "tensor"):
        params = model()
        optimizer = SampleMedianSGD(params, 0.5, granularity=granularity)
        optimizer.collect(samples())
        optimizer.step()
        ends.append([param.detach() for param in params])
    assert not torch.allclose(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[1][0], model()[0] - 0.5 * geometric_median(samples()[0]), rtol=1e-12, atol=1e-12)


def test_what_a_nan_sample_does():
    for policy in ("raise", "skip", "zero", "drop"):
        params, grads = model(), samples()
        bad = [grad.clone() for grad in grads]
        bad[1][3, 0] = math.nan
        optimizer = SampleMedianSGD(params, 0.5, nonfinite=policy)
        optimizer.collect(bad)
        if policy == "raise":
            with pytest.raises(NonFiniteGradient):
                optimizer.step()
        else:
            optimizer.step()
        unmoved = all(torch.equal(a, b) for a, b in zip(params, model(), strict=True))
        assert unmoved is (policy in ("raise", "skip"))
        expected = model()
        if policy in ("zero", "drop"):
            keep = [i for i in range(7) if i != 3] if policy == "drop" else list(range(7))
            if policy == "zero":
                bad[1][3, 0] = 0
            twin = SampleMedianSGD(expected, 0.5)
            twin.collect([grad[keep] for grad in bad])
            twin.step()
            for one, other in zip(params, expected, strict=True):
                assert torch.equal(one, other)


def test_a_closure_collects_and_returns_its_loss():
    param = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SampleMedianSGD([param], 0.1)

    def closure():
        for target in (0.0, 0.0, 100.0):
            loss = (param - target).square().sum()
            loss.backward()
            optimizer.collect()
        return 7.0

    assert optimizer.step(closure) == 7.0
    torch.testing.assert_close(param, torch.tensor([0.8, 1.6]), rtol=0, atol=1e-3)


def test_wrong_collections_are_refused():
    params = model()
    optimizer = SampleMedianSGD(params, 0.5)
    with pytest.raises(UsageError, match="no parameter has a gradient"):
        optimizer.collect()
    with pytest.raises(UsageError, match="one tensor per parameter: 3 are needed, got 1"):
        optimizer.collect(samples()[:1])
    with pytest.raises(UsageError, match=r"parameter 1 needs gradients of shape \(n, 3\)"):
        optimizer.collect([samples()[0], samples()[0], samples()[2]])
    with pytest.raises(UsageError, match="the same number of samples"):
        optimizer.collect([samples()[0], samples()[1][:3], None])
    with pytest.raises(UsageError, match="estimator must be one of l2, l1, mean"):
        SampleMedianSGD(params, 0.5, "huber")
    with pytest.raises(UsageError, match="nonfinite must be one of raise, skip, zero, drop"):
        SampleMedianSGD(params, 0.5, nonfinite="propagate")
    with pytest.raises(NotSupported, match="bounds nothing"):
        optimizer.active_fraction()
