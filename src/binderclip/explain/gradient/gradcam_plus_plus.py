"""Grad-CAM++ and its smoothed form: channel weights from the first three powers of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.attribute import Plan, PlanMethod
from binderclip.explain.engine.gathering import Gathered, Opening, SiteSignal
from binderclip.explain.engine.observed import Observed
from binderclip.explain.engine.passes import Clean, NoisyCopies, Pass
from binderclip.explain.engine.places import Layer
from binderclip.settings import check_choice


@dataclass(frozen=True)
class GradCAMPlusPlus(PlanMethod):
    """Grad-CAM whose channel weights count every place that raises the score alike, so that several objects show.

    `alpha = G^2 / (2 G^2 + (sum A) G^3)` at each place, `w = sum alpha relu(G)`, the map `relu(sum_k w_k A_k)`. Derived
    for feature maps that are not negative, after a ReLU: elsewhere `alpha` may change its sign and become large.

    Args:
        layer: None for the last spatial layer; a block index, a submodule or its name, or several, whose
            maps are summed.
        channels: indices of feature maps to keep; None for all.
        neurons: (h, w) bool, or (row, column) pairs: places that count in the weights; None for all.

    Raises:
        UsageError: when called, a layer, channel or neuron that does not exist; see `attribute`.

    Paper: Chattopadhyay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks (arXiv
    1710.11063).
    """

    layer: Layer | Sequence[Layer] | None = None
    channels: Sequence[int] | None = None
    neurons: Any = None

    def plan(self) -> Plan:
        """What it asks of a pass, to be shared with other methods."""
        return Plan("gradcampp", self._open, Clean(), self.layer, finish="relu")

    def _open(self, opening: Opening) -> _Powers:
        return _Powers(opening, self.channels, self.neurons)


@dataclass(frozen=True)
class SmoothGradCAMPlusPlus(PlanMethod):
    """Grad-CAM++ with the powers of the gradient averaged over noisy copies; feature maps are the clean image's.

    The powers are averaged, not the maps and not the gradient before it is raised. Noise at level 0 gives Grad-CAM++.

    Args:
        layer: None for the last spatial layer; a block index, a submodule or its name, or several, whose
            maps are summed.
        n_samples: noisy copies.
        level: standard deviation of the noise as a share of the image's range.
        activation: `clean`, or `mean` for feature maps averaged over the copies.
        channels: indices of feature maps to keep; None for all.
        neurons: (h, w) bool, or (row, column) pairs: places that count in the weights; None for all.
        seed: of the noise.
        batch: pictures per forward; changes speed and memory only.

    Raises:
        UsageError: a setting out of range; when called, see `attribute`.

    Paper: Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional Neural Network
    Models (arXiv 1908.01224).
    """

    layer: Layer | Sequence[Layer] | None = None
    n_samples: int = 5
    level: float = 0.15
    activation: str = "clean"
    channels: Sequence[int] | None = None
    neurons: Any = None
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ("clean", "mean"))
        NoisyCopies(self.n_samples, self.level, self.seed, self.batch)

    def plan(self) -> Plan:
        """What it asks of the noisy passes, to be shared with other methods."""
        passes = NoisyCopies(self.n_samples, self.level, self.seed, self.batch)
        return Plan("smoothgradcampp", self._open, passes, self.layer, finish="relu")

    def _open(self, opening: Opening) -> _Powers:
        return _Powers(opening, self.channels, self.neurons, mean_activation=self.activation == "mean")


class _Powers:
    """Running means of the gradient's first three powers at each place of each layer."""

    def __init__(
        self, opening: Opening, channels: Sequence[int] | None, neurons: Any, mean_activation: bool = False
    ) -> None:
        self.opening, self.channels, self.neurons, self.mean_activation = opening, channels, neurons, mean_activation
        self.powers: list[list[Tensor]] = [[] for _ in opening.places]
        self.activations: list[Tensor | None] = [None for _ in opening.places]

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Add the powers of one pass."""
        for index, (place, gradient) in enumerate(
            zip(self.opening.places, seen.grads(score, self.opening.places), strict=True)
        ):
            first = gradient.float().unflatten(0, (step.copies, -1))
            second = first.square()
            weight = sum(step.weights) / step.copies
            powers = [weight * power.sum(0) for power in (first, second, first * second)]
            old = self.powers[index]
            self.powers[index] = [a + b for a, b in zip(old, powers, strict=True)] if old else powers
            if self.mean_activation:
                part = weight * seen.value(place).float().unflatten(0, (step.copies, -1)).sum(0)
                before = self.activations[index]
                self.activations[index] = part if before is None else before + part

    def result(self) -> Gathered:
        """Weights and maps."""
        sites = []
        for place, powers, mean in zip(self.opening.places, self.powers, self.activations, strict=True):
            activation = self.opening.clean.value(place).float() if mean is None else mean
            weights = channel_weights(activation, *powers, neurons=_mask(self.neurons, activation))
            if self.channels is not None:
                weights, activation = _picked(weights, self.channels), _picked(activation, self.channels)
            sites.append(SiteSignal((weights[:, None, None] * activation).sum(-1), self.opening.clean.boxes[place]))
        return Gathered(sites)


def channel_weights(
    activation: Float[Tensor, "B h w C"],
    first: Float[Tensor, "B h w C"],
    second: Float[Tensor, "B h w C"],
    third: Float[Tensor, "B h w C"],
    *,
    neurons: Float[Tensor, "h w"] | None = None,
) -> Float[Tensor, "B C"]:
    """Grad-CAM++'s weights from (means of) the first three powers of the gradient; 0 where alpha is 0 / 0."""
    denominator = 2 * second + activation.sum(dim=(1, 2), keepdim=True) * third
    # Without a gradient there is nothing to weigh; elsewhere the denominator only vanishes by accident.
    alpha = torch.where(denominator.abs() > torch.finfo(second.dtype).tiny, second / denominator, 0.0)
    terms = torch.nan_to_num(alpha) * first.clamp(min=0)
    if neurons is not None:
        terms = terms * neurons[None, :, :, None]
    return terms.sum(dim=(1, 2))


def _mask(neurons: Any, activation: Tensor) -> Tensor | None:
    if neurons is None:
        return None
    height, width = activation.shape[1:3]
    neurons = torch.as_tensor(neurons, device=activation.device)
    if neurons.dtype == torch.bool:
        if tuple(neurons.shape) != (height, width):
            raise UsageError(f"neurons {tuple(neurons.shape)}: the layer's grid is {height} x {width}")
        return neurons.to(activation)
    if neurons.is_floating_point() or neurons.ndim != 2 or neurons.shape[1] != 2:
        raise UsageError(f"neurons must be (h, w) bool or (row, column) pairs, not {tuple(neurons.shape)} numbers")
    mask = activation.new_zeros(height, width)
    for row, column in neurons.tolist():
        if not (0 <= row < height and 0 <= column < width):
            raise UsageError(f"neuron ({row}, {column}) is outside the layer's grid of {height} x {width}")
        mask[row, column] = 1
    return mask


def _picked(values: Tensor, channels: Sequence[int]) -> Tensor:
    count = values.shape[-1]
    if not len(channels) or any(not 0 <= c < count for c in channels):
        raise UsageError(f"channels {list(channels)[:8]}: the layer has {count} (0 to {count - 1})")
    return values[..., list(channels)]
