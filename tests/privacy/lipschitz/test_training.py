"""p011 (arXiv 2305.16202): bounds of whole networks against vectorised per-sample gradients, and what a step spends."""

from __future__ import annotations

import math

import pytest
import torch
from opacus.accountants import RDPAccountant
from torch import nn
from torch.func import functional_call, grad, vmap

from binderclip.errors import NotSupported, UsageError
from binderclip.models import (
    AddBias,
    BoundedInput,
    ClipLogitGradient,
    GroupSort2,
    L2NormPool2d,
    LipschitzResidual,
    SpectralConv2d,
    SpectralLinear,
)
from binderclip.privacy import (
    LIPSCHITZ_LOSSES,
    Ledger,
    LipschitzBound,
    LipschitzOptimizer,
    LipschitzSequential,
    gradient_bounds,
    largest_ratios,
    loss_constant,
    tau_cross_entropy,
)


def mlp(radius=2.0, clip=None):
    tail = [ClipLogitGradient(clip, reduction="sum")] if clip else []
    return LipschitzSequential(
        BoundedInput(radius), SpectralLinear(12, 8), AddBias(8, radius=0.2), GroupSort2(), SpectralLinear(8, 5), *tail
    )


def convolutional():
    return LipschitzSequential(
        BoundedInput(3.0),
        SpectralConv2d(1, 4, 3),
        GroupSort2(),
        LipschitzResidual(SpectralConv2d(4, 4, 3), GroupSort2()),
        LipschitzResidual(SpectralConv2d(4, 4, 3, size=(8, 8), released=True), nn.ReLU(), merge="add"),
        L2NormPool2d(2),
        nn.Flatten(),
        SpectralLinear(64, 5),
    )


def per_sample(model, x, y, loss=tau_cross_entropy):
    """One gradient a sample, by vmap over functional_call."""
    held = {name: p.detach() for name, p in model.named_parameters()}

    def one(params, xi, yi):
        return loss(functional_call(model, params, (xi[None],)), yi[None])[0]

    return vmap(grad(one), in_dims=(None, 0, 0))(held, x, y)


@pytest.mark.parametrize("name", ["mlp", "clipped", "convolutional"])
def test_no_sample_exceeds_its_bound_even_where_inputs_are_chosen_against_it(name):
    """Ascent on the total gradient norm over inputs at the ball's boundary, at random and at adversarial weights."""
    torch.manual_seed(0)
    model = {"mlp": mlp, "clipped": lambda: mlp(clip=0.5), "convolutional": convolutional}[name]()
    shape = (1, 8, 8) if name == "convolutional" else (12,)
    loss = lambda z, y: tau_cross_entropy(z, y, tau=8.0)  # noqa: E731
    best = 0.0
    for round_ in range(2):
        for p in model.parameters():
            with torch.no_grad():
                p.copy_(torch.randn_like(p) if round_ else p)
        model.project()
        bounds = gradient_bounds(model)
        x, y = torch.randn(16, *shape), torch.randint(5, (16,))
        for _ in range(12):
            # float32 rounding of a norm that equals its bound is all the room there is
            ratios = largest_ratios(per_sample(model, x, y, loss), bounds)
            assert max(ratios.values()) <= 1 + 1e-5, ratios
            best = max(best, max(ratios.values()))

            def total(x, y=y):
                found = per_sample(model, x, y, loss)
                return sum(g.flatten(1).norm(dim=1).sum() for g in found.values())

            x = x + 2 * torch.func.grad(total)(x).sign()
    # A bound of a thousand times the norms would pass everything else. Convolutions are looser: only an image whose
    # windows all align with one kernel reaches theirs.
    assert best > (0.1 if name == "convolutional" else 0.3)


def test_the_bound_of_a_linear_model_is_attained():
    """Logits as wrong as can be: p -> e_other, so the loss gradient has norm root 2 and the bound is exact."""
    radius = 3.0
    model = LipschitzSequential(BoundedInput(radius), SpectralLinear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[50.0, 0.0]]), torch.tensor([1])
    gradients = per_sample(model, x, y, lambda z, t: tau_cross_entropy(z, t, tau=20.0))
    bounds = gradient_bounds(model, batch_size=4)
    assert bounds.parameters["1.weight"] == pytest.approx(math.sqrt(2) * radius / 4)
    assert float(gradients["1.weight"].norm()) / 4 == pytest.approx(bounds.parameters["1.weight"], rel=1e-5)


def test_the_network_is_1_lipschitz():
    torch.manual_seed(1)
    for model, shape in ((mlp(100.0), (12,)), (convolutional(), (1, 8, 8))):
        model.double()
        model.project()
        stretch = 2.0 if len(shape) == 3 else 1.0  # one residual adds, and its released convolution exceeds 1
        stretch *= max([1.0, *(m.lipschitz for m in model.modules() if isinstance(m, SpectralConv2d))])
        x = torch.randn(64, *shape, dtype=torch.float64) / 10
        step = 1e-3 * torch.randn_like(x)
        quotient = (model(x + step) - model(x)).norm(dim=1) / step.flatten(1).norm(dim=1)
        assert float(quotient.detach().max()) <= stretch * (1 + 1e-4)
        jacobians = torch.func.vmap(torch.func.jacrev(lambda one, m=model: m(one[None])[0]))(x)
        assert float(torch.linalg.matrix_norm(jacobians.flatten(2), 2).max()) <= stretch * (1 + 1e-4)


@pytest.mark.parametrize("name", LIPSCHITZ_LOSSES)
def test_loss_constants_bound_the_gradient_and_are_approached(name):
    torch.manual_seed(2)
    many = name in ("tau-ce", "cosine")
    logits = torch.randn(4000, 3 if many else 1, dtype=torch.float64) * torch.logspace(-3, 2, 4000)[:, None]
    targets = torch.randint(3, (4000,)) if many else torch.randint(2, (4000,)) * 2.0 - 1
    if name == "cosine":
        # at right angles to the label, just outside the floor
        logits[0], targets[0] = torch.tensor([0.0, 0.5, 0.0]), 0
    options = {"tau-ce": {"tau": 7.0}, "cosine": {"floor": 0.5}, "hkr": {"alpha": 3.0}}.get(name, {})
    constant = loss_constant(name, **{key: value for key, value in options.items() if key != "tau"})
    gradients = vmap(grad(lambda z, y: LIPSCHITZ_LOSSES[name](z[None], y[None], **options)[0]))(logits, targets)
    largest = float(gradients.norm(dim=1).max())
    assert 0.99 * constant <= largest <= constant * (1 + 1e-9)


def test_bounds_follow_the_formulas():
    """Two spectral layers and a bias behind radius 2: X = 2, 2, 2.2; G = root 2, or the .5 of a clip."""
    for clip, g in ((None, math.sqrt(2)), (0.5, 0.5)):
        bounds = gradient_bounds(mlp(clip=clip), batch_size=10)
        assert bounds.parameters == pytest.approx({"1.weight": 0.2 * g, "2.bias": 0.1 * g, "4.weight": 0.22 * g})
        assert bounds.total == pytest.approx(math.hypot(0.2, 0.1, 0.22) * g)


def test_composition_of_layers_equals_several_mechanisms_on_one_batch():
    """For full batches composition is exact: Opacus's accountant with J mechanisms of sigma c_j against one of ours."""
    rule = LipschitzBound({"a": 3.0, "b": 0.5}, coefficients=[1.0, 2.0])
    theirs, ours = RDPAccountant(), Ledger()
    for _ in range(7):
        for coefficient in (1.0, 2.0):
            theirs.step(noise_multiplier=4 * coefficient, sample_rate=1.0)
        ours.step(rule.multiplier(4.0), 1.0)
    assert ours.epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-6)
    assert rule.noise_stds(4.0) == pytest.approx((12.0, 4.0))
    default = LipschitzBound({"a": 3.0, "b": 0.5})
    assert default.multiplier(4.0) == pytest.approx(4.0)
    assert default.noise_stds(4.0) == pytest.approx((12 * math.sqrt(2), 2 * math.sqrt(2)))
    whole = LipschitzBound({"a": 3.0, "b": 4.0}, noise="global")
    assert (whole.multiplier(2.0), whole.noise_stds(2.0)) == (2.0, (10.0, 10.0))


def test_a_step_without_noise_is_plain_training_on_the_expected_batch():
    torch.manual_seed(3)
    model, twin = mlp(), mlp()
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(6, 12), torch.randint(5, (6,))
    optimizer = LipschitzOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.3), model, noise_multiplier=0.0, expected_batch_size=8, sample_rate=0.1
    )
    plain = torch.optim.SGD(twin.parameters(), lr=0.3)
    for _ in range(4):
        optimizer.zero_grad()
        tau_cross_entropy(model(x), y).sum().backward()
        optimizer.step()
        plain.zero_grad()
        (tau_cross_entropy(twin(x), y).sum() / 8).backward()
        plain.step()
        twin.project()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert optimizer.ledger.epsilon(1e-5) == math.inf


@pytest.mark.parametrize("noise", ["per-layer", "global"])
def test_noise_has_the_promised_deviation_and_an_empty_batch_counts(noise):
    model = mlp()
    optimizer = LipschitzOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model, noise_multiplier=2.0, expected_batch_size=5,
        sample_rate=0.1, noise=noise, generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    drawn = []
    for _ in range(40):
        optimizer.zero_grad()
        optimizer.step()
        drawn.append([p.grad.clone() for p in model.parameters()])
    bounds = gradient_bounds(model)
    for number, bound in enumerate(bounds.parameters.values()):
        expected = 2 * (math.sqrt(3) * bound if noise == "per-layer" else bounds.total) / 5
        assert float(torch.stack([d[number] for d in drawn]).std()) == pytest.approx(expected, rel=0.1)
    assert len(optimizer.ledger) == 40
    assert optimizer.ledger.epsilon(1e-5) == pytest.approx(Ledger([(2.0, 0.1, 40)]).epsilon(1e-5), rel=1e-9)


def test_without_a_generator_the_noise_does_not_follow_torchs_seed():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        model = mlp()
        state = torch.get_rng_state()
        optimizer = LipschitzOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0), model, noise_multiplier=2.0, expected_batch_size=5,
            sample_rate=0.1,
        )  # fmt: skip
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(model[1].weight.grad)
    assert not torch.equal(*drawn)


def test_one_sample_moves_the_noiseless_sum_by_at_most_the_bound():
    torch.manual_seed(5)
    model = mlp()
    bounds = gradient_bounds(model)
    x, y = 3 * torch.randn(10, 12), torch.randint(5, (10,))

    def summed(rows):
        model.zero_grad()
        tau_cross_entropy(model(x[rows]), y[rows]).sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    everything = summed(list(range(10)))
    for left_out in range(10):
        rest = summed([i for i in range(10) if i != left_out])
        moved = [float((a - b).norm()) for a, b in zip(everything, rest, strict=True)]
        assert all(m <= b * (1 + 1e-4) for m, b in zip(moved, bounds.parameters.values(), strict=True))


def test_the_logit_clip_follows_a_noisy_quantile_and_is_paid_for_jointly():
    model = mlp(clip=1.4)
    optimizer = LipschitzOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model, noise_multiplier=2.0, expected_batch_size=1000,
        sample_rate=0.1, generator=torch.Generator().manual_seed(6),
    )  # fmt: skip
    norms = torch.linspace(0, 1, 1000)
    before = optimizer.rule.clip_norms
    for number in range(60):
        coming = optimizer.adapt_logit_clip(norms, quantile=0.5, rate=0.3, multiplier=4.0)
        if number == 0:
            # the gradients at hand were clipped at the old limit, so the noise must still follow that
            assert model[-1].limit == 1.4
        optimizer.step()
        assert model[-1].limit == coming
    assert coming == pytest.approx(0.5, abs=0.03)
    assert optimizer.rule.clip_norms == pytest.approx([b * coming / 1.4 for b in before])
    joint = (2.0**-2 + 4.0**-2) ** -0.5
    assert [tuple(entry) for entry in optimizer.ledger] == [(pytest.approx(joint), 0.1, 60)]


def test_a_rule_beside_the_clips_refuses_gradients_above_the_bound():
    rule = LipschitzBound({"a": 3.0, "b": 4.0})
    torch.testing.assert_close(rule.scales(torch.tensor([[2.9, 4.0]])), torch.ones(1, 2))
    with pytest.raises(UsageError, match="exceeds its bound"):
        rule.scales(torch.tensor([[3.1, 1.0]]))
    assert rule.assign(["b", "a"]) == [1, 0]
    with pytest.raises(UsageError, match="bounds are for"):
        rule.assign(["a"])
    with pytest.raises(UsageError, match="coefficients"):
        LipschitzBound({"a": 1.0}, coefficients=[1.0, 2.0])


def test_unknown_layers_and_unprojected_weights_are_refused():
    with pytest.raises(NotSupported, match="SpectralLinear"):
        LipschitzSequential(BoundedInput(1.0), nn.Linear(3, 3))
    with pytest.raises(UsageError, match="BoundedInput"):
        LipschitzSequential(SpectralLinear(3, 3))
    with pytest.raises(UsageError, match="last layer"):
        LipschitzSequential(BoundedInput(1.0), ClipLogitGradient(1.0), SpectralLinear(3, 3))
    with pytest.raises(NotSupported, match="LipschitzSequential"):
        gradient_bounds(nn.Sequential(nn.ReLU()))
    model = mlp()
    with torch.no_grad():
        model[1].weight.mul_(1.01)
    with pytest.raises(UsageError, match="project"):
        gradient_bounds(model)
    inner = torch.optim.SGD(list(model.parameters())[:1], lr=0.1)
    with pytest.raises(UsageError, match="exactly the parameters"):
        LipschitzOptimizer(inner, model, noise_multiplier=1.0, expected_batch_size=1, sample_rate=0.1)
    mean = LipschitzSequential(BoundedInput(1.0), SpectralLinear(3, 3), ClipLogitGradient(1.0))
    with pytest.raises(UsageError, match="reduction='sum'"):
        LipschitzOptimizer(
            torch.optim.SGD(mean.parameters(), lr=0.1),
            mean,
            noise_multiplier=1.0,
            expected_batch_size=1,
            sample_rate=0.1,
        )
    with pytest.raises(UsageError, match="one of"):
        loss_constant("mse")
    with pytest.raises(UsageError, match="one output"):
        LIPSCHITZ_LOSSES["hinge"](torch.zeros(2, 3), torch.ones(2))
