"""Exact denoisers: against conditioning by hand, torch's distributions, autograd, and least squares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from binderclip.errors import UsageError
from binderclip.generate import (
    ConditionalDenoiser,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    MixtureDenoiser,
    NoiseSchedule,
)
from binderclip.generate.denoisers.exact import ExactDenoiser

SIGMA = torch.tensor([0.05, 0.7, 30.0], dtype=torch.float64)


def covariance(seed: int, size: int = 4) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / size


def mean(seed: int) -> Tensor:
    return torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int) -> GaussianDenoiser:
    return GaussianDenoiser(mean(seed), covariance(seed))


def points(seed: int = 9, count: int = 3) -> Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
DENOISERS: dict[str, ExactDenoiser] = {
    "gaussian": gaussian(0),
    "mixture of gaussians": GaussianMixtureDenoiser([gaussian(0), gaussian(1), gaussian(2)], WEIGHTS),
    "points": MixtureDenoiser(points(5), WEIGHTS),
    "conditional": ConditionalDenoiser({None: gaussian(3)}),
}


def test_a_gaussian_denoiser_is_conditioning_of_the_joint_distribution() -> None:
    denoiser, x = gaussian(0), points()
    for level in SIGMA:
        # (x_0, x) is jointly normal, both with mean mu; cov(x_0, x) = S, var(x) = S + sigma^2.
        gain = covariance(0) @ torch.linalg.inv(covariance(0) + level**2 * torch.eye(4))
        expected = mean(0).flatten() + (x - mean(0)).flatten(1) @ gain.T
        torch.testing.assert_close(denoiser.denoise(x, level.expand(3)).flatten(1), expected)
        posterior = covariance(0) - gain @ covariance(0)
        torch.testing.assert_close(level**2 * denoiser.filter(float(level)), posterior)


def test_it_is_the_best_linear_denoiser_of_its_samples() -> None:
    clean = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    denoiser = GaussianDenoiser.fit(clean)
    rows = clean.flatten(1) - clean.flatten(1).mean(0)
    # Least squares of x_0 on x_0 + sigma eps, its expectation over eps taken: ridge with N sigma^2.
    ridge = torch.linalg.solve(rows.T @ rows + 200 * 0.3**2 * torch.eye(4), rows.T @ rows)
    torch.testing.assert_close(denoiser.filter(0.3), ridge.T)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_noise_is_the_gradient_of_the_log_density(name: str) -> None:
    denoiser = DENOISERS[name]
    x = points().requires_grad_()
    score = torch.autograd.grad(denoiser.log_density(x, SIGMA).sum(), x)[0]
    level = SIGMA[:, None, None, None]
    torch.testing.assert_close(denoiser.noise(x, SIGMA), -level * score)
    torch.testing.assert_close(denoiser.denoise(x, SIGMA), x + level**2 * score)


def test_log_densities_are_those_of_torch() -> None:
    x, flat = points(), points().flatten(1)
    for row, level in enumerate(SIGMA):
        noise = level**2 * torch.eye(4)
        normal = MultivariateNormal(mean(0).flatten(), covariance(0) + noise)
        density = DENOISERS["gaussian"].log_density(x[[row]], level[None])
        torch.testing.assert_close(density, normal.log_prob(flat[[row]]))
        means = torch.stack([mean(seed).flatten() for seed in range(3)])
        normals = MultivariateNormal(means, torch.stack([covariance(seed) for seed in range(3)]) + noise)
        mixture = MixtureSameFamily(Categorical(WEIGHTS), normals)
        density = DENOISERS["mixture of gaussians"].log_density(x[[row]], level[None])
        torch.testing.assert_close(density, mixture.log_prob(flat[[row]]))
        pictures = MultivariateNormal(points(5).flatten(1), noise)
        density = DENOISERS["points"].log_density(x[[row]], level[None])
        torch.testing.assert_close(density, MixtureSameFamily(Categorical(WEIGHTS), pictures).log_prob(flat[[row]]))


def test_the_classifier_of_a_mixture_follows_bayes() -> None:
    mixture = DENOISERS["mixture of gaussians"]
    assert isinstance(mixture, GaussianMixtureDenoiser)
    t = torch.tensor([0, 300, 999])
    exploding, sigma = mixture.schedule.to_variance_exploding(points(), t)
    densities = [gaussian(seed).log_density(exploding, sigma.flatten()) for seed in range(3)]
    joint = torch.stack(densities, 1).exp() * WEIGHTS
    torch.testing.assert_close(mixture.log_probability(points(), t).exp(), joint / joint.sum(1, keepdim=True))


def test_a_set_of_pictures_is_averaged_as_an_integral_says() -> None:
    pictures, weights = torch.tensor([[-1.0], [0.5], [2.0]]), torch.tensor([1.0, 3.0, 1.0])
    denoiser = MixtureDenoiser(pictures, weights)
    likelihood = weights * Normal(pictures[:, 0], 0.8).log_prob(torch.tensor(0.3)).exp()
    expected = (likelihood * pictures[:, 0]).sum() / likelihood.sum()
    torch.testing.assert_close(denoiser.denoise(torch.tensor([[0.3]]), torch.tensor([0.8]))[0, 0], expected)


def test_a_narrow_mixture_of_gaussians_is_the_set_of_its_means() -> None:
    narrow = [GaussianDenoiser(mean(seed), 1e-12 * torch.ones(4, dtype=torch.float64)) for seed in range(3)]
    pictures = torch.stack([mean(seed) for seed in range(3)])
    x, sigma = points(), torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(
        GaussianMixtureDenoiser(narrow, WEIGHTS).denoise(x, sigma), MixtureDenoiser(pictures, WEIGHTS).denoise(x, sigma)
    )


def test_blocks_of_conditions_are_predicted_as_if_they_were_alone() -> None:
    parts = {"cat": gaussian(0), "dog": MixtureDenoiser(points(5)), None: DENOISERS["mixture of gaussians"]}
    schedule = NoiseSchedule.linear()
    denoiser = ConditionalDenoiser(parts, schedule)
    x, t = points(), torch.tensor([10, 400, 999])
    for condition, prediction in zip(parts, denoiser.predict(x, t, list(parts)), strict=True):
        part = parts[condition]
        part.schedule = schedule
        torch.testing.assert_close(prediction, part(x, t))
    captions = MixtureDenoiser(points(5), {"a": WEIGHTS, "b": WEIGHTS.flip(0)}, schedule)
    for weights, prediction in zip((WEIGHTS, WEIGHTS.flip(0)), captions.predict(x, t, ["a", "b"]), strict=True):
        torch.testing.assert_close(prediction, MixtureDenoiser(points(5), weights, schedule)(x, t))


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(4, 4\)"):
        GaussianDenoiser(mean(0), torch.eye(3))
    with pytest.raises(UsageError, match="symmetric"):
        GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(UsageError, match="eigenvalue"):
        GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(UsageError, match="finite"):
        GaussianDenoiser(torch.tensor([float("nan")]), torch.ones(1))
    with pytest.raises(UsageError, match="two pictures"):
        GaussianDenoiser.fit(points(count=1))
    for weights in ([-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [float("inf"), 1.0, 1.0], [1.0, 1.0]):
        with pytest.raises(UsageError, match="weights"):
            MixtureDenoiser(points(), torch.tensor(weights))
    with pytest.raises(UsageError, match="pictures"):
        MixtureDenoiser(points(count=0))
    with pytest.raises(UsageError, match="components"):
        GaussianMixtureDenoiser([])
    with pytest.raises(UsageError, match="denoisers"):
        ConditionalDenoiser({})


def test_calls_that_do_not_fit_are_refused() -> None:
    denoiser = ConditionalDenoiser({"cat": gaussian(0), "dog": gaussian(1)})
    x, t = points(), torch.tensor([1, 2, 3])
    with pytest.raises(UsageError, match="unknown condition 'cta': did you mean 'cat'"):
        denoiser.predict(x, t, ["cta"])
    with pytest.raises(UsageError, match="blocks of 2"):
        denoiser(x, t, ["cat", "dog"])
    with pytest.raises(UsageError, match="conditions"):
        denoiser.predict(x, t, [])
    with pytest.raises(UsageError, match="batch of shape"):
        gaussian(0).denoise(torch.zeros(2, 1, 2, 3, dtype=torch.float64), SIGMA[:2])
