"""Randomised smoothing against the exact radius of linear classifiers, SciPy's interval and its own bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.robust import ABSTAIN, Certificate, RandomizedSmoothing

SIGMA = 0.25


class Linear(nn.Module):
    """Logits (0, w x + b): smoothed, its class holds up to exactly |w x + b| / |w|."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(48, generator=torch.Generator().manual_seed(0)))
        self.bias, self.modes = bias, set[bool]()

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add(self.training)
        score = x.flatten(1) @ self.w + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_radius_is_below_the_exact_one_and_nears_it() -> None:
    model, images = Linear(), pictures()
    score = model(images)[:, 1]
    exact = score.abs() / model.w.norm()
    right = (score > 0).long()
    few, many = (RandomizedSmoothing(model, SIGMA, box=None).certify(images, n=n) for n in (200, 20_000))
    for found in (few, many):
        sure = found.classes != ABSTAIN
        assert torch.equal(found.classes[sure], right[sure])
        assert (found.radius <= exact).all()
        assert (found.radius[~sure] == 0).all()
    # Far out all draws agree, and the bound of the draws is reached: those images say nothing here.
    inside = (exact > 0.02) & (exact < 2.5 * SIGMA)
    assert inside.sum() >= 3
    assert (many.radius[inside] > exact[inside] - 0.04).all()
    assert (many.radius[inside] > few.radius[inside]).all()
    assert many.accuracy(right) == pytest.approx(float((many.classes != ABSTAIN).float().mean()))
    assert many.accuracy(right, radius=10.0) == many.accuracy(1 - right) == 0


def test_the_bound_is_clopper_and_pearsons_and_all_agreeing_draws_give_the_most() -> None:
    n, alpha = 300, 0.001
    model = Linear(bias=1e3)
    found = RandomizedSmoothing(model, SIGMA).certify(pictures(2), n0=10, n=n, alpha=alpha)
    assert found.classes.tolist() == [1, 1]
    assert float(found.radius[0]) == pytest.approx(SIGMA * norm.ppf(alpha ** (1 / n)), rel=1e-5)
    told = binomtest(n, n, alternative="greater").proportion_ci(1 - alpha, "exact")
    assert float(found.lower[0]) == pytest.approx(told.low, rel=1e-6)

    class Often(nn.Module):
        """Says 1 in seven of eight calls with one draw each."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.eye(2)[[int(self.calls % 8 != 0)]]

    found = RandomizedSmoothing(Often(), SIGMA, batch_size=1).certify(pictures(1), n0=8, n=400, alpha=0.01)
    told = binomtest(350, 400, alternative="greater").proportion_ci(0.99, "exact")
    assert float(found.lower) == pytest.approx(told.low, rel=1e-6)
    assert float(found.radius) == pytest.approx(SIGMA * norm.ppf(told.low), rel=1e-5)


def test_draws_that_choose_are_not_those_that_count() -> None:
    seen = []

    def predictor(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return torch.ones(len(x), 1)

    images = torch.zeros(1, 3, 4, 4)
    RandomizedSmoothing(predictor, SIGMA, box=None).certify(images, n0=50, n=50)
    assert [len(part) for part in seen] == [50, 50]
    assert torch.cdist(*(part.flatten(1) for part in seen)).min() > 0.1
    drawn = torch.cat(seen)
    assert float(drawn.std()) == pytest.approx(SIGMA, rel=0.05)
    assert drawn.min() < -0.3
    # A predictor of pixels sees pixels, a denoiser all of the noise.
    ranges = []
    RandomizedSmoothing(predictor, SIGMA, denoise=lambda x: ranges.append(x) or x).certify(images, n0=50, n=50)
    assert torch.equal(ranges[1], seen[1])
    assert torch.equal(seen[3], seen[1].clamp(0, 1))


def test_without_noise_to_speak_of_it_is_the_classifier_and_on_the_border_it_abstains() -> None:
    model, images = Linear(), pictures()
    answers = model(images).argmax(1)
    assert torch.equal(RandomizedSmoothing(model, 1e-6).predict(images), answers)
    with torch.no_grad():
        model.bias = -float(model(images[:1])[0, 1])
    smooth = RandomizedSmoothing(model, SIGMA, box=None)
    assert smooth.predict(images[:1]).tolist() == [ABSTAIN]
    border = smooth.certify(images[:1], n=500)
    assert (border.classes.tolist(), border.radius.tolist()) == ([ABSTAIN], [0.0])


def test_a_denoiser_stands_before_the_classifier_and_modes_come_back() -> None:
    model, images = Linear(), pictures(2)
    model.train()
    clean = images[:1]
    smooth = RandomizedSmoothing(model, 1.0, denoise=lambda x: clean.expand_as(x))
    found = smooth.certify(clean, n=100)
    assert found.classes.tolist() == model(clean).argmax(1).tolist()
    assert float(found.radius) == pytest.approx(norm.ppf(0.001 ** (1 / 100)), rel=1e-5)
    assert model.training
    assert False in model.modes
    assert model.w.requires_grad
    again = RandomizedSmoothing(model, SIGMA, batch_size=7)
    assert torch.equal(again.certify(images, n=100).lower, again.certify(images, n=100).lower)


@pytest.mark.parametrize(
    ("settings", "call", "said"),
    [
        ({"sigma": 0.0}, {}, "sigma must be above 0, got 0.0"),
        ({"sigma": math.nan}, {}, "sigma must be a finite number above 0, got nan"),
        ({"batch_size": 0}, {}, "batch_size"),
        ({"box": (1.0, 0.0)}, {}, "box is"),
        ({}, {"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({}, {"alpha": 1.0}, "alpha is 1.0"),
        ({}, {"images": torch.rand(3, 4, 4)}, r"images must be float \(B, 3, H, W\)"),
        ({}, {"images": torch.rand(0, 3, 4, 4)}, "images must be"),
    ],
)
def test_what_cannot_be_certified_is_said(settings: dict[str, Any], call: dict[str, Any], said: str) -> None:
    call = {"images": pictures(1), **call}
    with pytest.raises(UsageError, match=said):
        RandomizedSmoothing(Linear(), **{"sigma": SIGMA, **settings}).certify(call.pop("images"), **call)


def test_accuracy_counts_abstentions_as_wrong() -> None:
    found = Certificate(torch.tensor([1, ABSTAIN, 0]), torch.tensor([0.5, 0.0, 0.1]), torch.tensor([0.9, 0.4, 0.6]))
    labels = torch.tensor([1, 1, 1])
    assert found.accuracy(labels) == pytest.approx(1 / 3)
    assert found.accuracy(labels, 0.6) == 0
