"""Does the scale of a noisy classifier's gradient trade the diversity of samples for fidelity?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate import (
    ClassifierGuidance,
    ClippedSample,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    NoiseSchedule,
    NoisyClassifier,
    log_probability_gradient,
    sample,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study

NOISY, CLEAN, EXACT = "classifier of noisy pictures", "classifier of clean pictures", "exact p(y | x)"
SCALES = {NOISY: (0.0, 1.0, 3.0, 10.0), CLEAN: (10.0,), EXACT: (1.0, 10.0)}
FIDELITY, DIVERSITY = "fidelity: named as asked by an independent classifier", "diversity: distance within a class"
EACH, STEPS, TRAINING, BATCH, RATE, SHRINKAGE = 10, 25, 150, 64, 5e-3, 0.01


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in [-1, 1], [N, 1, 8, 8], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 8 - 1).float()[:, None], torch.tensor(data.target)


def classes(images: Tensor, labels: Tensor, schedule: NoiseSchedule) -> GaussianMixtureDenoiser:
    """The exact unconditional denoiser of ten normal distributions, fitted to the digits of each class."""
    parts = []
    for label in range(10):
        rows = images[labels == label].flatten(1).double()
        covariance = rows.T.cov(correction=0) + SHRINKAGE * torch.eye(64, dtype=torch.float64)
        parts.append(GaussianDenoiser(rows.mean(0).reshape(1, 8, 8).float(), covariance.float(), schedule))
    return GaussianMixtureDenoiser(parts, schedule=schedule)


def trained(images: Tensor, labels: Tensor, schedule: NoiseSchedule, seed: int, noisy: bool) -> NoisyClassifier:
    """A classifier trained on pictures with noise, or on the clean ones at time 0."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    net = NoisyClassifier(10, size=8, channels=1, widths=(16, 32))
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    for _ in range(TRAINING):
        rows = torch.randint(len(images), (BATCH,), generator=g)
        if noisy:
            loss = net.loss(images[rows], labels[rows], schedule, g)
        else:
            loss = F.cross_entropy(net(images[rows], torch.zeros(BATCH, dtype=torch.long)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def spread(samples: Tensor, asked: Tensor) -> float:
    """Mean distance of two samples for which one class was asked, over the classes."""
    return float(torch.stack([F.pdist(samples[asked == label].flatten(1)).mean() for label in range(10)]).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed: half of the digits fit denoiser and guides, the other half the classifier that judges."""
    from sklearn.svm import SVC

    images, labels = _digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    first, second = order.chunk(2)
    schedule = NoiseSchedule.linear()
    denoiser = classes(images[first], labels[first], schedule)
    judge = SVC().fit(images[second].flatten(1).numpy(), labels[second].numpy())
    asked = torch.arange(10).repeat_interleave(EACH)
    start = torch.randn(len(asked), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    guides: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        NOISY: trained(images[first], labels[first], schedule, seed, noisy=True),
        CLEAN: trained(images[first], labels[first], schedule, seed, noisy=False),
        EXACT: denoiser.log_probability,
    }
    rows = []
    for name, guide in guides.items():
        for scale in SCALES[name]:
            term = ClassifierGuidance(log_probability_gradient(guide, asked), scale)
            samples = sample(denoiser, start, terms=[ClippedSample(), term], num_inference_steps=STEPS)
            named = torch.as_tensor(judge.predict(samples.flatten(1).numpy()))
            rows.append(Row(FIDELITY, name, float((named == asked).float().mean()), _setting(scale)))
            rows.append(Row(DIVERSITY, name, spread(samples, asked), _setting(scale)))
    return rows


def _setting(scale: float) -> str:
    return f"scale {scale:g}"


def draw(table: Table, figure: Figure) -> None:
    """Diversity against fidelity, a point for each scale."""
    ax = figure.subplots()
    for number, (method, scales) in enumerate(SCALES.items()):
        x, y = ([table.values(metric, method, _setting(s)).mean() for s in scales] for metric in (DIVERSITY, FIDELITY))
        ax.plot(x, y, "o-", color=f"C{number}", label=method)
        for scale, left, height in zip(scales, x, y, strict=True):
            ax.annotate(f"{scale:g}", (left, height), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel=DIVERSITY, ylabel="named as asked", ylim=(0, 1.05))
    ax.legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="06332991e928")
