"""Sparse training of a model: which layers, by which pattern and rule, through dense, sparse and final phase."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from binderclip.compress.weights.nm import Pattern
from binderclip.compress.weights.rules import DENSE, Coefficients, Rule
from binderclip.compress.weights.sparse_weight import SparseWeight, take_off
from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["SparseTraining", "SparsityReport", "prunable_layers"]

WEIGHT = "weight"
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class SparsityReport:
    """Shares of weights that are zero.

    Attributes:
        layers: by layer.
        prunable: over the weights of these layers.
        total: over all parameters of the model.
    """

    layers: dict[str, float]
    prunable: float
    total: float


def prunable_layers(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The layers to be pruned, by name: linear ones and convolutions.

    Args:
        model: any module.
        layers: names or shell patterns, such as `"visual.*.mlp.*"`; None for all but the first and the last, which are
            few and matter most.

    Raises:
        UsageError: a pattern that no such layer has, a layer that is parametrized or pruned already, a weight that is
            not finite, one that two layers share, or nothing to prune.
    """
    known = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    if layers is None:
        chosen = dict(list(known.items())[1:-1])
    else:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
                raise UsageError(f"no linear layer or convolution is named like {pattern!r}: {', '.join(known)[:200]}")
        chosen = {n: m for n, m in known.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}
    if not chosen:
        raise UsageError(
            f"nothing to prune: {len(known)} linear layers and convolutions, of which the first and the last stay; "
            "name them by layers=[...]"
        )
    owners: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners[id(parameter)] = owners.get(id(parameter), "") + f" {name}.{own}"
    for name, module in chosen.items():
        if parametrize.is_parametrized(module, WEIGHT) or prune.is_pruned(module):
            raise UsageError(f"{name} is pruned or parametrized already: finalize that first")
        if len(shared := owners[id(module.weight)].split()) > 1:
            raise UsageError(f"{name}: its weight is shared ({', '.join(shared)}); leave tied layers out")
        if not bool(torch.isfinite(module.weight).all()):  # type: ignore[arg-type]
            raise UsageError(f"{name}: its weight has NaN or infinity, which no pruning can rank")
    return chosen


class SparseTraining:
    """Train a model with pruned weights: dense first, then by a pattern and a rule, at last by a plain mask.

    It parametrizes the layers in place (`torch.nn.utils.parametrize`), so build it before the optimizer, and pass it to
    `fit` as a callback; a loop of one's own calls `on_start(0, steps)` and, after each step, `after_step(done)`.
    `finalize()` leaves a plain model whose pruned weights are zero.

    Args:
        model: any module: a tower, an `ImageTextModel`, a classifier.
        pattern: which weights are kept: `NMMask`, `StructureDecay`, or any `mask(weight)` with `at(step, steps)`; None
            where masks are set by hand, or learned.
        rule: what pruned weights are worth: `StraightThrough`, `SRSTE`, `MaskDecay`, `HardMask`.
        layers: names or shell patterns; None for all linear layers and convolutions but the first and the last.
        dense: share of the steps before anything is pruned, in [0, 1).
        finish: share at the end with the pattern's last mask and the rule's last coefficients, in [0, 1).

    Raises:
        UsageError: what `prunable_layers` refuses, a share out of range, or shares that leave no sparse phase.

    Paper: Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers (arXiv 2402.04744).

    Examples:
        >>> import torch
        >>> from binderclip.compress import NMMask, SRSTE
        >>> net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
        >>> sparse = SparseTraining(net, NMMask(2, 4), SRSTE())  # fit(..., callbacks=[sparse])
        >>> sparse.on_start(0, 100)
        >>> _ = net(torch.ones(1, 8))
        >>> sparse.report().layers
        {'1': 0.5}
    """

    def __init__(
        self, model: nn.Module, pattern: Pattern | None, rule: Rule, *, layers: Iterable[str] | None = None,
        dense: float = 0.0, finish: float = 0.0,
    ) -> None:  # fmt: skip
        check_number("dense", dense, least=0, below=1)
        check_number("finish", finish, least=0, below=1)
        if dense + finish >= 1:
            raise UsageError(f"dense={dense} and finish={finish} leave no sparse phase between them")
        self.model, self.pattern, self.rule = model, pattern, rule
        self.dense, self.finish = dense, finish
        self.layers = prunable_layers(model, layers)
        self.weights: dict[str, SparseWeight] = {}
        self.steps = 0
        self._coefficients: Coefficients | None = None
        for name, module in self.layers.items():
            self.weights[name] = self._parametrization(module.weight.detach())  # type: ignore[operator]
            # `unsafe` leaves out a trial call, which would choose a mask.
            parametrize.register_parametrization(module, WEIGHT, self.weights[name], unsafe=True)

    def _parametrization(self, weight: Tensor) -> SparseWeight:
        return SparseWeight(weight, self.pattern)

    def on_start(self, step: int, steps: int) -> None:
        """Take the length of the training; `step` steps are done already."""
        self.steps = steps
        self._coefficients = None  # a checkpoint may have brought others
        self._prepare(step)

    def after_step(self, step: int) -> None:
        """Set pattern and coefficients for the step that follows `step` done ones."""
        self._prepare(step)

    def _prepare(self, step: int) -> None:
        # A run that goes on comes here twice for one step, after it and from `on_start`: the second changes nothing.
        begin = round(self.dense * self.steps)
        phase = max(1, self.steps - begin - round(self.finish * self.steps))
        now = step - begin
        final = now >= phase
        pattern = None if self.pattern is None else self.pattern.at(min(max(now, 0), phase), phase)
        coefficients = DENSE if now < 0 else self.rule.last() if final else self.rule.at(now, phase)
        changed, self._coefficients = coefficients != self._coefficients, coefficients
        for weight in self.weights.values():
            weight.pattern = pattern
            if changed:
                weight.set(coefficients)

    def on_end(self, result: Any) -> None:
        """Choose the masks by the weights of the last step."""
        self.renew()

    def renew(self) -> None:
        """Choose all masks by the weights as they are now, frozen ones excepted."""
        for name, weight in self.weights.items():
            weight.renew(self._original(name))

    @property
    def masks(self) -> dict[str, Tensor]:
        """Mask of each layer, true for kept weights."""
        return {name: weight.mask for name, weight in self.weights.items()}

    def report(self) -> SparsityReport:
        """How much is zero."""
        masks = self.masks
        pruned = {name: int((~mask).sum()) for name, mask in masks.items()}
        total = sum(parameter.numel() for parameter in self.model.parameters())
        return SparsityReport(
            {name: pruned[name] / mask.numel() for name, mask in masks.items()},
            sum(pruned.values()) / sum(mask.numel() for mask in masks.values()),
            sum(pruned.values()) / total,
        )

    def finalize(self) -> nn.Module:
        """End the training: plain layers whose pruned weights are exactly zero, under their plain names.

        Returns:
            The model.

        Raises:
            UsageError: it was finalized before.
        """
        self._end()
        for module in self.layers.values():
            take_off(module)
        return self.model

    def to_torch_prune(self) -> nn.Module:
        """End the training in the convention of `torch.nn.utils.prune`: `weight_orig` and `weight_mask`.

        `prune.remove(layer, "weight")` then makes the zeros permanent.

        Returns:
            The model.

        Raises:
            UsageError: it was finalized before.
        """

        self._end()
        for name, module in self.layers.items():
            # A soft threshold has changed what it kept: then the weights behind the mask are the changed ones.
            take_off(module, baked=self.weights[name].threshold is not None)
            prune.custom_from_mask(module, WEIGHT, self.weights[name].mask)
        return self.model

    def _end(self) -> None:
        if not all(parametrize.is_parametrized(module, WEIGHT) for module in self.layers.values()):
            raise UsageError("this training was finalized before")
        for name, weight in self.weights.items():
            weight.pattern = None if self.pattern is None else self.pattern.at(1, 1)
            weight.set(self.rule.last())
            weight.renew(self._original(name))
            weight.eval()  # the mask stays as it is while the parametrization is taken off

    def _original(self, name: str) -> Tensor:
        original: Tensor = self.layers[name].parametrizations.weight.original.detach()  # type: ignore[union-attr,index,operator]
        return original
