"""Deep perceptrons on digits start at the fixed point; a loss that is no number ends their training."""

from __future__ import annotations

import pytest
import torch

from binderclip.compress import critical_init
from binderclip.studies.protocols.training import deep_digits


def test_pictures_and_all_layers_start_at_the_fixed_point() -> None:
    x, _, test, _ = deep_digits.pictures()
    for part in (x, test):
        torch.testing.assert_close(part.square().mean(1), torch.ones(len(part)))
    init = critical_init("relu", 0.85, v_prime=0.7)
    model = deep_digits.network(init, x.shape[1], torch.Generator().manual_seed(0))
    assert len(model) == 2 * deep_digits.LAYERS - 1
    with torch.no_grad():
        first, last = model[0](x).square().mean(), model[:-2](x).square().mean()
    assert float(first) == pytest.approx(1, abs=0.1)
    assert float(last) == pytest.approx(1, abs=0.5)


def test_a_network_whose_loss_is_no_number_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_digits, "STEPS", 20)
    right, zeros = deep_digits.train(critical_init("soft", 0.85), seed=0)
    assert right < 0.15
    assert 0 <= zeros < 0.2


def test_a_network_with_a_clip_stays_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_digits, "STEPS", 5)
    _, zeros = deep_digits.train(critical_init("relu", 0.85, v_prime=0.7), seed=0)
    assert zeros == pytest.approx(0.85, abs=0.05)
