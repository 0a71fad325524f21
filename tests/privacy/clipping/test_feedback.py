"""p001, DiceSGD: the telescoping identity, limits, and the fixed point on least squares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.privacy import AdaptiveClip, DiceFeedback, DiceSGD, FlatClip, PrivateOptimizer, train_softmax_head


def sums(step: int, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped and raw sum of 10 samples' gradients."""
    grads = torch.randn(10, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64) + 0.4
    scale = (clip / grads.norm(dim=1)).clamp(max=1)
    return (grads * scale[:, None]).sum(0), grads.sum(0)


def test_released_updates_and_the_last_error_add_up_to_the_raw_gradients() -> None:
    feedback = DiceFeedback(0.7)
    given, raw_total = torch.zeros(6).double(), torch.zeros(6).double()
    error = torch.zeros(6).double()
    for step in range(50):
        clipped, raw = sums(step, 0.5)
        v = feedback.combine([clipped], [raw], 10.0)[0] / 10
        # what makes it more than bookkeeping: a clipped copy of the error goes out with the gradient
        fed = error * min(1.0, 0.7 / float(error.norm().clamp(min=1e-12)))
        torch.testing.assert_close(v, clipped / 10 + fed, rtol=0, atol=1e-12)
        # the other form of the update of e
        error = error + raw / 10 - v
        given, raw_total = given + v, raw_total + raw / 10
        assert feedback.error is not None
        torch.testing.assert_close(feedback.error[0], error, rtol=0, atol=1e-12)
    torch.testing.assert_close(given + feedback.error[0], raw_total, rtol=0, atol=1e-12)


def test_without_clipping_the_error_stays_zero_and_without_feedback_it_is_unused() -> None:
    feedback, none = DiceFeedback(1.0), DiceFeedback(0.0)
    for step in range(5):
        clipped, raw = sums(step, 1e9)
        assert torch.equal(feedback.combine([clipped], [raw], 10.0)[0], clipped)
        small, raw = sums(step, 0.1)
        assert torch.equal(none.combine([small], [raw], 10.0)[0], small)
    assert feedback.error is not None
    assert float(feedback.error[0].norm()) == 0
    assert none.error is not None
    assert float(none.error[0].norm()) > 0
    assert none.sensitivity(2.0) == 2.0


def test_the_released_form_caps_what_it_keeps() -> None:
    feedback = DiceFeedback(0.3, convention="sum")
    error: Tensor | None = None
    for step in range(30):
        clipped, raw = sums(step, 0.5)
        out = feedback.combine([clipped], [raw], 10.0)[0]
        if error is None:
            want, error = clipped, raw - clipped
        else:
            ratio = 0.3 / (error.norm() + 1e-6)
            alpha = min(1.0, float(ratio))
            want = clipped + alpha * error
            error = min(float(ratio), 1 - alpha) * error + raw - clipped
        torch.testing.assert_close(out, want)
    assert feedback.sensitivity(0.5) == pytest.approx(math.sqrt(0.25 + 2 * 0.5 * 0.3))
    assert DiceFeedback(0.3).sensitivity(0.5) == pytest.approx(math.sqrt(0.25 + 2 * 0.09))


def test_its_fixed_point_is_least_squares_where_clipping_alone_is_biased() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(128, 3, generator=generator), torch.ones(128, 1)], 1).double()
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.3]).double() + 0.1 * torch.randn(128, generator=generator)
    y[:30] += 6
    exact = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    distances = {}
    for name in ("clip", "dice"):
        model = nn.Linear(4, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        inner = torch.optim.SGD(model.parameters(), lr=0.5)
        settings = {"model": model, "sample_rate": 1.0, "check": "never"}
        if name == "dice":
            optimizer = DiceSGD(inner, 0.5, 0.5, noise_multiplier=0.0, expected_batch_size=128, **settings)
        else:
            optimizer = PrivateOptimizer(inner, FlatClip(0.5), 0.0, 128, **settings)
        for _ in range(300):
            optimizer.backward(0.5 * (model(x)[:, 0] - y) ** 2)
            optimizer.step()
        distances[name] = float((model.weight[0] - exact).detach().norm())
    assert distances["dice"] < 1e-6
    assert distances["clip"] > 0.3


def test_noise_never_enters_the_error_and_follows_the_larger_sensitivity() -> None:
    model = nn.Linear(300, 100)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = DiceSGD(
        inner, 0.5, 1.0, noise_multiplier=2.0, expected_batch_size=5, model=model, sample_rate=0.1,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    optimizer.step()
    assert isinstance(optimizer.feedback, DiceFeedback)
    assert optimizer.feedback.error is not None
    assert all(float(e.norm()) == 0 for e in optimizer.feedback.error)
    assert float(model.weight.grad.std()) == pytest.approx(2 * math.sqrt(0.25 + 2) / 5, rel=0.02)


def test_a_rule_that_pays_for_its_count_out_of_the_same_sigma_keeps_its_larger_noise() -> None:
    # sigma 2 shared between a count of noise 1.25 (multiplier 2.5) and the gradient: (2^-2 - 2.5^-2)^(-1/2) = 10 / 3
    def rule() -> AdaptiveClip:
        return AdaptiveClip(0.5, unclipped_num_std=1.25)

    model = nn.Linear(300, 100)
    optimizer = PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), rule(), 2.0, 5, model=model, sample_rate=0.1,
        feedback=DiceFeedback(1.0), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    optimizer.step()
    expected = 10 / 3 * math.sqrt(0.25 + 2)
    assert float(model.weight.grad.std()) == pytest.approx(expected / 5, rel=0.02)
    ((sigma, _, _),) = optimizer.ledger.entries
    assert sigma == pytest.approx(2.0)
    # rows without any gradient: the step is the noise alone
    run = train_softmax_head(
        torch.zeros(4, 20_000), torch.zeros(4, dtype=torch.long), 2, rule=rule(), noise_multiplier=2.0,
        sample_rate=1.0, steps=1, lr=1.0, feedback=DiceFeedback(1.0), bias=False,
    )  # fmt: skip
    assert float(run.weight.std()) == pytest.approx(expected / 4, rel=0.02)
    assert run.ledger.entries[0].noise_multiplier == pytest.approx(2.0)


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_a_record_that_filled_the_error_moves_later_sums_as_far_as_the_report_says(convention: str) -> None:
    # once with and once without a record of a huge gradient, which is drawn in the first step alone
    sent = []
    for sign in (1.0, -1.0):
        feedback = DiceFeedback(0.7, convention=convention)  # type: ignore[arg-type]
        huge, nothing = torch.tensor([sign * 1e6]), torch.zeros(1)
        feedback.combine([0.5 * torch.sign(huge)], [huge], 10.0)
        sent.append(feedback.combine([nothing], [nothing], 10.0)[0])
    moved = float((sent[0] - sent[1]).abs())
    assert moved == pytest.approx(2 * 0.7 * (10 if convention == "mean" else 1))


def test_bad_settings_and_states() -> None:
    with pytest.raises(UsageError, match="C2"):
        DiceFeedback(-1.0)
    with pytest.raises(UsageError, match="convention"):
        DiceFeedback(1.0, convention="total")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="error buffer"):
        DiceFeedback(1.0).load_state_dict({})
