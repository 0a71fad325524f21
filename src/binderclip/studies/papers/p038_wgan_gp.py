"""Does a gradient penalty let a Wasserstein critic see more than bounded weights do, with steady gradients?"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from binderclip.fit import fit
from binderclip.generate import weight_bound
from binderclip.losses import gradient_penalty
from binderclip.studies.harness import Row, declared_study, dot_panels, random_rows

PENALTY, CLIPPED = "gradient penalty", {bound: f"weights in +-{bound:g}" for bound in (0.001, 0.01, 0.1)}
ESTIMATE = "share of the Wasserstein distance that the critic sees"
DECADES = "decades between the layers' largest and smallest gradient norm"
STEPS, WIDTH, DEEP_STEPS, DEEP_WIDTH, DEEP, BATCH, HELD, LAMBDA = 600, 64, 60, 64, 12, 128, 256, 0.1
METHODS = (PENALTY, *CLIPPED.values())
RATES = {PENALTY: 1e-3, **dict.fromkeys(CLIPPED.values(), 5e-4)}


def eight_gaussians(count: int, g: torch.Generator) -> Tensor:
    """Eight narrow normal distributions on a ring of radius 2, over 1.414."""
    angles = torch.randint(8, (count,), generator=g) * (math.pi / 4)
    return (2 * torch.stack([angles.cos(), angles.sin()], 1) + 0.02 * torch.randn(count, 2, generator=g)) / 1.414


def swiss_roll(count: int, g: torch.Generator) -> Tensor:
    """scikit-learn's roll seen from its side, noise 0.25, over 7.5."""
    t = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=g))
    return (torch.stack([t * t.cos(), t * t.sin()], 1) + 0.25 * torch.randn(count, 2, generator=g)) / 7.5


def generated(real: Tensor, g: torch.Generator) -> Tensor:
    """The paper's fixed generator: the data plus standard normal noise."""
    return real + torch.randn(real.shape, generator=g)


def critic_of(layers: int, width: int) -> nn.Sequential:
    """A perceptron of rectified layers with He's initialisation."""
    sizes = [2, *[width] * (layers - 1)]
    linear = [nn.Linear(*pair) for pair in pairwise(sizes)]
    for layer in linear:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())], nn.Linear(width, 1))


def trained(name: str, critic: nn.Sequential, draw, steps: int, g: torch.Generator) -> nn.Sequential:  # type: ignore[no-untyped-def]
    """A critic after `steps` on fresh points, bounded or penalised by its method's name."""
    bound = next((weight_bound(value) for value, label in CLIPPED.items() if label == name), None)

    def step(_: int) -> Tensor:
        if bound is not None:
            bound(critic)
        real = draw(BATCH, g)
        fake = generated(draw(BATCH, g), g)
        loss = critic(fake).mean() - critic(real).mean()
        return loss if bound is not None else loss + gradient_penalty(critic, real, fake, LAMBDA, generator=g)

    optimizer = {"name": "adam", "betas": (0.5, 0.9)} if bound is None else {"name": "rmsprop"}
    fit(step, critic, [0], steps=steps, optimizer=optimizer, lr=RATES[name], schedule="constant")
    if bound is not None:
        bound(critic)
    return critic


def norms(critic: nn.Sequential, x: Tensor) -> Tensor:
    """Gradient norms of the critic at points [N]."""
    return torch.autograd.grad(critic(x.requires_grad_()).sum(), x)[0].norm(dim=1)


def decades(critic: nn.Sequential, real: Tensor, fake: Tensor) -> float:
    """log10 of the largest over the smallest gradient norm of the critic's loss by the hidden layers' activations."""
    sign = torch.cat([torch.full((len(fake), 1), 1 / len(fake)), torch.full((len(real), 1), -1 / len(real))])
    hidden, x = [], torch.cat([fake, real])
    for layer in critic:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            hidden.append(x)
    grads = torch.autograd.grad((x * sign).sum(), hidden)
    logs = torch.stack([grad.double().norm() for grad in grads]).clamp(min=1e-30).log10()
    return float(logs.max() - logs.min())


def measure(seed: int) -> list[Row]:
    """All rows of one seed: the ring with three critics, the roll with four deep ones."""
    from scipy.optimize import linear_sum_assignment

    rows = []
    for name in (PENALTY, CLIPPED[0.01], CLIPPED[0.1]):
        torch.manual_seed(seed)
        critic = trained(name, critic_of(4, WIDTH), eight_gaussians, STEPS, torch.Generator().manual_seed(seed))
        g = torch.Generator().manual_seed(10_000 + seed)
        real, fake = eight_gaussians(HELD, g), generated(eight_gaussians(HELD, g), g)
        distances = torch.cdist(real, fake)
        pairs = linear_sum_assignment(distances.numpy())
        between = torch.lerp(fake[pairs[1]], real[pairs[0]], torch.rand(HELD, 1, generator=g))
        steepest = norms(critic, torch.cat([real, fake, between])).max().clamp(min=1e-30)
        with torch.no_grad():
            difference = critic(real).mean() - critic(fake).mean()
        rows.append(Row(ESTIMATE, name, float(difference / steepest / distances[pairs].mean())))
    for name in METHODS:
        torch.manual_seed(seed)
        g = torch.Generator().manual_seed(seed)
        critic = trained(name, critic_of(DEEP, DEEP_WIDTH), swiss_roll, DEEP_STEPS, g)
        real = swiss_roll(HELD, g)
        rows.append(Row(DECADES, name, decades(critic, real, generated(swiss_roll(HELD, g), g))))
    return rows


def null(seed: int) -> list[Row]:
    """Random figures in the place of every one that is compared."""
    return random_rows(STUDY.criteria, seed)


PANELS = dot_panels((ESTIMATE, METHODS[:1] + METHODS[2:]), (DECADES, METHODS), rotation=30)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), null=null, registered="deac919a8481")
