"""Pruning by magnitude during a training: once, or in rounds that a validation loss decides; and what prepares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from binderclip.compress.weights.rules import HardMask
from binderclip.compress.weights.sparse_training import SparseTraining
from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["GradualPruner", "OneShotPruner", "SensitivityRegularizer", "smallest_pruned"]


def smallest_pruned(weights: Mapping[str, Tensor], count: int) -> dict[str, Bool[Tensor, "..."]]:
    """Masks without the `count` smallest magnitudes of all weights together, as `prune.global_unstructured` chooses.

    Args:
        weights: by name.
        count: weights that go.

    Raises:
        UsageError: fewer than none, or more than there are.
    """
    total = sum(weight.numel() for weight in weights.values())
    check_whole("count", count, least=0)
    if count > total:
        raise UsageError(f"count={count} is more than the {total} weights there are")
    magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    kept = torch.ones_like(magnitudes, dtype=torch.bool)
    kept[magnitudes.topk(count, largest=False).indices] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}


class SensitivityRegularizer:
    """Shrink weights that the loss does not depend on: w loses decay * w * max(0, 1 - |dL/dw|) at each step (LOBSTER).

    A callback of `fit`; a loop of one's own calls `before_step` between the backward pass and the optimizer's step.
    S is the gradient of the batch's mean loss, its absolute value taken after the mean. With plain SGD the step is
    w - lr dL/dw - decay w [1 - |S|]+; the decay is not multiplied by the learning rate.

    Args:
        parameters: a module, whose matrices and convolutions are shrunk, or parameters.
        decay: lambda, 1e-6 to 1e-4 in the paper.

    Raises:
        UsageError: a decay outside [0, 1], or nothing to shrink.

    Paper: Pruning artificial neural networks: a way to find well-generalizing, high-entropy sharp minima
    (arXiv 2004.14765).
    """

    def __init__(self, parameters: nn.Module | Iterable[Tensor], decay: float = 1e-4) -> None:
        check_number("decay", decay, least=0, most=1)
        listed = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
        self.parameters = [p for p in listed if p.ndim > 1 or not isinstance(parameters, nn.Module)]
        if not self.parameters:
            raise UsageError("there is no weight to shrink")
        self.decay = decay

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Shrink; weights without a gradient stay."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.mul_(1 - self.decay * (1 - parameter.grad.abs()).clamp(min=0))


class OneShotPruner(SparseTraining):
    """Prune once by magnitude, over all layers together, and go on training with that mask.

    Args:
        model: any module.
        amount: share of the layers' weights that goes, in (0, 1).
        at: share of the steps before it.
        layers: names or shell patterns; None for all linear layers and convolutions but the first and the last.

    Raises:
        UsageError: a number out of range, or what `SparseTraining` refuses.

    Paper: Pruning artificial neural networks: a way to find well-generalizing, high-entropy sharp minima
    (arXiv 2004.14765), as the comparison.
    """

    def __init__(
        self, model: nn.Module, amount: float, *, at: float = 0.5, layers: Iterable[str] | None = None
    ) -> None:
        check_number("amount", amount, above=0, below=1)
        check_number("at", at, least=0, below=1)
        super().__init__(model, None, HardMask(), layers=layers, dense=at)
        self.amount = amount

    def _prepare(self, step: int) -> None:
        """Prune when the time has come; masks of a checkpoint stay."""
        super()._prepare(step)
        if step >= round(self.dense * self.steps) and all(bool(mask.all()) for mask in self.masks.values()):
            dense = {name: self._original(name) for name in self.weights}
            masks = smallest_pruned(dense, round(self.amount * sum(weight.numel() for weight in dense.values())))
            for name, weight in self.weights.items():
                weight.mask.copy_(masks[name])


class GradualPruner(SparseTraining):
    """Prune in rounds: at each plateau of the validation loss as many of the smallest weights as it bears.

    Every `every` steps the loss is evaluated. Once it has not improved for `patience` evaluations, the largest number
    of weights goes for which it grows by at most `tolerance` of itself, found by bisection; they stay 0. It ends when a
    round removes less than `least`. Use it with `SensitivityRegularizer`, which makes weights small that may go.

    Args:
        model: any module.
        validation: the loss on held-out data, never test data, in evaluation mode; a number.
        every: steps between evaluations.
        tolerance: relative growth of the loss by a round; 0.01 in the paper.
        patience: evaluations without an improvement; 20 epochs in the paper.
        least: share of the layers' weights that a round has to remove.
        target: share of zeros at which it ends; None for as many as go.
        layers: names or shell patterns; None for all linear layers and convolutions but the first and the last.

    Raises:
        UsageError: a number out of range, a loss that is not finite, or what `SparseTraining` refuses.

    Paper: Pruning artificial neural networks: a way to find well-generalizing, high-entropy sharp minima
    (arXiv 2004.14765).
    """

    def __init__(
        self, model: nn.Module, validation: Callable[[], float], *, every: int, tolerance: float = 0.01,
        patience: int = 3, least: float = 1e-3, target: float | None = None, layers: Iterable[str] | None = None,
    ) -> None:  # fmt: skip
        check_whole("every", every, least=1)
        check_whole("patience", patience, least=1)
        check_number("tolerance", tolerance, least=0)
        check_number("least", least, above=0, most=1)
        if target is not None:
            check_number("target", target, above=0, below=1)
        super().__init__(model, None, HardMask(), layers=layers)
        self.validation, self.every, self.tolerance, self.patience = validation, every, tolerance, patience
        self.least, self.target = least, target
        self.best, self.waited, self.finished, self.rounds = math.inf, 0, False, 0

    def after_step(self, step: int) -> None:
        """Evaluate, and prune on a plateau."""
        super().after_step(step)
        if step % self.every or self.finished:
            return
        loss = self._loss()
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.prune()

    def prune(self) -> int:
        """One round, whatever the plateau.

        Returns:
            How many weights it has removed.
        """
        kept = {name: weight.mask.clone() for name, weight in self.weights.items()}
        total = sum(mask.numel() for mask in kept.values())
        before = total - sum(int(mask.sum()) for mask in kept.values())
        # A weight that is masked counts as 0, so that it is among the smallest of every count.
        dense = {name: self._original(name) * kept[name] for name in self.weights}
        limit = self._loss() * (1 + self.tolerance)
        low, high = before, total - 1 if self.target is None else min(total - 1, round(self.target * total))
        while low < high:  # the largest count whose loss is within the limit
            middle = (low + high + 1) // 2
            self._mask(smallest_pruned(dense, middle))
            low, high = (middle, high) if self._loss() <= limit else (low, middle - 1)
        self._mask(kept if low <= before else smallest_pruned(dense, low))
        self.rounds += 1
        self.best, self.waited = math.inf, 0
        reached = self.target is not None and low >= round(self.target * total)
        self.finished = reached or low - before < self.least * total
        return max(0, low - before)

    def _mask(self, masks: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.mask.copy_(masks[name])

    def _loss(self) -> float:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                loss = float(self.validation())
        finally:
            self.model.train(training)
        check_number("the validation loss", loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints of `fit`; the masks are in the model's."""
        return {"best": self.best, "waited": self.waited, "finished": self.finished, "rounds": self.rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
        self.finished, self.rounds = bool(state["finished"]), int(state["rounds"])
