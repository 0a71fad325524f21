"""p038 (arXiv 1704.00028): Wasserstein GANs against optimal critics that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.generate import WGAN
from binderclip.losses import gradient_penalty


def test_between_two_points_a_linear_critic_settles_where_the_penalty_balances_the_distance() -> None:
    """Maximising w delta - lambda (w - 1)^2 gives w = 1 + delta / (2 lambda), a little above 1."""
    critic = nn.Linear(1, 1, dtype=torch.float64)
    real, fake = torch.full((4, 1), 3.0, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)

    def step(_: Any) -> Tensor:
        return critic(fake).mean() - critic(real).mean() + gradient_penalty(critic, real, fake, 10.0)

    fit(step, critic, [0], steps=200, optimizer="sgd", lr=0.04, schedule="constant")
    assert float(critic.weight.detach()) == pytest.approx(1 + 3 / 20, rel=1e-6)


def test_a_trained_critic_measures_the_distance_of_samples_on_a_line() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(256, 1).abs(), 2 + 0.5 * torch.randn(256, 1)
    expected = wasserstein_distance(real[:, 0].numpy(), fake[:, 0].numpy())
    critic = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def step(_: Any) -> Tensor:
        return critic(fake).mean() - critic(real).mean() + gradient_penalty(critic, real, fake, 10.0)

    fit(step, critic, [0], steps=200, optimizer="adam", lr=5e-3, schedule="constant")
    with torch.no_grad():
        estimate = float(critic(real).mean() - critic(fake).mean())
    assert estimate == pytest.approx(expected, rel=0.1)


class _Shift(nn.Module):
    """Noise as it is, moved."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(2))

    def forward(self, noise: Tensor) -> Tensor:
        return noise + self.by


def test_the_generator_is_drawn_to_the_data() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(64, 2) + torch.tensor([1.0, -1.0]) for _ in range(5)]
    gan = WGAN(_Shift(), nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)), latent=2, lr=0.02)
    history = gan.fit(batches, steps=60).history
    mean = gan.sample(4000, torch.Generator().manual_seed(1)).mean(0)
    torch.testing.assert_close(mean, torch.tensor([1.0, -1.0]), atol=0.3, rtol=0)
    assert {"discriminator/critic/gradient_penalty", "generator/critic"} <= set(history)


def test_bounded_weights_have_no_penalty_and_stay_bounded() -> None:
    critic = nn.Linear(2, 1)
    gan = WGAN(_Shift(), critic, latent=2, bound=0.01)
    history = gan.fit([torch.randn(8, 2)], steps=3).history
    assert "discriminator/critic/gradient_penalty" not in history
    assert float(critic.weight.detach().abs().max()) <= 0.01
    assert isinstance(gan.optimizer, torch.optim.RMSprop)
    assert gan.optimizer.param_groups[0]["lr"] == 5e-5


def test_samples_repeat_by_their_seed() -> None:
    gan = WGAN(_Shift(), nn.Linear(2, 1), latent=2)
    first, second = (gan.sample(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("critic", "settings", "message"),
    [
        (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), {}, "batch normalisation"),
        (nn.Linear(2, 1), {"weight": float("nan")}, "weight"),
        (nn.Linear(2, 1), {"latent": 0}, "latent"),
        (nn.Linear(2, 1), {"bound": -1.0}, "bound"),
        (nn.Linear(2, 1), {"betas": (0.0, 1.0)}, "betas"),
    ],
)
def test_what_has_no_meaning_is_refused(critic: nn.Module, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WGAN(_Shift(), critic, **{"latent": 2, **settings})
