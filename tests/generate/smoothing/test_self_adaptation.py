"""Self-adaptation: pictures of their conditions, what each stage's loss reaches, and a classifier that learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate import (
    ConditionalDenoiser,
    Denoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    NoiseSchedule,
    SelfAdaptation,
)

SCHEDULE = NoiseSchedule.linear()


class Shifted(Denoiser):
    """A Gaussian denoiser with a mean that can be trained, by class."""

    def __init__(self) -> None:
        super().__init__(SCHEDULE)
        self.means = nn.Parameter(torch.zeros(2, 3, 1, 1))
        self.asked: list[str] = []

    def forward(self, x: Tensor, t: Tensor, conditions: tuple[str, ...] = ("a",)) -> Tensor:
        signal, deviation = self.schedule.coefficients(t, x)
        self.asked += conditions
        mean = self.means["ab".index(conditions[0])]
        return (x - signal * mean) / deviation  # the noise if every picture were the mean


@pytest.fixture
def predictor() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


def test_synthetic_pictures_are_of_their_conditions(predictor: nn.Module) -> None:
    pictures = torch.stack([torch.full((3, 2, 2), -0.5), torch.full((3, 2, 2), 0.5)])
    weights = {None: torch.ones(2), "dark": torch.tensor([1.0, 0.0]), "light": torch.tensor([0.0, 1.0])}
    adaptation = SelfAdaptation(MixtureDenoiser(pictures, weights, SCHEDULE), predictor, ["dark", "light"])
    images, labels = adaptation.synthesise((3, 2, 2), per_class=3, generator=torch.Generator().manual_seed(0))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = torch.tensor([0.25, 0.75])[labels].view(-1, 1, 1, 1).expand_as(images)
    torch.testing.assert_close(images, expected, rtol=0, atol=0.02)


def test_personalising_moves_the_denoiser_alone_towards_the_pictures(predictor: nn.Module) -> None:
    denoiser = Shifted()
    adaptation = SelfAdaptation(denoiser, predictor, ["a", "b"])
    images = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 0.9)])
    before = [p.clone() for p in predictor.parameters()]
    adaptation.personalise([denoiser.means], images, torch.tensor([0, 1]), steps=150, lr=0.05, weight=0.0)
    torch.testing.assert_close(denoiser.means[:, 0, 0, 0], torch.tensor([-0.6, 0.8]), rtol=0, atol=0.1)
    assert {"a", "b"} == set(denoiser.asked)
    for parameter, start in zip(predictor.parameters(), before, strict=True):
        assert torch.equal(parameter, start)


def test_the_classifiers_loss_pulls_the_denoiser_to_where_it_says_the_class(predictor: nn.Module) -> None:
    direction = (predictor[1].weight[0] - predictor[1].weight[1]).detach().view(3, 4).sum(1)
    means = []
    for weight in (0.0, 10.0):
        denoiser = Shifted()
        images = torch.full((1, 3, 2, 2), 0.5)
        SelfAdaptation(denoiser, predictor, ["a", "b"]).personalise(
            [denoiser.means], images, torch.tensor([0]), steps=30, lr=0.01, weight=weight
        )
        means.append(float(denoiser.means[0, :, 0, 0].detach() @ direction))
    assert means[1] > means[0] + 0.02


def test_adapting_moves_the_classifier_alone_and_lowers_its_error_behind_the_denoiser(predictor: nn.Module) -> None:
    parts = {None: GaussianDenoiser(torch.zeros(3, 2, 2), torch.full((12,), 0.2), SCHEDULE)}
    denoiser = ConditionalDenoiser(parts, SCHEDULE)
    adaptation = SelfAdaptation(denoiser, predictor, ["a", "b"])
    images = torch.stack([torch.full((3, 2, 2), 0.3), torch.full((3, 2, 2), 0.7)]).repeat(8, 1, 1, 1)
    labels = torch.tensor([0, 1]).repeat(8)
    result = adaptation.adapt(predictor, images, labels, steps=200, lr=0.05, times=(0, 60))
    losses = result.history["loss"]
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


def test_wrong_settings_are_refused(predictor: nn.Module) -> None:
    denoiser = Shifted()
    with pytest.raises(UsageError, match="conditions is empty"):
        SelfAdaptation(denoiser, predictor, [])
    adaptation = SelfAdaptation(denoiser, predictor, ["a", "b"])
    images = torch.zeros(2, 3, 2, 2)
    with pytest.raises(UsageError, match="2 images and 1 labels"):
        adaptation.adapt(predictor, images, torch.tensor([0]))
    with pytest.raises(UsageError, match=r"labels must lie in 0..1"):
        adaptation.adapt(predictor, images, torch.tensor([0, 2]))
    with pytest.raises(UsageError, match="two rising times"):
        adaptation.adapt(predictor, images, torch.tensor([0, 1]), times=(5, 5))
    with pytest.raises(UsageError, match="per_class"):
        adaptation.synthesise((3, 2, 2), per_class=0)
    with pytest.raises(UsageError, match="weight"):
        adaptation.personalise([denoiser.means], images, torch.tensor([0, 1]), weight=-1.0)
