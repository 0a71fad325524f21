"""The two-feature model of p175 (arXiv 2403.11497): the minimiser against a descent, limits in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from binderclip.errors import UsageError
from binderclip.evaluate import SpuriousPairs, linear_contrastive, spurious_pairs
from binderclip.evaluate.probes.spurious import class_weight


def weight_at(agreement: float, spurious: float = 1.0, n: int = 100_000) -> tuple[np.ndarray, SpuriousPairs]:
    made = spurious_pairs(n, agreement=agreement, spurious=spurious)
    return class_weight(linear_contrastive(made.images, made.texts), agreement), made


def test_the_minimiser_is_where_a_descent_ends() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 4)) + 3
    texts = images @ rng.normal(size=(4, 3)) + rng.normal(size=(50, 3))
    made = linear_contrastive(images, texts, rank=2, penalty=0.5)
    covariance = torch.tensor(np.cov(images.T, texts.T, bias=True)[:4, 4:])
    image, text = (torch.tensor(rng.normal(size=(2, d)) * 0.1, requires_grad=True) for d in (4, 3))
    descent = torch.optim.LBFGS([image, text], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        value = -(image @ covariance @ text.T).trace() + 0.25 * (image.T @ text).square().sum()
        value.backward()
        return value

    descent.step(loss)
    np.testing.assert_allclose(made, (image.T @ text).detach().numpy(), atol=1e-4)


def test_weights_are_the_closed_form_of_the_model() -> None:
    for agreement in (0.5, 0.8, 0.95, 1.0):
        c = 2 * agreement - 1
        found, _ = weight_at(agreement, spurious=1.5)
        # S = [[m, m c], [n c, n]] with strengths m, n, and a text of the class alone is (1, c).
        np.testing.assert_allclose(found, [1 + c**2, 1.5 * 2 * c], atol=0.02)


def test_errors_are_those_of_a_gaussian_and_grow_with_the_agreement() -> None:
    minority = []
    for agreement in (0.5, 0.8, 0.95):
        weight, made = weight_at(agreement)
        for error, sign in zip(made.errors(weight), (1, -1), strict=True):
            margin = (weight[0] + sign * weight[1]) / (0.5 * np.linalg.norm(weight))
            assert error == pytest.approx(norm.cdf(-margin), abs=0.01)
        minority.append(made.errors(weight)[1])
    assert minority == sorted(minority)
    invariant = made.errors(np.array([1.0, 0.0]))[1]
    assert minority[-1] > invariant + 0.1


def test_a_stronger_spurious_feature_that_always_agreed_is_all_that_counts() -> None:
    made = spurious_pairs(20_000, agreement=1.0, spurious=3.0, noise=0.1)
    weight = class_weight(linear_contrastive(made.images, made.texts), 1.0)
    against = spurious_pairs(2000, agreement=0.0, spurious=3.0, noise=0.1)
    assert against.errors(weight)[1] == 1
    assert np.isnan(against.errors(weight)[0])


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="agreement 2"):
        spurious_pairs(5, agreement=2)
    with pytest.raises(UsageError, match="3 images, 2 texts"):
        linear_contrastive(np.ones((3, 2)), np.ones((2, 2)))
