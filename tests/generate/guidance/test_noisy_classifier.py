"""The classifier of noisy pictures (p027): it learns what Bayes says of two Gaussians, at every noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import GaussianDenoiser, GaussianMixtureDenoiser, NoiseSchedule, NoisyClassifier

SCHEDULE = NoiseSchedule.linear()


def small(**settings: int) -> NoisyClassifier:
    torch.manual_seed(0)
    return NoisyClassifier(**{"num_classes": 2, "size": 4, "channels": 1, **settings}, widths=(8, 16))


def test_its_loss_is_cross_entropy_on_noisy_pictures() -> None:
    classifier, images, labels = small(), torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 1, 0, 1, 0])
    loss = classifier.loss(images, labels, SCHEDULE, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = torch.randint(1000, (6,), generator=generator)
    noisy = SCHEDULE.add_noise(images, torch.randn(images.shape, generator=generator), t)
    torch.testing.assert_close(loss, F.cross_entropy(classifier(noisy, t), labels))
    # An untrained network knows nothing: near log 2.
    assert abs(float(loss.detach()) - math.log(2)) < 0.5


def test_it_learns_the_probabilities_that_bayes_gives_at_every_noise() -> None:
    means = torch.stack([torch.full((1, 4, 4), -0.5), torch.full((1, 4, 4), 0.5)])
    exact = GaussianMixtureDenoiser(
        [GaussianDenoiser(mean, 0.01 * torch.ones(16)) for mean in means], schedule=SCHEDULE
    )
    classifier, generator = small(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(classifier.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(150):
        labels = torch.randint(2, (128,), generator=generator)
        images = means[labels] + 0.1 * torch.randn(128, 1, 4, 4, generator=generator)
        optimizer.zero_grad()
        classifier.loss(images, labels, SCHEDULE, generator).backward()
        optimizer.step()
    labels = torch.randint(2, (500,), generator=generator)
    for t in (100, 500, 999):
        times = torch.full((500,), t)
        x = SCHEDULE.add_noise(means[labels], torch.randn(500, 1, 4, 4, generator=generator), times)
        expected = exact.log_probability(x, times).exp()
        assert (classifier(x, times).softmax(1) - expected).abs().mean() < 0.1


def test_the_time_matters_and_gradients_reach_the_picture() -> None:
    classifier = small()
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    early, late = classifier(x, torch.tensor([0, 0])), classifier(x, torch.tensor([900, 900]))
    assert (early - late).abs().max() > 1e-3
    early.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"size": 5}, "halved"),
        ({"widths": (12,)}, "multiples of 8"),
        ({"widths": ()}, "widths"),
        ({"heads": 3}, "heads"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NoisyClassifier(**{"num_classes": 2, "size": 4, "widths": (8, 16), **settings})  # type: ignore[arg-type]
