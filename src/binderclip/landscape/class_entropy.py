"""How unpredictable a neuron's on/off state is given the class: the entropy of post-synaptic potentials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["PSPEntropy", "psp_entropy"]


@dataclass(frozen=True)
class PSPEntropy:
    """States of the neurons of a layer, by class.

    Attributes:
        on: P(on | class), a row a neuron.
        entropy: of each neuron, in bits, summed over the classes: 0 where the class tells the state, C where it never
            does.
        information: bits that a neuron's state tells about the class, all classes weighing the same.
        alive: whether a neuron is on for some samples and off for others. A constant one has entropy 0.
    """

    on: Float[Tensor, "N C"]
    entropy: Float[Tensor, "N"]
    information: Float[Tensor, "N"]
    alive: Bool[Tensor, "N"]

    @property
    def mean(self) -> float:
        """Entropy of the neurons that are alive, on average; NaN where none is."""
        return float(self.entropy[self.alive].mean())


@torch.no_grad()
def psp_entropy(potentials: Float[Tensor, "B N *places"], labels: Int[Tensor, "B"]) -> PSPEntropy:
    """Entropy of the states of neurons given the class: H(c) = -p log2 p - (1 - p) log2(1 - p), p = P(z > 0 | c).

    Args:
        potentials: z, what enters the nonlinearity (after a batch norm, if there is one); of convolutions every place
            of a channel counts as a sample.
        labels: class of each sample, from 0; every class up to the largest needs a sample.

    Raises:
        UsageError: no sample, as many labels as samples not given, a class without a sample, or NaN.

    Paper: Pruning artificial neural networks: a way to find well-generalizing, high-entropy sharp minima
    (arXiv 2004.14765).

    Examples:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> psp_entropy(z, torch.tensor([0, 0, 1, 1])).entropy  # fires for one class; for half of both
        tensor([0., 2.])
    """
    if len(potentials) == 0 or potentials.ndim < 2 or len(labels) != len(potentials):
        raise UsageError(
            f"potentials are (samples, neurons, ...), labels one a sample: {tuple(potentials.shape)}, {len(labels)}"
        )
    if bool(potentials.isnan().any()) or int(labels.min()) < 0:
        raise UsageError("potentials must not be NaN, and labels count from 0")
    counts = torch.bincount(labels)
    if bool((counts == 0).any()):
        raise UsageError(f"class {int((counts == 0).nonzero()[0])} has no sample: number the classes without gaps")
    state = (potentials > 0).flatten(2).float().mean(2) if potentials.ndim > 2 else (potentials > 0).float()  # (B, N)
    on = torch.zeros(len(counts), state.shape[1], device=state.device).index_add_(0, labels, state) / counts[:, None]
    given, overall = _binary_entropy(on), _binary_entropy(on.mean(0))
    average = state.mean(0)
    return PSPEntropy(on.T, given.sum(0), (overall - given.mean(0)).clamp(min=0), (average > 0) & (average < 1))


def _binary_entropy(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In bits; 0 log 0 = 0."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(torch.tensor(2.0))
