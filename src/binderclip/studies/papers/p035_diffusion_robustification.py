"""Does one step of a diffusion model, and adaptation to it, make a classifier certifiably robust without data?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.generate import (
    ConditionalDenoiser,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    NoiseSchedule,
    OneStepDenoising,
    SelfAdaptation,
)
from binderclip.robust import RandomizedSmoothing
from binderclip.studies.harness import Figure, Row, Table, declared_study

DIRECT, DENOISED, ADAPTED = "noise alone", "one-step denoising", "denoising and self-adaptation"
NOISY, REAL = "trained on noisy synthetic pictures, no denoiser", "trained on noisy real pictures, no denoiser"
METHODS = (DIRECT, DENOISED, ADAPTED, NOISY, REAL)
CERTIFIED, CLEAN = "certified accuracy", "accuracy on clean pictures, without noise"
SIGMA, RADII, TEST, N0, N, ALPHA = 0.5, (0.0, 0.25, 0.5, 0.75), 60, 32, 200, 0.01
HIDDEN, TRAINING, ADAPTATION, BATCH, RATE, PER_CLASS, SHRINKAGE = 64, 300, 200, 100, 2e-3, 20, 0.01


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in [0, 1], [N, 3, 8, 8], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16).float()[:, None].repeat(1, 3, 1, 1), torch.tensor(data.target)


def generator_of(images: Tensor, labels: Tensor) -> ConditionalDenoiser:
    """The exact denoiser of ten normal distributions: of all without a condition, of one for each class."""
    schedule, parts = NoiseSchedule.linear(), []
    for label in range(10):
        rows = (2 * images[labels == label] - 1).flatten(1).double()
        covariance = rows.T.cov(correction=0) + SHRINKAGE * torch.eye(192, dtype=torch.float64)
        parts.append(GaussianDenoiser(rows.mean(0).reshape(3, 8, 8).float(), covariance.float(), schedule))
    mixture = GaussianMixtureDenoiser(parts, schedule=schedule)
    return ConditionalDenoiser({None: mixture, **dict(enumerate(parts))}, schedule)


def classifier(images: Tensor, labels: Tensor, seed: int, sigma: float = 0.0) -> nn.Module:
    """A perceptron trained on pictures, with noise on them or not."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.AdamW(net.parameters(), RATE)
    for _ in range(TRAINING):
        rows = torch.randint(len(images), (BATCH,))
        x = images[rows] + sigma * torch.randn(BATCH, 3, 8, 8)
        optimizer.zero_grad()
        F.cross_entropy(net(x.clamp(0, 1)), labels[rows]).backward()
        optimizer.step()
    return net.eval()


def measure(seed: int) -> list[Row]:
    """Half of the digits fit generator and classifier; certificates are of the other half."""
    images, labels = _digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    first, test = order[: len(order) // 2], order[len(order) // 2 :][:TEST]
    diffusion = generator_of(images[first], labels[first])
    plain = classifier(images[first], labels[first], seed)
    own = classifier(images[first], labels[first], seed)
    adaptation = SelfAdaptation(diffusion, own, range(10))
    g = torch.Generator().manual_seed(seed)
    synthetic, named = adaptation.synthesise((3, 8, 8), per_class=PER_CLASS, num_inference_steps=25, generator=g)
    adaptation.adapt(own, synthetic, named, steps=ADAPTATION, batch_size=BATCH, lr=RATE, seed=seed)
    denoise = OneStepDenoising(diffusion, SIGMA)
    arms: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor] | None]] = {
        DIRECT: (plain, None),
        DENOISED: (plain, denoise),
        ADAPTED: (own, denoise),
        NOISY: (classifier(synthetic, named, seed, SIGMA), None),
        REAL: (classifier(images[first], labels[first], seed, SIGMA), None),
    }
    rows = []
    for name, (predictor, step) in arms.items():
        smooth = RandomizedSmoothing(predictor, SIGMA, denoise=step, seed=seed)
        certificate = smooth.certify(images[test], n0=N0, n=N, alpha=ALPHA)
        for radius in RADII:
            rows.append(Row(CERTIFIED, name, certificate.accuracy(labels[test], radius), _setting(radius)))
        with torch.no_grad():
            hits = predictor(images[test]).argmax(1) == labels[test]
        rows.append(Row(CLEAN, name, float(hits.float().mean())))
    return rows


def _setting(radius: float) -> str:
    return f"radius {radius:g}"


def draw(table: Table, figure: Figure) -> None:
    """Certified accuracy against the radius."""
    ax = figure.subplots()
    for number, method in enumerate(METHODS):
        heights = [table.values(CERTIFIED, method, _setting(radius)).mean() for radius in RADII]
        ax.plot(RADII, heights, "o-", color=f"C{number}", label=method)
    ax.set(xlabel="radius, Euclidean, pixels in [0, 1]", ylabel=CERTIFIED, ylim=(0, 1.05))
    ax.legend(fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 36), registered="0d10974e84ca")
