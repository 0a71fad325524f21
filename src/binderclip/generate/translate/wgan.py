"""Wasserstein GANs: a critic that is kept 1-Lipschitz by a gradient penalty, or by bounded weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from binderclip.errors import UsageError
from binderclip.generate.translate.gan_loss import GANLoss
from binderclip.generate.translate.terms import DiscriminatorTerm, WassersteinPenalty, weight_bound
from binderclip.generate.translate.trainer import AdversarialTrainer
from binderclip.numeric import check_number, check_whole

__all__ = ["WGAN"]


class WGAN(AdversarialTrainer):
    """Train a generator of samples from noise against a Wasserstein critic with a gradient penalty.

    The critic minimises mean D(G(z)) - mean D(x) + weight mean (||grad D|| - 1)^2 (`losses.gradient_penalty`), five
    times for each step of the generator on -mean D(G(z)). `fit` takes batches of real samples.

    Args:
        generator: from noise [B, latent] to samples.
        critic: from samples to scores, with no activation at its end and no batch normalisation.
        latent: numbers of noise, standard normal, in [1, 1e6].
        weight: lambda of the penalty, in [0, 1e6]: 10 for pictures, 0.1 for points in the plane.
        one_sided: leave gradients shorter than 1 alone.
        bound: instead of the penalty keep the critic's weights in [-bound, bound], the older method, with RMSprop at
            its rate of 5e-5; None for the penalty.
        lr: of both Adams; default 1e-4.
        betas: of both Adams.
        critic_steps: critic's steps for each of the generator's, in [1, 1000].

    Raises:
        UsageError: a number out of range, or a penalty on a critic with batch normalisation, where a sample's gradient
            depends on the others.

    Paper: Improved Training of Wasserstein GANs (arXiv 1704.00028).

    Examples:
        >>> gan = WGAN(nn.Linear(2, 3), nn.Linear(3, 1), latent=2)
        >>> gan.fit([torch.ones(8, 3)], steps=2).steps
        2
        >>> gan.sample(4).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        latent: int,
        weight: float = 10.0,
        one_sided: bool = False,
        bound: float | None = None,
        lr: float | None = None,
        betas: tuple[float, float] = (0.0, 0.9),
        critic_steps: int = 5,
    ) -> None:
        check_whole("latent", latent, least=1)
        check_number("latent", latent, most=1e6)
        if lr is not None:
            check_number("lr", lr, least=0, most=1e3)
        for beta in betas:
            check_number("betas", beta, least=0, below=1)
        penalised = bound is None
        if penalised and any(isinstance(module, _BatchNorm) for module in critic.modules()):
            raise UsageError("a gradient penalty needs a critic without batch normalisation: use layer normalisation")
        term = DiscriminatorTerm(
            module=critic,
            loss=GANLoss("wgan"),
            penalties={"gradient_penalty": WassersteinPenalty(weight, one_sided=one_sided)} if penalised else {},
            constrain=None if bound is None else weight_bound(bound),
        )
        optimizer = {"name": "adam", "betas": betas} if penalised else {"name": "rmsprop"}
        rate = lr if lr is not None else 1e-4 if penalised else 5e-5
        self.sampler = _FromNoise(generator, latent)
        super().__init__(self.sampler, {"critic": term}, optimizer=optimizer, lr=rate, critic_steps=critic_steps)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "count *shape"]:
        """New samples.

        Args:
            count: how many, in [1, 1e9].
            generator: of the noise, on the CPU or the model's device; default torch's.
        """
        check_whole("count", count, least=1)
        check_number("count", count, most=1e9)
        reference = next(self.sampler.parameters())
        return self.sampler.draw(count, reference, generator)


class _FromNoise(nn.Module):
    """As many samples as there are in the batch."""

    def __init__(self, network: nn.Module, latent: int) -> None:
        super().__init__()
        self.network, self.latent = network, latent

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"fake": self.draw(len(batch), batch)}

    def draw(self, count: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(count, self.latent, generator=generator, device=like.device, dtype=like.dtype)
        return self.network(noise)
