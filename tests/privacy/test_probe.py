"""p143: the private linear probe."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from binderclip.errors import UsageError
from binderclip.privacy import (
    AdaptiveClip,
    DiceFeedback,
    FlatClip,
    GroupClip,
    PrivateLinearProbe,
    PrivateOptimizer,
    private_linear_probe,
    train_softmax_head,
)


@pytest.mark.parametrize("kind", ["flat", "adaptive", "dice"])
def test_closed_form_steps_equal_the_private_optimizer_on_a_linear_layer(kind: str) -> None:
    torch.manual_seed(0)
    h, y = torch.randn(40, 5), torch.randint(0, 3, (40,))
    rule = {"adaptive": lambda: AdaptiveClip(0.4)}.get(kind, lambda: FlatClip(0.4))
    feedback = (lambda: DiceFeedback(0.5)) if kind == "dice" else (lambda: None)
    settings = {"noise_multiplier": 0.0, "sample_rate": 1.0, "steps": 6, "lr": 0.7}
    run = train_softmax_head(h, y, 3, rule=rule(), feedback=feedback(), **settings)  # type: ignore[arg-type]
    layer = nn.Linear(5, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=0.7), rule(), 0.0, 40, model=layer, sample_rate=1.0, feedback=feedback()
    )
    for _ in range(6):
        optimizer.backward(F.cross_entropy(layer(h), y, reduction="none"))
        optimizer.step()
    torch.testing.assert_close(run.weight, layer.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.bias, layer.bias.detach(), rtol=1e-4, atol=1e-6)
    assert run.clip_norm == pytest.approx(optimizer.rule.clip_norms[0], rel=1e-5)


def test_large_thresholds_never_clip_and_small_ones_give_unit_gradients() -> None:
    torch.manual_seed(0)
    h, y = F.normalize(torch.randn(30, 5), dim=-1), torch.randint(0, 3, (30,))
    settings = {"noise_multiplier": 0.0, "sample_rate": 1.0, "lr": 1.0, "steps": 1}
    free = train_softmax_head(h, y, 3, rule=FlatClip(2.001), **settings)  # type: ignore[arg-type]
    assert free.clipped == 0
    small = train_softmax_head(h, y, 3, rule=FlatClip(1e-4), **settings)  # type: ignore[arg-type]
    assert small.clipped == 1
    residual = torch.full((30, 3), 1 / 3) - F.one_hot(y, 3)
    x = torch.cat([h, torch.ones(30, 1)], 1)
    unit = (residual[:, :, None] * x[:, None, :]).flatten(1)
    mean = (unit / unit.norm(dim=1, keepdim=True)).mean(0).view(3, 6)
    torch.testing.assert_close(small.weight / 1e-4, -mean[:, :-1], rtol=1e-4, atol=1e-6)


def test_without_a_seed_two_runs_draw_other_batches_and_noise() -> None:
    h, y = torch.ones(40, 5), torch.zeros(40, dtype=torch.long)
    settings = {"rule": FlatClip(1.0), "sample_rate": 0.5, "steps": 1, "lr": 1.0}
    for noise in (0.0, 1.0):
        # without noise only the size of the batch can differ, which it does in some of a few draws
        found = {
            float(train_softmax_head(h, y, 3, noise_multiplier=noise, seed=None, **settings).weight[0, 0])  # type: ignore[arg-type]
            for _ in range(12)
        }
        assert len(found) > 1
    fixed = {
        float(train_softmax_head(h, y, 3, noise_multiplier=1.0, seed=4, **settings).weight[0, 0])  # type: ignore[arg-type]
        for _ in range(3)
    }
    assert len(fixed) == 1


def test_clipped_gradients_point_at_the_minimiser_of_an_interpolated_problem() -> None:
    # <clip(g_i), w - w*> >= min(1, tau / G_i) (f_i(w) - f_i*), for squares that w* solves exactly
    generator = torch.Generator().manual_seed(0)
    x, best = torch.randn(50, 8, generator=generator), torch.randn(8, generator=generator)
    for _ in range(20):
        w = best + torch.randn(8, generator=generator)
        error = x @ (w - best)
        grads = error[:, None] * x
        scale = (0.5 / grads.norm(dim=1)).clamp(max=1)
        left = (grads * scale[:, None]) @ (w - best)
        assert bool((left >= scale * 0.5 * error.square() - 1e-6).all())


def test_the_probe_learns_digits_within_its_budget_and_is_reproducible() -> None:
    x, y = load_digits(return_X_y=True)
    probe = private_linear_probe(x[:1400] / 16, y[:1400], 4.0, 1e-5)
    assert probe.score(x[1400:] / 16, y[1400:]) > 0.85
    assert 3.9 < probe.report_.epsilon <= 4.0
    assert probe.tau_ == pytest.approx(0.5)
    again = private_linear_probe(x[:1400] / 16, y[:1400], 4.0, 1e-5)
    assert np.array_equal(again.coef_, probe.coef_)
    assert len(probe.ledger_) == 200
    logits = probe.logits(torch.tensor(x[:5], requires_grad=True))
    assert logits.requires_grad
    np.testing.assert_allclose(probe.decision_function(x[:5]), logits.detach().numpy())


def test_it_is_a_scikit_learn_estimator() -> None:
    results = check_estimator(PrivateLinearProbe(8.0, 1e-3, steps=50), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}


def test_for_two_classes_the_decision_is_the_lead_of_the_second() -> None:
    x, y = load_digits(n_class=2, return_X_y=True)
    probe = private_linear_probe(x / 16, np.array(["zero", "one"])[y], 4.0, 1e-4)
    logits, lead = probe.predict_logits(x), probe.decision_function(x)
    np.testing.assert_allclose(lead, logits[:, 1] - logits[:, 0])
    assert np.array_equal(probe.predict(x), np.where(lead > 0, "zero", "one"))


def test_the_columns_of_a_data_frame_are_remembered() -> None:
    x, y = load_digits(n_class=2, return_X_y=True)
    frame = pa.table({f"f{i}": column for i, column in enumerate((x / 16)[:, 10:20].T)})
    probe = PrivateLinearProbe(8.0, 1e-3, steps=5).fit(frame, y)
    assert list(probe.feature_names_in_) == frame.column_names
    with pytest.raises(ValueError, match="feature names should match"):
        probe.predict(frame.select(frame.column_names[::-1]))


def test_mistakes_are_named() -> None:
    x, y = np.eye(6), np.arange(6) % 2
    with pytest.raises(UsageError, match="private"):
        PrivateLinearProbe(1.0, 1e-3, normalize=False).fit(x, y)
    with pytest.raises(UsageError, match="does not name"):
        PrivateLinearProbe(1.0, 1e-3, classes=[0, 5]).fit(x, y)
    with pytest.raises(UsageError, match="one group"):
        train_softmax_head(
            torch.eye(4), torch.arange(4) % 2, 2, rule=GroupClip({"a": 1.0, "b": 1.0}), noise_multiplier=1.0,
            sample_rate=0.5, steps=1, lr=1.0,
        )  # fmt: skip
