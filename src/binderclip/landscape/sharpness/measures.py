"""How far the loss of a batch rises in a neighbourhood of the weights: at most, and on average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.landscape.sharpness.apgd import Ascent, ascend
from binderclip.landscape.sharpness.neighbourhood import Neighbourhood
from binderclip.numeric import check_whole

__all__ = ["SharpnessResult", "average_sharpness", "classification_loss", "worst_case_sharpness"]

BatchLoss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class SharpnessResult:
    """The rise of the loss in a neighbourhood, batch by batch.

    Attributes:
        values: rise of each batch: the loss at the worst point (or the mean over draws) less the loss at the weights.
        losses: of each batch at the weights.
        figures: rise of the second figure, such as the error, at the same points; None where none was asked for.
        lengths: of each batch's worst perturbation, in L2 over all weights; of `average_sharpness` the draws' mean.
        neighbourhood: norm, scale and radius in words.
    """

    values: Float[Tensor, "batches"]
    losses: Float[Tensor, "batches"]
    figures: Float[Tensor, "batches"] | None
    lengths: Float[Tensor, "batches"]
    neighbourhood: str

    @property
    def mean(self) -> float:
        """Over batches: the sharpness at the size of a batch (m-sharpness)."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Of `mean`; NaN with one batch."""
        return float(self.values.std() / math.sqrt(len(self.values))) if len(self.values) > 1 else math.nan


def worst_case_sharpness(
    loss: BatchLoss,
    batches: Iterable[Any],
    neighbourhood: Neighbourhood,
    *,
    steps: int = 20,
    restarts: int = 1,
    figure: BatchLoss | None = None,
    legacy: bool = False,
    seed: int = 0,
) -> SharpnessResult:
    """The largest loss that Auto-PGD finds near the weights, less the loss at them; found anew for every batch.

    The maximum is taken batch by batch and then averaged, never of the averaged loss. A step costs a forward and
    a backward pass. The weights are put back bit for bit. In an l2 ball the ascent is in units of c, where the ball is
    round: steps along c^2 g, rescaled to the border. The paper's code mixes steps along c g with the Euclidean
    projection, which stops elsewhere and gives less than the maximum where units differ (`legacy`).

    Args:
        loss: batch -> mean loss, with its graph; `classification_loss` makes the usual one. Dropout and batch norm in
            evaluation mode.
        batches: any iterable; 8 batches of 128 training samples without augmentation in the paper.
        neighbourhood: space, norm, scale and radius. Radii of different norms or scales cannot be compared.
        steps: of ascent.
        restarts: ascents; the first starts at the weights, the others at random points of the neighbourhood.
        figure: batch -> a second figure, such as the error, at the weights and at the worst point.
        legacy: as the released code does: a Gaussian start that is not projected, steps along c g / ||g|| with the
            Euclidean projection in an l2 ball, and perturbations that are not put back where the step is halved.
        seed: of random starts.

    Returns:
        Values of 0 or more; infinite where the loss is no longer finite at a near point.

    Raises:
        UsageError: no batch, no step, no restart, a module in training mode that has dropout or batch norm, or a loss
            that is not finite at the weights.

    Examples:
        >>> w = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> ball = Neighbourhood([w], rho=0.5)
        >>> round(worst_case_sharpness(lambda batch: w.square().sum(), [None], ball).mean, 3)
        1.25

    Paper: A Modern Look at the Relationship between Sharpness and Generalization (arXiv 2302.07011).
    """
    check_whole("steps", steps, least=1)
    check_whole("restarts", restarts, least=1)
    _measurable(neighbourhood)
    plan = Ascent(steps, restarts, legacy, torch.Generator().manual_seed(seed))
    rows = []
    for index, batch in enumerate(batches):
        with neighbourhood.at(None):
            start = _value(loss, batch, f"the loss of batch {index}")
            first = None if figure is None else _value(figure, batch, f"the figure of batch {index}")
            highest, perturbation = ascend(partial(loss, batch), start, neighbourhood, plan)
            rise = 0.0
            if figure is not None and first is not None and perturbation is not None:
                with neighbourhood.at(perturbation):
                    rise = _value(figure, batch, "") - first
        rows.append((highest - start, start, rise, _size(perturbation)))
    return _result(rows, figure is not None, neighbourhood)


def average_sharpness(
    loss: BatchLoss,
    batches: Iterable[Any],
    neighbourhood: Neighbourhood,
    *,
    draws: int = 20,
    figure: BatchLoss | None = None,
    seed: int = 0,
) -> SharpnessResult:
    """The mean loss at random points near the weights, less the loss at them.

    Perturbations are N(0, rho^2 c^2) in each weight (`l2`) or uniform in [-rho c, rho c] (`linf`), drawn anew for every
    batch; a draw costs a forward pass. The weights are put back bit for bit.

    Args:
        loss, batches, neighbourhood, figure: see `worst_case_sharpness`; no gradient is needed.
        draws: a batch.
        seed: of the draws.

    Raises:
        UsageError: no batch, no draw, a module in training mode that has dropout or batch norm, or a loss that is not
            finite at the weights.

    Paper: as `worst_case_sharpness`.
    """
    check_whole("draws", draws, least=1)
    _measurable(neighbourhood)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index, batch in enumerate(batches):
        with neighbourhood.at(None):
            start = _value(loss, batch, f"the loss of batch {index}")
            first = 0.0 if figure is None else _value(figure, batch, f"the figure of batch {index}")
            rises = torch.zeros(draws, 3, dtype=torch.float64)
            for draw in range(draws):
                perturbation = neighbourhood.sample(generator)
                with neighbourhood.at(perturbation):
                    rises[draw, 0] = _value(loss, batch, "") - start
                    rises[draw, 1] = 0.0 if figure is None else _value(figure, batch, "") - first
                rises[draw, 2] = _size(perturbation)
        rise, second, size = rises.mean(0).tolist()
        rows.append((rise, start, second, size))
    return _result(rows, figure is not None, neighbourhood)


def classification_loss(model: Callable[[Any], Tensor], *, normalise_logits: bool = False) -> BatchLoss:
    """Mean cross-entropy of a batch (inputs, labels), as sharpness takes its loss.

    Args:
        model: inputs -> logits (batch, classes).
        normalise_logits: divide each sample's logits by their L2 norm first, so that the scale of the logits, which
            changes no prediction, does not count.
    """

    def loss(batch: tuple[Any, Tensor]) -> Tensor:
        logits = model(batch[0])
        return F.cross_entropy(F.normalize(logits, dim=-1) if normalise_logits else logits, batch[1])

    return loss


def _measurable(neighbourhood: Neighbourhood) -> None:
    """Refuse layers whose passes differ or leave traces."""
    module = neighbourhood.module
    if module is None:
        return
    for name, layer in module.named_modules():
        moving = isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))
        if moving and layer.training:
            raise UsageError(f"{name or type(layer).__name__} is in training mode: call eval() before measuring")


@torch.no_grad()
def _value(function: BatchLoss, batch: Any, what: str) -> float:
    """A figure of a batch; with `what`, one that is not finite is refused."""
    value = float(function(batch))
    if what and not math.isfinite(value):
        raise UsageError(f"{what} is {value} at the weights themselves")
    return value


def _size(perturbation: list[Tensor] | None) -> float:
    if perturbation is None:
        return 0.0
    return math.sqrt(sum(float(part.double().square().sum()) for part in perturbation))


def _result(rows: list[tuple[float, float, float, float]], figures: bool, ball: Neighbourhood) -> SharpnessResult:
    if not rows:
        raise UsageError("sharpness needs at least one batch")
    values, losses, rises, lengths = torch.tensor(rows, dtype=torch.float64).T
    return SharpnessResult(values, losses, rises if figures else None, lengths, ball.text)
