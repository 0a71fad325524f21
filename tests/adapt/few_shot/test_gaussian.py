"""GaussianHead of p162 (A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation, arXiv 2402.04087)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, ortho_group
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from binderclip.adapt import GaussianHead, ZeroShotClassifier, class_statistics, shrunk_precision
from binderclip.errors import UsageError


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mixture(n: int, d: int = 6, classes: int = 4, spread: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit features with one shared, strongly anisotropic covariance."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(d, d)) * spread * np.linspace(0.2, 2, d)
    centres = 2 * rng.normal(size=(classes, d))
    y = np.repeat(np.arange(classes), n)
    return unit(centres[y] + rng.normal(size=(len(y), d)) @ shape.T), y


def test_logits_equal_the_formula_written_with_numpy() -> None:
    x, y = mixture(5)
    text = unit(np.random.default_rng(9).normal(size=(4, 6)))
    head = GaussianHead(text, classes=range(4), alpha=0.3, scale=80.0).fit(x, y)
    means = np.stack([x[y == c].mean(axis=0) for c in range(4)])
    residual = x - means[y]
    covariance = np.cov(residual.T)
    n, d = x.shape
    ridge = (n - 1) * covariance + np.trace(covariance) * np.eye(d)
    weight = d * np.linalg.solve(ridge, means.T)
    bias = np.log(1 / 4) - 0.5 * np.einsum("cd,dc->c", means, weight)
    query = unit(np.random.default_rng(3).normal(size=(7, d)))
    want = 80 * query @ text.T + 0.3 * (query @ weight + bias)
    np.testing.assert_allclose(head.decision_function(query), want, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(query @ head.coef_.T + head.intercept_, want, rtol=1e-9, atol=1e-9)


def test_many_samples_agree_with_linear_discriminant_analysis() -> None:
    x, y = mixture(500)
    query, _ = mixture(100, seed=1)
    ours = GaussianHead().fit(x, y).predict(query)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None, priors=[0.25] * 4).fit(x, y)
    assert (ours == lda.predict(query)).mean() > 0.99
    nearest = GaussianHead(precision="identity").fit(x, y).predict(query)
    assert (nearest == lda.predict(query)).mean() < 0.97  # the covariance matters here: the check has power


def test_log_odds_equal_those_of_the_normal_densities() -> None:
    x, y = mixture(20)
    head = GaussianHead().fit(x, y)
    covariance = np.linalg.inv(head.precision_.numpy())
    query = unit(np.random.default_rng(5).normal(size=(6, 6)))
    density = np.stack([multivariate_normal(m, covariance).logpdf(query) for m in head.means_.numpy()], axis=1)
    logits = head.decision_function(query)
    np.testing.assert_allclose(logits - logits[:, :1], density - density[:, :1], rtol=1e-7, atol=1e-7)


def test_rotating_all_features_changes_nothing() -> None:
    x, y = mixture(5)
    rotation = ortho_group(6, seed=0).rvs()
    text = unit(np.random.default_rng(2).normal(size=(4, 6)))
    plain = GaussianHead(text, classes=range(4)).fit(x, y)
    turned = GaussianHead(text @ rotation, classes=range(4)).fit(x @ rotation, y)
    np.testing.assert_allclose(turned.decision_function(x @ rotation), plain.decision_function(x), atol=1e-7)


def test_large_alpha_is_pure_discriminant_analysis() -> None:
    x, y = mixture(5)
    text = unit(np.random.default_rng(2).normal(size=(4, 6)))
    query, _ = mixture(30, seed=4)
    pure = GaussianHead().fit(x, y).predict(query)
    assert np.array_equal(GaussianHead(text, classes=range(4), alpha=1e9).fit(x, y).predict(query), pure)


def test_isotropic_covariance_gives_the_nearest_mean() -> None:
    # +-e_j around each centre: the scatter is a multiple of the identity by construction.
    d, step = 3, 0.1
    offsets = np.concatenate([step * np.eye(d), -step * np.eye(d)])
    centres = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    x = torch.from_numpy((centres[:, None] + offsets).reshape(-1, d))
    one_hot = torch.eye(2, dtype=torch.float64).repeat_interleave(6, dim=0)
    statistics = class_statistics(x, one_hot)
    precision = shrunk_precision(statistics.covariance, statistics.n)
    torch.testing.assert_close(precision, precision[0, 0] * torch.eye(d, dtype=torch.float64))
    torch.testing.assert_close(statistics.means, torch.from_numpy(centres))


def test_shrinkage_has_its_closed_form_for_a_diagonal_covariance() -> None:
    s = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    want = 3 / (9 * s + 2.5)
    torch.testing.assert_close(shrunk_precision(torch.diag(s), 10).diagonal(), want)
    torch.testing.assert_close(shrunk_precision(torch.zeros(2, 2), 1), 2 * torch.eye(2, dtype=torch.float64))
    with pytest.raises(UsageError, match="must be square"):
        shrunk_precision(torch.zeros(2, 3), 4)


def test_one_shot_without_spread_is_the_nearest_mean_and_finite() -> None:
    x, y = mixture(1)
    head = GaussianHead().fit(x, y)
    assert np.isfinite(head.decision_function(x)).all()
    assert np.array_equal(head.predict(x), y)
    torch.testing.assert_close(head.precision_, 6 * torch.eye(6, dtype=torch.float64))


def test_views_count_as_rows() -> None:
    x, y = mixture(4)
    views = np.stack([x, mixture(4, seed=8)[0]], axis=1)
    flat = GaussianHead().fit(views.reshape(-1, 6), np.repeat(y, 2))
    np.testing.assert_allclose(GaussianHead().fit(views, y).decision_function(x), flat.decision_function(x))


def test_alpha_is_the_first_best_of_the_grid_on_the_validation_split() -> None:
    x, y = mixture(4)
    text = unit(np.random.default_rng(2).normal(size=(4, 6)))
    x_val, y_val = mixture(10, seed=5)
    head = GaussianHead(text, classes=range(4)).fit(x, y, x_val, y_val)
    scores = [GaussianHead(text, classes=range(4), alpha=a).fit(x, y).score(x_val, y_val) for a in head.alphas]
    assert head.alpha_ == head.alphas[int(np.argmax(scores))]
    assert head.alpha == 1.0


def test_equal_and_empirical_priors_differ_by_the_log_share() -> None:
    x, y = mixture(8)
    keep = np.concatenate([np.flatnonzero(y == c)[: 2 * (c + 1)] for c in range(4)])
    equal = GaussianHead().fit(x[keep], y[keep])
    empirical = GaussianHead(priors="empirical").fit(x[keep], y[keep])
    gap = empirical.decision_function(x) - equal.decision_function(x)
    want = np.log(np.array([2, 4, 6, 8]) / 20) - np.log(1 / 4)
    np.testing.assert_allclose(gap, np.broadcast_to(want, gap.shape), atol=1e-9)


def test_two_rounds_of_em_equal_loops_over_normal_densities() -> None:
    x, _ = mixture(20, spread=0.4)
    text = unit(np.random.default_rng(1).normal(size=(4, 6)))
    prior = ZeroShotClassifier(text, classes=list("abcd"), scale=20.0).fit()
    share = prior.predict_proba(x)
    for _ in range(2):
        means = np.stack([np.average(x, axis=0, weights=share[:, c]) for c in range(4)])
        parts = [share[i, c] * np.outer(v, v) for c in range(4) for i, v in enumerate(x - means[c])]
        scatter = np.sum(parts, axis=0)
        precision = 6 * np.linalg.inv(scatter + np.trace(scatter) / (len(x) - 1) * np.eye(6))
        sizes = share.mean(axis=0)
        covariance = (scatter + np.trace(scatter) / (len(x) - 1) * np.eye(6)) / (len(x) - 1)
        density = [sizes[c] * multivariate_normal(means[c], covariance).pdf(x) for c in range(4)]
        share = np.stack(density, axis=1) / np.sum(density, axis=0)[:, None]
    head = GaussianHead(prior).fit_unlabelled(x, iterations=2)
    np.testing.assert_allclose(head.means_.numpy(), means, atol=1e-8)
    np.testing.assert_allclose(head.precision_.numpy(), precision, rtol=1e-6)
    with pytest.raises(UsageError, match="give text_prior"):
        GaussianHead().fit_unlabelled(x)


def test_em_corrects_a_biased_text_side() -> None:
    # Two tight clusters, and a text of the second that leans towards the first: zero-shot cuts in the wrong place.
    rng = np.random.default_rng(0)
    first, second = np.array([1.0, 0, 0]), unit(np.array([0.8, 0.6, 0]))
    y = np.repeat(["a", "b"], 100)
    x = unit(np.where((y == "a")[:, None], first, second) + 0.08 * rng.normal(size=(200, 3)))
    prior = ZeroShotClassifier({"a": np.array([0.9, -0.4, 0]), "b": np.array([0.98, 0.2, 0])}, scale=10.0).fit()
    assert prior.score(x, y) < 0.8
    assert GaussianHead(prior, alpha=100.0).fit_unlabelled(x, iterations=30).score(x, y) > 0.95


def test_new_classes_follow_the_recipe_of_the_paper() -> None:
    x, y = mixture(40, classes=6, spread=0.1)
    base = y < 4
    centres = np.stack([x[y == c].mean(axis=0) for c in range(6)])
    text = unit(centres + 0.05 * np.random.default_rng(0).normal(size=(6, 6)))
    names = np.array(list("abcdef"))
    head = GaussianHead(text[:4], classes=list("abcd"), alpha=0.1).fit(x[base], names[y[base]])
    new = head.new_classes(text[4:], classes=["e", "f"], neighbours=20, copies=5)
    means, precisions = [], []
    for t in text[4:]:
        near = x[base][np.argsort(-(x[base] @ t))[:20]]
        rows = np.concatenate([near, np.repeat(t[None], 5, axis=0)])
        means.append(rows.mean(axis=0))
        second = (rows - t).T @ (rows - t) / 19
        precisions.append(6 * np.linalg.pinv(19 * second + np.trace(second) * np.eye(6)))
    weight = np.stack(means) @ np.mean(precisions, axis=0)
    bias = np.log(0.5) - 0.5 * (weight * np.stack(means)).sum(axis=1)
    query = x[~base]
    want = 100 * query @ text[4:].T + 0.1 * (query @ weight.T + bias)
    np.testing.assert_allclose(new.predict_logits(query), want, rtol=1e-8, atol=1e-8)
    with pytest.raises(UsageError, match="neighbours must be at least 2"):
        head.new_classes(text[4:], classes=["e", "f"], neighbours=1)
