"""The straight way from one model to another: the model at a point of it, and what the points are worth."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.directions import require_same_tensors
from binderclip.landscape.surface.layers import chosen_layers
from binderclip.landscape.surface.moving import FixedBatches, ModelLoss, Progress, checked_grid, classification_figures
from binderclip.numeric import check_number

WEIGHTS = tuple(step / 10 for step in range(11))
"""The paper's grid: 0, 0.1, ..., 1."""


class Between:
    """A model in evaluation mode that is moved to points between two others; as a context it is put back.

    Args:
        model: the one that moves; parameters, buffers and modes are put back bit for bit.
        start, end: tensors by name, at weight 0 and at weight 1. What `model` has beside them stays.
    """

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> None:
        tensors = _tensors(model)
        self.model = model
        self._names = list(start)
        self._moving = [tensors[name] for name in self._names]
        self._ends = [[side[name].detach().to(tensors[name]).clone() for name in self._names] for side in (start, end)]

    def __enter__(self) -> Between:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self._kept = [(t, t.detach().clone()) for t in (*self.model.parameters(), *self.model.buffers())]
        self.model.eval()
        return self

    def __exit__(self, *error: object) -> None:
        with torch.no_grad():
            for tensor, before in self._kept:
                tensor.copy_(before)
        for module, training in self._modes:
            module.training = training

    @torch.no_grad()
    def at(self, alpha: float, names: frozenset[str] | None = None) -> None:
        """Move to (1 - alpha) start + alpha end; those not named go to the end."""
        for name, tensor, start, end in zip(self._names, self._moving, *self._ends, strict=True):
            tensor.copy_(mixed(start, end, alpha) if names is None or name in names else end)


@dataclass(frozen=True)
class InterpolationCurve:
    """What the models between two others are worth, on one or several sets.

    Attributes:
        alphas: weight of the second model: 0 is the first model, 1 the second.
        loss: by set, at each weight; NaN or infinite where it is.
        accuracy: by set, at each; None where the loss function gives none.
    """

    alphas: Float[Tensor, "A"]
    loss: dict[str, Float[Tensor, "A"]]
    accuracy: dict[str, Float[Tensor, "A"]] | None

    def quality(self, name: str) -> Float[Tensor, "A"]:
        """The accuracy of a set, or minus its loss where there is none; -inf where the loss is not finite.

        Raises:
            UsageError: no set of this name.
        """
        if name not in self.loss:
            raise UsageError(f"the curve has no set {name!r}: it has {', '.join(self.loss)}")
        values = -self.loss[name] if self.accuracy is None else self.accuracy[name]
        return torch.where(self.loss[name].isfinite(), values, -math.inf)

    def best(self, name: str) -> float:
        """The weight with the best quality on a set; the one nearest to the middle among equals.

        It is chosen on the set: what it promises there is too good for another.
        """
        values = self.quality(name)
        ties = self.alphas[values == values.max()]
        return float(ties[(ties - 0.5).abs().argmin()])

    def gain(self, name: str) -> float:
        """Largest quality between the ends above the straight line from end to end.

        Ends do not count, so that it is negative where every model between is worse than the line.
        """
        return self._above_chord(self.quality(name))

    def barrier(self, name: str) -> float:
        """Largest loss between the ends above the straight line from end to end; infinite where it is not finite."""
        values = self.loss[name]
        return self._above_chord(torch.where(values.isfinite(), values, math.inf))

    def _above_chord(self, values: Tensor) -> float:
        ends = torch.stack([values[0], values[-1]])
        if len(self.alphas) < 3 or float(self.alphas[0]) != 0 or float(self.alphas[-1]) != 1:
            raise UsageError("a gain needs weights from 0 to 1 and one between: give alphas such as 0, 0.5, 1")
        if not bool(ends.isfinite().all()):
            return math.nan
        return float((values - torch.lerp(ends[0], ends[1], self.alphas))[1:-1].max())

    def plot(self) -> Any:
        """A matplotlib figure: accuracy and loss of every set over the weight."""
        from binderclip.landscape.surface.pictures import interpolation_figure

        return interpolation_figure(self.alphas, self.loss, self.accuracy)


def interpolate_weights(
    model_a: nn.Module, model_b: nn.Module, alpha: float, layers: Sequence[str] | None = None
) -> nn.Module:
    """A new model between two of one architecture: (1 - alpha) a + alpha b, parameter by parameter.

    At 0 and at 1 it is the first or the second model exactly. Running statistics move along; buffers that count in
    whole numbers are those of the nearer model. With a
    pre-trained `model_a` and a fine-tuned `model_b` it is WiSE-FT.

    Args:
        model_a, model_b: of one architecture; neither is changed.
        alpha: in [0, 1], the weight of `model_b`.
        layers: names of `weight_layers`; these alone are mixed, all others are `model_b`'s. Default all weights, a
            logit scale too.

    Raises:
        UsageError: a weight outside [0, 1], models of two architectures, or an unknown layer.

    Paper: In Search of the Successful Interpolation: On the Role of Sharpness in CLIP Generalization (arXiv
    2410.16476); WiSE-FT: Wortsman et al., Robust fine-tuning of zero-shot models (arXiv 2109.01903).

    Examples:
        >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> torch.equal(interpolate_weights(a, b, 1.0).weight, b.weight)
        True
    """
    check_number("alpha", alpha, least=0, most=1)
    start, end = _tensors(model_a), _tensors(model_b)
    require_same_tensors(start, end)
    names = None if layers is None else _names_of(model_b, layers)
    model = copy.deepcopy(model_b)
    whole = {name: t for name, t in model_a.named_buffers() if not t.is_floating_point()} if names is None else {}
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            if names is None or name in names:
                tensor.copy_(mixed(start[name].detach().to(tensor), end[name], alpha))
        for name, buffer in model.named_buffers():
            if name in whole and alpha < 0.5:
                buffer.copy_(whole[name])
    return model


def interpolation_curve(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any] | Mapping[str, Iterable[Any]],
    *,
    alphas: Sequence[float] = WEIGHTS,
    layers: Sequence[str] | None = None,
    loss: ModelLoss = classification_figures,
    progress: Progress | None = None,
) -> InterpolationCurve:
    """Loss and accuracy of the models between two others.

    Weights move once a point; all sets are measured there. `model_b` is what moves, in evaluation mode, and is put back
    bit for bit.

    Args:
        model_a, model_b: of one architecture, such as a pre-trained and a fine-tuned model.
        batches: see `loss_line`; or several sets by name, such as that of the task and shifted ones. One has the name
            "data".
        alphas: weights of `model_b`, rising, in [0, 1].
        layers: see `interpolate_weights`.
        loss, progress: see `loss_line`.

    Raises:
        UsageError: weights that do not rise or lie outside [0, 1], no data, models of two architectures or with equal
            weights, or an unknown layer.

    Paper: as `interpolate_weights`.
    """
    grid = checked_grid("alphas", alphas)
    if grid[0] < 0 or grid[-1] > 1:
        raise UsageError(f"alphas must lie in [0, 1], got {grid[0]:g} to {grid[-1]:g}")
    sets = dict(batches) if isinstance(batches, Mapping) else {"data": batches}
    if not sets:
        raise UsageError("batches holds no set: there is nothing to measure on")
    start, end = between_tensors(model_a, model_b)
    names = None if layers is None else _names_of(model_b, layers)
    data = {name: FixedBatches(model_b, each, loss) for name, each in sets.items()}
    rows = []
    with torch.no_grad(), Between(model_b, start, end) as between:
        for alpha in grid:
            between.at(alpha, names)
            rows.append(torch.stack([each() for each in data.values()]))
            if progress is not None:
                progress(len(rows), len(grid))
    figures = torch.stack(rows).cpu().double()  # [A, sets, 2]
    by_set = {name: figures[:, number] for number, name in enumerate(data)}
    accuracy = None if bool(figures[..., 1].isnan().all()) else {name: each[:, 1] for name, each in by_set.items()}
    return InterpolationCurve(
        torch.tensor(grid, dtype=torch.float64), {name: each[:, 0] for name, each in by_set.items()}, accuracy
    )


def keep_largest_updates(
    model_a: nn.Module, model_b: nn.Module, layers: Sequence[str], fraction: float = 0.1
) -> nn.Module:
    """A new model: `model_b`, of whose way from `model_a` only the longest steps are kept in the layers named.

    In each of these layers the entries with the largest |b - a| stay those of `model_b`, as many as the fraction says
    of the layer, and all others go back to `model_a`. The paper's repair of layers that break an interpolation.

    Args:
        model_a, model_b: of one architecture, such as a pre-trained and a fine-tuned model; neither is changed.
        layers: names of `weight_layers`, such as those of `straggler_layers`.
        fraction: of the layer's entries that stay, in [0, 1]. Ties at the bound all stay.

    Raises:
        UsageError: a fraction outside [0, 1], an unknown layer, or models of two architectures or with equal weights.

    Paper: as `interpolate_weights`.
    """
    check_number("fraction", fraction, least=0, most=1)
    start, end = between_tensors(model_a, model_b)
    model = copy.deepcopy(model_b)
    tensors = _tensors(model)
    for layer in chosen_layers(model_b, list(layers)).values():
        names = [name for name in layer if name in start]
        if not names:
            continue
        steps = torch.cat([(end[name] - start[name].to(end[name])).abs().flatten() for name in names])
        kept = round(fraction * len(steps))
        bound = steps.topk(kept).values[-1] if kept else math.inf
        with torch.no_grad():
            for name in names:
                own = start[name].to(end[name])
                tensors[name].copy_(torch.where((end[name] - own).abs() >= bound, end[name], own))
    return model


def between_tensors(model_a: nn.Module, model_b: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and floating buffers in which two models differ, by name, detached.

    What is equal stays as it is: a causal mask holds infinities, between which there is nothing.

    Raises:
        UsageError: two architectures, weights that are not finite where they differ, or equal ones.
    """
    start, end = _tensors(model_a), _tensors(model_b)
    require_same_tensors(start, end)
    pairs = {name: (start[name].detach(), end[name].detach()) for name in start}
    differing = {name: pair for name, pair in pairs.items() if not torch.equal(pair[0].to(pair[1]), pair[1])}
    for name, pair in differing.items():
        for title, tensor in zip(("first", "second"), pair, strict=True):
            if not bool(tensor.isfinite().all()):
                raise UsageError(f"{name} of the {title} model holds NaN or infinity")
    if not differing:
        raise UsageError("both models have the same weights: nothing lies between them")
    return {name: pair[0] for name, pair in differing.items()}, {name: pair[1] for name, pair in differing.items()}


def mixed(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) start + alpha end, exactly either end at 0 and 1, and what is equal stays."""
    if alpha in (0, 1) or torch.equal(start, end):
        return (end if alpha else start).detach().clone()
    return torch.lerp(start.detach(), end.detach(), alpha)


def _names_of(model: nn.Module, layers: Sequence[str]) -> frozenset[str]:
    return frozenset(name for names in chosen_layers(model, list(layers)).values() for name in names)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers by name, each once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
