"""Gradient rules (p061, p142, p013) against hand-made vectors, closed forms on quadratics, and torch's own steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.optim import (
    NormalizedGradient,
    ProjectConflicting,
    SteerBySharpness,
    project_conflicting,
    steer_gradient,
)


def linear(task: list[float], general: list[float]) -> tuple[Tensor, object]:
    """A parameter whose two losses have exactly these gradients."""
    w = torch.zeros(len(task), requires_grad=True)
    return w, lambda: {"task": w @ torch.tensor(task), "general": w @ torch.tensor(general)}


@pytest.mark.parametrize(("strength", "expected"), [(1.0, [1.0, 0.0]), (0.5, [1.0, -0.5]), (0.0, [1.0, -1.0])])
@pytest.mark.parametrize("length", [1.0, 7.0])
def test_the_component_against_the_reference_goes_whatever_its_length(
    strength: float, expected: list[float], length: float
) -> None:
    w, losses = linear([1.0, -1.0], [0.0, length])
    rule = ProjectConflicting(strength)
    found = rule(losses, [w])
    assert set(found) == {"task", "general"}
    torch.testing.assert_close(w.grad, torch.tensor(expected))
    assert float(rule.conflict) == 1.0


def test_without_conflict_the_gradient_is_the_tasks_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    g = [torch.randn(5, 3, generator=generator)]
    same, share = project_conflicting(g, [g[0] + 0.1], strength=1.0)
    assert torch.equal(same[0], g[0])
    assert float(share) == 0.0
    assert torch.equal(project_conflicting(g, [torch.zeros(5, 3)])[0][0], g[0])


def test_granularity_decides_what_is_one_vector() -> None:
    g, r = [torch.tensor([1.0, 0.0]), torch.tensor([-1.0])], [torch.tensor([3.0, 0.0]), torch.tensor([1.0])]
    by_tensor, share = project_conflicting(g, r, granularity="tensor")
    assert by_tensor[0].tolist() == [1.0, 0.0]
    assert by_tensor[1].tolist() == [0.0]
    assert float(share) == 0.5
    whole, share = project_conflicting(g, r, granularity="global")  # <g, r> = 3 - 1 > 0
    assert [t.tolist() for t in whole] == [[1.0, 0.0], [-1.0]]
    assert float(share) == 0.0


def two_losses(seed: int) -> tuple[nn.Linear, object]:
    torch.manual_seed(seed)
    layer, x, y = nn.Linear(6, 4).double(), torch.randn(20, 6).double(), torch.randint(0, 4, (20,))
    # A teacher that believes in anything but the labels, for some seeds more than for others.
    teacher = (torch.randn(20, 4).double() - (seed % 4) * F.one_hot(y, 4)).softmax(-1)
    with torch.no_grad():
        layer.weight.mul_(0.3)

    def losses() -> dict[str, Tensor]:
        logits = layer(x)
        return {"task": F.cross_entropy(logits, y), "general": F.cross_entropy(logits, teacher)}

    return layer, losses


def test_a_projected_step_does_not_raise_the_reference_loss_to_first_order() -> None:
    conflicts = 0
    for seed in range(12):
        layer, losses = two_losses(seed)
        parameters = list(layer.parameters())
        rule = ProjectConflicting(granularity="global")
        before = rule(losses, parameters)["general"].item()
        general = torch.autograd.grad(losses()["general"], parameters)
        product = sum(float((p.grad * g).sum()) for p, g in zip(parameters, general, strict=True))
        assert product >= -1e-6
        task = torch.autograd.grad(losses()["task"], parameters)
        against = sum(float((t * g).sum()) for t, g in zip(task, general, strict=True))
        if against >= 0:
            continue
        conflicts += 1
        assert abs(product) < 1e-6
        rate, start = 1e-3, [p.detach().clone() for p in parameters]
        slopes = []
        for direction in (task, [p.grad for p in parameters]):
            with torch.no_grad():
                for p, value, d in zip(parameters, start, direction, strict=True):
                    p.copy_(value - rate * d)
            slopes.append((losses()["general"].item() - before) / rate)
        assert slopes[0] > 0.5 * -against
        assert abs(slopes[1]) < 0.05 * -against
    assert conflicts >= 3


def test_the_rate_of_conflict_is_the_mean_over_steps() -> None:
    rule = ProjectConflicting()
    for task in ([1.0, -1.0], [1.0, 1.0], [0.0, -1.0], [-1.0, 0.0]):
        w, losses = linear(task, [0.0, 1.0])
        rule(losses, [w])
    assert float(rule.conflict_rate) == 0.5


def test_any_loss_can_be_the_reference_and_all_others_are_the_task() -> None:
    w = torch.zeros(2, requires_grad=True)

    def losses() -> dict[str, Tensor]:
        return {"first": w[0] - w[1], "general": -w[1], "known": w[1]}

    ProjectConflicting(reference="known")(losses, [w])
    # the task's (1, -2) without its part against (0, 1)
    assert w.grad.tolist() == [1.0, 0.0]
    w.grad = None
    ProjectConflicting()(losses, [w])
    # the task's (1, 0) does not conflict with (0, -1)
    assert w.grad.tolist() == [1.0, 0.0]


def test_the_reference_must_be_among_the_losses() -> None:
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(UsageError, match="needs a loss 'general' and another, got task"):
        ProjectConflicting()(lambda: {"task": w.sum()}, [w])
    with pytest.raises(UsageError, match="granularity 'row' is unknown: one of tensor, global"):
        ProjectConflicting(granularity="row")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="strength must be at least 0"):
        ProjectConflicting(-1.0)


# -- steering by sharpness -------------------------------------------------------------------------------------------


def quadratic() -> tuple[Tensor, Tensor, object]:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    x = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, hessian, lambda: {"task": 0.5 * x @ hessian @ x}


def expected(g: Tensor, s: Tensor, rule: str, strength: float) -> Tensor:
    """The rules written again, in NumPy's way, for one vector."""
    u = s / s.norm()
    along = (g @ u) * u
    if rule == "sam":
        return s
    if rule == "blend":
        return (1 - strength) * g + strength * s
    if g @ u < 0:
        return g - along
    return along + (1 - (strength if rule == "steer" else 0.0)) * (g - along)


@pytest.mark.parametrize("rule", ["steer", "project", "blend", "sam"])
@pytest.mark.parametrize("keep_norm", [True, False])
def test_on_a_quadratic_both_gradients_are_known(rule: str, keep_norm: bool) -> None:
    x, hessian, losses = quadratic()
    before = x.detach().clone()
    steering = SteerBySharpness(0.3, rule, 0.7, keep_norm)  # type: ignore[arg-type]
    found = steering(losses, [x])
    g = hessian @ before
    s = hessian @ (before + 0.3 * g / g.norm())
    want = expected(g, s, rule, 0.7)
    want = want * g.norm() / want.norm() if keep_norm else want
    torch.testing.assert_close(x.grad, want, rtol=1e-6, atol=1e-9)
    assert torch.equal(x.detach(), before)
    torch.testing.assert_close(found["task"], 0.5 * before @ hessian @ before)
    torch.testing.assert_close(steering.cosine, F.cosine_similarity(g, s, dim=0), check_dtype=False)
    torch.testing.assert_close(steering.mean_cosine, steering.cosine, check_dtype=False)


def test_limits_of_strength_and_rho() -> None:
    generator = torch.Generator().manual_seed(2)
    g = [torch.randn(4, generator=generator), torch.randn(2, 3, generator=generator)]
    s = [t + 0.5 * torch.randn(t.shape, generator=generator) for t in g]
    plain = steer_gradient(g, s, strength=0.0, keep_norm=False)
    assert all(torch.equal(a, b) for a, b in zip(plain, g, strict=True))
    full = torch.cat([t.flatten() for t in steer_gradient(g, s, strength=1.0)])
    torch.testing.assert_close(F.cosine_similarity(full, torch.cat([t.flatten() for t in s]), dim=0), torch.tensor(1.0))
    torch.testing.assert_close(full.norm(), torch.cat([t.flatten() for t in g]).norm())
    x, hessian, losses = quadratic()
    plain_g = hessian @ x.detach()
    gaps = []
    for rho in (1e-2, 1e-3):
        SteerBySharpness(rho, "steer", 0.5)(losses, [x])
        gaps.append(float((x.grad - plain_g).norm()))
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.1)  # O(rho)


def test_an_exact_conflict_gives_nothing_and_zero_gradients_stay_zero() -> None:
    g = [torch.tensor([0.3, -0.7, 1.1])]
    out = steer_gradient(g, [-2.0 * g[0]])[0]
    assert out.norm() < 1e-6
    zero = [torch.zeros(3)]
    assert torch.equal(steer_gradient(zero, g)[0], zero[0])
    assert torch.equal(steer_gradient(g, zero)[0], g[0])
    opposed = steer_gradient([torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 1.0])], keep_norm=False)
    assert opposed[0].tolist() == [1.0, 0.0]


def test_both_passes_see_the_same_dropout_and_the_stream_goes_on() -> None:
    layer, x = nn.Linear(8, 1), torch.randn(16, 8)
    masks: list[Tensor] = []

    def losses() -> dict[str, Tensor]:
        masks.append(F.dropout(torch.ones(16, 8), 0.5))
        return {"task": layer(x * masks[-1]).square().mean()}

    torch.manual_seed(3)
    rule = SteerBySharpness()
    rule(losses, list(layer.parameters()))
    rule(losses, list(layer.parameters()))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[1], masks[2])
    torch.manual_seed(3)
    assert torch.equal(F.dropout(torch.ones(16, 8), 0.5), masks[0])
    assert torch.equal(F.dropout(torch.ones(16, 8), 0.5), masks[2])


def test_a_failing_second_pass_leaves_the_weights() -> None:
    w, calls = torch.ones(2, requires_grad=True), []

    def losses() -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return {"task": w.square().sum()}

    with pytest.raises(RuntimeError, match="out of memory"):
        SteerBySharpness(rho=1.0)(losses, [w])
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": -1.0}, "rho must be at least 0"),
        ({"rule": "swap"}, "rule 'swap' is unknown: one of steer, project, blend, sam"),
        ({"strength": 1.5}, r"strength must be in \[0, 1\]"),
        ({"granularity": "row"}, "granularity 'row'"),
    ],
)
def test_bad_steering_is_named(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SteerBySharpness(**options)


# -- normalised gradients --------------------------------------------------------------------------------------------


def test_scaling_the_loss_changes_no_step() -> None:
    ends = []
    for factor in (1.0, 1e-4, 1e4):
        torch.manual_seed(0)
        layer, x, y = nn.Linear(4, 1), torch.randn(16, 4), torch.randn(16, 1)
        fit(
            lambda batch, layer=layer, factor=factor: factor * F.mse_loss(layer(batch[0]), batch[1]),
            layer,
            [(x, y)],
            steps=10,
            optimizer="sgd",
            lr=0.1,
            schedule="constant",
            grad_transform=NormalizedGradient(),
        )
        ends.append(torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-4, atol=1e-5)


def test_normalised_by_tensor_or_together() -> None:
    a, b, c = (torch.zeros(n, requires_grad=True) for n in (2, 1, 3))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    NormalizedGradient()([a, b, c])
    torch.testing.assert_close(a.grad, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(b.grad, torch.tensor([1.0]))
    assert c.grad is None
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    NormalizedGradient("global")([("a", a), ("b", b)])
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([3.0, 4.0, 12.0]) / 13)
    a.grad = torch.zeros(2)
    NormalizedGradient()(a)
    assert a.grad.tolist() == [0.0, 0.0]
    assert math.isfinite(float(a.grad.sum()))
