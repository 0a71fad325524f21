"""Gradient methods at the pixels: image x gradient, SmoothGrad and its kin, integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from binderclip.explain.engine.attribute import Plan, PlanMethod, gradient, gradient_times_value, signal_plan
from binderclip.explain.engine.attribution import Finish
from binderclip.explain.engine.gathering import GaussianNoise, Path, Reduction, Signal, Statistic, reduce_channels
from binderclip.explain.engine.places import Place
from binderclip.numeric import check_number


@dataclass(frozen=True)
class InputXGradient(PlanMethod):
    """`x * dS/dx`, summed over channels: the first-order effect of fading the image to black.

    Sums to the score for a model without biases; see `FullGrad` for those that have some. Black pixels get nothing.

    Args:
        finish: `signed`, `abs` or `relu`, when maps are drawn.

    Raises:
        UsageError: when called, see `attribute`.

    Paper: Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation
    Differences (arXiv 1605.01713).
    """

    finish: Finish = "signed"

    def plan(self) -> Plan:
        """What it asks of a pass, to be shared with other methods."""
        return signal_plan(gradient_times_value, finish=self.finish, method="input_x_gradient")


@dataclass(frozen=True)
class IntegratedGradients(PlanMethod):
    """The gradient's mean on the straight path from a baseline picture, times the way: sums to the score's rise.

    `Attribution.completeness_error` says how well the quadrature kept that promise.

    Args:
        n_samples: nodes on the path.
        baseline: grey level, or one value a channel, in [0, 1]; black as published.
        rule: `gauss` (Gauss-Legendre) or `midpoint`.
        finish: `signed`, `abs` or `relu`, when maps are drawn.
        batch: pictures per forward; changes speed and memory only.

    Raises:
        UsageError: a setting out of range; when called, see `attribute`.

    Paper: Sundararajan et al., Axiomatic Attribution for Deep Networks (arXiv 1703.01365).
    """

    n_samples: int = 50
    baseline: float | tuple[float, float, float] = 0.0
    rule: str = "gauss"
    finish: Finish = "signed"
    batch: int = 16

    def __post_init__(self) -> None:
        Path(self.n_samples, self.baseline, self.rule, self.batch)

    def plan(self) -> Plan:
        """What it asks of the passes, to be shared with other methods."""
        path = Path(self.n_samples, self.baseline, self.rule, self.batch)
        return signal_plan(gradient, ensemble=path, finish=self.finish, method="integrated_gradients")


@dataclass(frozen=True)
class SmoothGrad(PlanMethod):
    """The mean of a signal over noisy copies of the image: what flickers from pixel to pixel cancels.

    Signed signals are averaged first, channels are reduced afterwards, and the explained class is that of the clean
    image. `statistic` gives SmoothGrad-squared and VarGrad from the same passes; with equal noise, methods that are run
    by `attribute_all` share one loop.

    Args:
        n_samples: noisy copies; 50 as recommended.
        level: standard deviation of the noise as a share of the image's range (0.1 to 0.2 recommended; 0 is the plain
            signal). It is added to the model's input.
        statistic: `mean`, `mean-square`, `variance`, or `standard-error`: how far the mean is from converged.
        signal: what is averaged: the gradient by default, or any `Signal` such as `attribute.gradient_times_value`.
        layers: where, `"input"` by default.
        reduce: channels into one value: `sum` (signed), `max-abs`, `abs-sum` or `l2`.
        finish: `signed`, `abs` or `relu`, when maps are drawn.
        seed: of the noise.
        batch: pictures per forward; changes speed and memory only.

    Raises:
        UsageError: a setting out of range; when called, see `attribute`.

    Examples:
        >>> maps = SmoothGrad(n_samples=25)(model, images, "a cat").maps()  # doctest: +SKIP

    Paper: SmoothGrad: removing noise by adding noise (arXiv 1706.03825); VarGrad: Adebayo et al. (arXiv 1810.03307).
    """

    n_samples: int = 50
    level: float = 0.15
    statistic: Statistic = "mean"
    signal: Signal = gradient
    layers: Place | Sequence[Place] | None = "input"
    reduce: Reduction = "max-abs"
    finish: Finish = "abs"
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        import torch

        check_number("n_samples", self.n_samples, least=1)
        self._noise()
        reduce_channels(torch.zeros(1, 1, 1, 1), self.reduce)

    def plan(self) -> Plan:
        """What it asks of the noisy passes, to be shared with other methods."""
        return signal_plan(
            self.signal,
            layers=self.layers,
            reduce=self.reduce,
            ensemble=self._noise(),
            finish=self.finish,
            method=_NAMES[self.statistic],
        )

    def _noise(self) -> GaussianNoise:
        return GaussianNoise(self.n_samples, self.level, self.statistic, self.seed, self.batch)


_NAMES: dict[Statistic, str] = {
    "mean": "smoothgrad",
    "mean-square": "smoothgrad_squared",
    "variance": "vargrad",
    "standard-error": "smoothgrad_standard_error",
}
