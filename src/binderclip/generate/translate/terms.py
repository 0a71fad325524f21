"""What an adversarial training is declared by: discriminators, penalties on them, and the generator's other losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.translate.gan_loss import GANLoss, Logits
from binderclip.losses.gradient.input_penalties import gradient_penalty, matching_aware_gradient_penalty, r1_penalty
from binderclip.numeric import check_number

__all__ = [
    "CriticPass",
    "DiscriminatorTerm",
    "LossTerm",
    "MatchingAwarePenalty",
    "Outputs",
    "R1Penalty",
    "WassersteinPenalty",
    "weight_bound",
]

Outputs = Mapping[str, Any]
"""What a generator made of a batch, by name; `fake` is its picture."""
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class CriticPass:
    """One pass of a discriminator in its own step, for penalties.

    Attributes:
        module: the discriminator.
        real: what it saw of the data; floating tensors require grad.
        fake: what it saw of the generator's samples, without a graph.
        real_logits, fake_logits: its answers.
    """

    module: nn.Module
    real: Inputs
    fake: Inputs
    real_logits: Logits
    fake_logits: Logits


Penalty = Callable[[CriticPass], Tensor]


@dataclass(frozen=True)
class R1Penalty:
    """`losses.r1_penalty` at the first input of the discriminator.

    Args:
        gamma: weight, in [0, 1e6].

    Raises:
        UsageError: gamma out of range.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, least=0, most=1e6)

    def __call__(self, critic: CriticPass) -> Tensor:
        return r1_penalty(_summed(critic.real_logits), critic.real[0], self.gamma)


@dataclass(frozen=True)
class WassersteinPenalty:
    """`losses.gradient_penalty` between real and generated first inputs; further inputs are those of the real sample.

    Args:
        weight: lambda, in [0, 1e6].
        target: norm that is meant, in [0, 1e6].
        one_sided: leave smaller norms alone.

    Raises:
        UsageError: a number out of range.
    """

    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0, most=1e6)
        check_number("target", self.target, least=0, most=1e6)

    def __call__(self, critic: CriticPass) -> Tensor:
        rest = tuple(one.detach() for one in critic.real[1:])
        return gradient_penalty(
            lambda x: _summed(critic.module(x, *rest)), critic.real[0], critic.fake[0], self.weight, self.target,
            one_sided=self.one_sided,
        )  # fmt: skip


@dataclass(frozen=True)
class MatchingAwarePenalty:
    """`losses.matching_aware_gradient_penalty` at the discriminator's two inputs, features and sentence.

    Args:
        weight: k, in [0, 1e6].
        power: p, in [2, 16].

    Raises:
        UsageError: a number out of range.
    """

    weight: float = 2.0
    power: float = 6.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0, most=1e6)
        check_number("power", self.power, least=2, most=16)

    def __call__(self, critic: CriticPass) -> Tensor:
        if len(critic.real) != 2:
            raise UsageError(f"the matching-aware penalty needs features and a sentence, got {len(critic.real)} inputs")
        return matching_aware_gradient_penalty(_summed(critic.real_logits), *critic.real, self.weight, self.power)


@dataclass(frozen=True)
class LossTerm:
    """A loss of the generator beside the adversarial ones.

    Args:
        name: in the records, as `loss/NAME`, unweighted.
        weight: in the sum, finite.
        compute: from batch and outputs to a number with a graph; discriminators are frozen then.

    Raises:
        UsageError: a weight that is not finite.
    """

    name: str
    weight: float
    compute: Callable[[Any, Outputs], Tensor]

    def __post_init__(self) -> None:
        check_number(f"weight of {self.name}", self.weight, least=-1e9, most=1e9)


def _itself(batch: Any, outputs: Outputs) -> Any:
    return batch


def _fake(batch: Any, outputs: Outputs) -> Any:
    return outputs["fake"]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorTerm:
    """A discriminator, what it looks at, and what is asked of it.

    Args:
        module: from its inputs to logits: a tensor of any shape, or one for each scale.
        loss: adversarial loss.
        real: from batch and outputs to its inputs for real samples, a tensor or a tuple; default the batch itself.
        fake: the same for generated ones; default `outputs["fake"]`. Frozen features are taken here, once a step: the
            discriminator gets them without a graph, the generator with it.
        mismatched: from the real inputs to wrong ones, such as pictures with another's sentence; they count half of
            what is not real, generated ones the other half.
        weight: of the generator's adversarial loss, in [0, 1e9].
        scale: of the discriminator's, penalties apart, in [0, 1e9]; CUT and pix2pix take a half.
        penalties: by name, each from a `CriticPass` to a number.
        constrain: called with the module after each of its updates (`weight_bound`).

    Raises:
        UsageError: a weight out of range.
    """

    module: nn.Module
    loss: GANLoss = field(default_factory=GANLoss)
    real: Callable[[Any, Outputs], Any] = _itself
    fake: Callable[[Any, Outputs], Any] = _fake
    mismatched: Callable[[Inputs], Inputs] | None = None
    weight: float = 1.0
    scale: float = 1.0
    penalties: Mapping[str, Penalty] = field(default_factory=dict)
    constrain: Callable[[nn.Module], None] | None = None

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0, most=1e9)
        check_number("scale", self.scale, least=0, most=1e9)

    def fake_inputs(self, batch: Any, outputs: Outputs) -> Inputs:
        """What it sees of generated samples, with their graph."""
        return _inputs(self.fake(batch, outputs))

    def discriminator_loss(self, batch: Any, outputs: Outputs, fake: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Its own loss, with penalties, and its parts by name: `adversarial` and the penalties, unscaled.

        Args:
            batch: of the step.
            outputs: the generator's.
            fake: as `fake_inputs` gives it.
        """
        fake = tuple(one.detach() for one in fake)
        real = tuple(one.detach() for one in _inputs(self.real(batch, outputs)))
        if self.penalties:  # before the forward pass, or there is nothing to differentiate with respect to
            real = tuple(one.requires_grad_() if one.is_floating_point() else one for one in real)
        real_logits, fake_logits = self.module(*real), self.module(*fake)
        negative = self.loss.fake(fake_logits)
        if self.mismatched is not None:
            wrong = tuple(one.detach() for one in self.mismatched(real))
            negative = (negative + self.loss.fake(self.module(*wrong))) / 2
        adversarial = self.loss.real(real_logits) + negative
        parts = {"adversarial": adversarial}
        critic = CriticPass(self.module, real, fake, real_logits, fake_logits)
        parts |= {name: penalty(critic) for name, penalty in self.penalties.items()}
        return self.scale * adversarial + sum(parts[name] for name in self.penalties), parts

    def generator_loss(self, fake: Inputs) -> Tensor:
        """The generator's adversarial loss, unweighted."""
        return self.loss.generator(self.module(*fake))


def weight_bound(bound: float = 0.01) -> Callable[[nn.Module], None]:
    """Weight clipping: all parameters of a critic back into [-bound, bound], in place.

    Args:
        bound: c, in [1e-12, 1e6].

    Raises:
        UsageError: a bound out of range.

    Paper: Wasserstein GAN (arXiv 1701.07875).
    """
    check_number("bound", bound, least=1e-12, most=1e6)

    @torch.no_grad()
    def constrain(module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.clamp_(-bound, bound)

    return constrain


def _inputs(value: Any) -> Inputs:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _summed(logits: Logits) -> Tensor:
    """Logits of one scale as they are; of several the sum of each sample's, [B]."""
    if isinstance(logits, Tensor):
        return logits
    return torch.stack([one.flatten(1).sum(1) for one in logits]).sum(0)
