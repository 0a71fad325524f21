"""Deep perceptrons on scikit-learn's digits, trained from a critical initialisation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.studies.harness import accuracy
from binderclip.studies.protocols.training.spike import BATCH, digits

if TYPE_CHECKING:
    from binderclip.compress import CriticalInit

__all__ = ["BATCH", "LAYERS", "MOMENTUM", "RATE", "STEPS", "UNITS", "train"]

UNITS, LAYERS, STEPS, RATE, MOMENTUM = 200, 20, 600, 3e-3, 0.9


@lru_cache(maxsize=1)
def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits less their mean, each of mean square 1, and labels: of training, of the test."""
    x, y, test, labels = digits()
    centred = [F.normalize(each - x.mean(0)) * x.shape[1] ** 0.5 for each in (x, test)]
    return centred[0], y, centred[1], labels


def network(init: CriticalInit, features: int, generator: torch.Generator) -> nn.Sequential:
    """`LAYERS` linear layers with the activation between; inputs of mean square 1 have variance 1 behind the first.

    Args:
        init: of all layers but the first, at a variance of 1.
        features: of an input.
        generator: of the weights.
    """
    first = nn.Linear(features, UNITS, bias=False)
    nn.init.normal_(first.weight, std=features**-0.5, generator=generator)
    layers: list[nn.Module] = [first]
    for number in range(1, LAYERS):
        layers += [init.activation(), nn.Linear(UNITS, UNITS if number < LAYERS - 1 else 10)]
        init.apply_(layers[-1], generator)
    return nn.Sequential(*layers)


def train(init: CriticalInit, seed: int, rate: float = RATE) -> tuple[float, float]:
    """Test accuracy, and share of zeros behind the activations on test pictures, after training.

    Where the loss is no number, training ends there, since no step leads back; such a network guesses.

    Args:
        init: of the network.
        seed: of weights and batches.
        rate: of SGD.
    """
    x, y, test, labels = pictures()
    generator = torch.Generator().manual_seed(seed)
    model = network(init, x.shape[1], generator)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM)
    for batch in torch.randint(len(x), (STEPS, BATCH), generator=generator):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        if not bool(loss.isfinite()):
            break
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        zeros = [float((model[:end](test) == 0).double().mean()) for end in range(2, len(model), 2)]
        return accuracy(model, test, labels), float(np.mean(zeros))
