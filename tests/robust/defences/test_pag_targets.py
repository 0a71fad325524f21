"""PAGTargets (p044, arXiv 2207.11378) against brute force, limits and the gradient of a log posterior."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import gradient_alignment
from binderclip.robust import PAGTargets

F64 = torch.float64


def examples(n: int = 60, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(0, classes, (n - classes,), generator=g)])
    return torch.randn(n, 2, 3, generator=g, dtype=F64) + labels[:, None, None], labels


IMAGES, LABELS = examples()
X = examples(7, seed=5)[0]
CLASSES = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1], [1, 2], [2, 0], [1, 0]])


def test_class_means_and_one_image_by_hand() -> None:
    mean = PAGTargets("class_mean", IMAGES, LABELS)(X, CLASSES)
    one = PAGTargets("one_image", IMAGES, LABELS, seed=4)
    first, again = one(X, CLASSES), PAGTargets("one_image", IMAGES, LABELS, seed=4)(X, CLASSES)
    assert torch.equal(first, again)
    for b in range(7):
        for j, t in enumerate(CLASSES[b].tolist()):
            assert torch.allclose(mean[b, j], IMAGES[t == LABELS].mean(0) - X[b])
            chosen = first[b, j] + X[b]
            assert ((IMAGES[t == LABELS] - chosen).abs().flatten(1).amax(1) < 1e-12).sum() == 1
    whole = one(X, torch.arange(3).expand(7, 3)) + X[:, None]
    assert torch.allclose(whole, whole[:1].expand_as(whole))  # one representative for all images


def test_nearest_by_brute_force() -> None:
    got = PAGTargets("nearest", IMAGES, LABELS)(X, CLASSES)
    for b in range(7):
        for j, t in enumerate(CLASSES[b].tolist()):
            candidates = [image - X[b] for image, label in zip(IMAGES, LABELS.tolist(), strict=True) if label == t]
            assert torch.allclose(got[b, j], min(candidates, key=lambda d: float(d.square().sum())))
    few = PAGTargets("nearest", IMAGES, LABELS, subset=2)
    assert len({tuple(v.flatten().tolist()) for v in (few(X, CLASSES * 0)[:, 0] + X).round(decimals=9)}) <= 2


def log_posterior(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """log p(t | x) of the examples plus Gaussian noise, written as densities."""
    density = [
        torch.stack([torch.exp(-(x - image).square().sum() / (2 * sigma**2)) for image in IMAGES[t == LABELS]]).sum()
        for t in range(3)
    ]
    return torch.stack(density).log() - torch.stack(density).sum().log()


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_the_score_is_the_gradient_of_the_log_posterior(sigma: float) -> None:
    got = PAGTargets("score", IMAGES, LABELS, sigma=sigma)(X, torch.arange(3).expand(7, 3))
    for b in range(7):
        wanted = torch.autograd.functional.jacobian(lambda x: log_posterior(x, sigma), X[b])
        assert torch.allclose(got[b], wanted, rtol=1e-6, atol=1e-9)


def test_limits_of_the_score() -> None:
    everything = torch.arange(3).expand(7, 3)
    wide = PAGTargets("score", IMAGES, LABELS, sigma=1e4)(X, everything) * 1e8
    means = torch.stack([IMAGES[t == LABELS].mean(0) for t in range(3)])
    assert torch.allclose(wide, (means - IMAGES.mean(0)).expand_as(wide), atol=1e-4)
    narrow = PAGTargets("score", IMAGES, LABELS, sigma=0.005)(X, everything) * 0.005**2
    nearest = PAGTargets("nearest", IMAGES, LABELS)(X, everything)
    best = nearest.flatten(2).norm(dim=2).argmin(1)
    assert torch.allclose(narrow, nearest - nearest[torch.arange(7), best][:, None], atol=1e-6)
    both = PAGTargets("score", IMAGES, LABELS, sigma=[0.8, 2.0])(X, everything)
    units = [
        torch.nn.functional.normalize(PAGTargets("score", IMAGES, LABELS, sigma=s)(X, everything).flatten(2), dim=2)
        for s in (0.8, 2.0)
    ]
    assert torch.allclose(both.flatten(2), sum(units) / 2)


def test_a_gaussian_classifier_is_perfectly_aligned_with_what_the_theory_gives() -> None:
    means = torch.stack([IMAGES[t == LABELS].mean(0) for t in range(3)])

    def gaussian(x: torch.Tensor) -> torch.Tensor:  # equal priors, spherical covariance 0.7
        return -(x[:, None] - means).flatten(2).square().sum(2) / (2 * 0.7)

    # With the logit of a spherical Gaussian, mean - x is the gradient's direction; of the posterior it is the score of
    # three single examples.
    for rule, of, sigma in (("class_mean", "logit", None), ("score", "loss", 0.7**0.5)):
        targets = PAGTargets(rule, means, torch.arange(3), sigma=sigma)
        assert torch.allclose(gradient_alignment(gaussian, X, targets, of=of), torch.ones(7, dtype=F64))
    away = PAGTargets("class_mean", means, torch.arange(3))
    reverse = gradient_alignment(gaussian, X, lambda x, c: -away(x, c), of="logit")
    assert torch.allclose(reverse, -torch.ones(7, dtype=F64))
    with pytest.raises(UsageError, match="directions are"):
        gradient_alignment(gaussian, X, torch.zeros(7, 2, 2, 3))
    ready = away(X, CLASSES)
    assert torch.allclose(gradient_alignment(gaussian, X, ready, classes=CLASSES, of="logit"), torch.ones(7, dtype=F64))


def test_mistakes_are_refused() -> None:
    with pytest.raises(UsageError, match="rule must be"):
        PAGTargets("mean", IMAGES, LABELS)
    with pytest.raises(UsageError, match="class 1 has no example"):
        PAGTargets("nearest", IMAGES[:2], torch.tensor([0, 2]))
    with pytest.raises(UsageError, match="sigma must be"):
        PAGTargets("score", IMAGES, LABELS, sigma=0.0)
    with pytest.raises(UsageError, match="subset"):
        PAGTargets("nearest", IMAGES, LABELS, subset=0)
    targets = PAGTargets("class_mean", IMAGES, LABELS)
    with pytest.raises(UsageError, match="there are 3"):
        targets(X, CLASSES + 1)
    with pytest.raises(UsageError, match="must be"):
        targets(X[:, :1], CLASSES)


def test_the_usual_levels_are_an_eighth_and_a_quarter_of_the_images_spread() -> None:
    spread = (IMAGES - IMAGES.mean(0)).flatten(1).norm(dim=1).square().mean().sqrt()
    assert PAGTargets("score", IMAGES, LABELS).sigma == pytest.approx((float(spread) / 8, float(spread) / 4))
