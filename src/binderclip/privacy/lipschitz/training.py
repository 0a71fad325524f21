"""Private training without clipping: the network's architecture bounds every sample's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.lipschitz import BoundedInput, ClipLogitGradient, lipschitz_rule
from binderclip.privacy.accounting.ledger import Ledger, joint_multiplier
from binderclip.privacy.accounting.sampling import unseeded_generator
from binderclip.privacy.clipping.rules import SensitivityRule
from binderclip.settings import check_choice

__all__ = [
    "GradientBounds",
    "LipschitzBound",
    "LipschitzOptimizer",
    "LipschitzSequential",
    "gradient_bounds",
    "largest_ratios",
]

TOLERANCE = 1e-5
CROSS_ENTROPY = math.sqrt(2)


class LipschitzSequential(nn.Sequential):
    """Layers with known bounds, one after another, behind a bounded input.

    Args:
        layers: `BoundedInput` first, then layers of `models.layers.lipschitz` or ones that `models.lipschitz_rule`
            knows; `ClipLogitGradient` only as the last.

    Raises:
        UsageError: no `BoundedInput` at the start, or a `ClipLogitGradient` elsewhere than at the end.
        NotSupported: a layer without a bound, such as `nn.Linear` or batch norm.

    Examples:
        >>> from binderclip.models import BoundedInput, GroupSort2, SpectralLinear
        >>> net = LipschitzSequential(BoundedInput(1.0), SpectralLinear(8, 6), GroupSort2(), SpectralLinear(6, 3))
        >>> {name: round(value, 3) for name, value in gradient_bounds(net).parameters.items()}
        {'1.weight': 1.414, '3.weight': 1.414}

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(self, *layers: nn.Module) -> None:
        if not layers or not isinstance(layers[0], BoundedInput):
            raise UsageError("the first layer must be BoundedInput(radius): without it nothing bounds the activations")
        for number, layer in enumerate(layers):
            lipschitz_rule(layer)
            if isinstance(layer, ClipLogitGradient) and number != len(layers) - 1:
                raise UsageError(f"ClipLogitGradient must be the last layer, not layer {number} of {len(layers)}")
        super().__init__(*layers)

    @torch.no_grad()
    def project(self) -> None:
        """Return every weight to the set for which the bounds hold."""
        for layer in self:
            lipschitz_rule(layer).project()


@dataclass(frozen=True)
class GradientBounds:
    """Proved bounds of a network.

    Attributes:
        parameters: largest norm of one sample's gradient, for each parameter by name.
        activations: largest norm of one sample's input of each layer, and of the logits.
    """

    parameters: dict[str, float]
    activations: tuple[float, ...]

    @property
    def total(self) -> float:
        """Largest norm of one sample's gradient over all parameters together."""
        return math.hypot(*self.parameters.values())


def gradient_bounds(
    model: LipschitzSequential, *, loss_constant: float = CROSS_ENTROPY, batch_size: float = 1, verify: bool = True
) -> GradientBounds:
    """Bounds on each parameter's per-sample gradient: norms forward through all layers, gradients back.

    Args:
        model: the network.
        loss_constant: largest norm of one sample's loss gradient at the logits, see `privacy.loss_constant`; root 2 is
            cross-entropy's.
        batch_size: divisor of the loss: 1 for a sum over samples, B for a mean over B of them.
        verify: check by exact spectral norms that all weights are projected.

    Returns:
        What one sample contributes at most, for add/remove neighbours (twice that for replaced samples).

    Raises:
        UsageError: a weight of spectral norm above 1, or a constant or size that is not positive.
        NotSupported: not a `LipschitzSequential`.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """
    if not isinstance(model, LipschitzSequential):
        raise NotSupported(f"bounds are known for LipschitzSequential, not for {type(model).__name__}")
    if not 0 < loss_constant < math.inf or not batch_size > 0:
        raise UsageError(f"loss_constant and batch_size must be positive, got {loss_constant} and {batch_size}")
    rules = [lipschitz_rule(layer) for layer in model]
    norms = [math.inf]
    for number, rule in enumerate(rules):
        if verify and rule.spectral_norm() > 1 + TOLERANCE:
            raise UsageError(
                f"layer {number} has spectral norm {rule.spectral_norm():.6f}, above 1: call project() after each step"
            )
        norms.append(rule.out_bound(norms[-1]))
    bounds: dict[str, float] = {}
    down = float(loss_constant)
    for number in reversed(range(len(rules))):
        inside = rules[number].back_params(norms[number], down)
        bounds.update({f"{number}.{name}": value / batch_size for name, value in inside.items()})
        down = rules[number].back_input(norms[number], down)
    return GradientBounds({name: bounds[name] for name, _ in model.named_parameters()}, tuple(norms))


class LipschitzBound(SensitivityRule):
    """A sensitivity that comes from `gradient_bounds` instead of from clipping: no sample's gradient is changed.

    Args:
        bounds: of each parameter, for a loss that is summed over the samples.
        noise: "per-layer": each parameter gets noise in proportion to its own bound; "global": the same standard
            deviation everywhere, from the bound of all together.
        coefficients: relative noise of each parameter under "per-layer": its multiplier is sigma times that. Default:
            root J for J parameters, so that the step as a whole costs what sigma says.

    Raises:
        UsageError: unknown noise, or coefficients that are not positive or not one a parameter.
    """

    def __init__(
        self,
        bounds: GradientBounds | Mapping[str, float],
        *,
        noise: Literal["per-layer", "global"] = "per-layer",
        coefficients: Sequence[float] | None = None,
    ) -> None:
        values = bounds.parameters if isinstance(bounds, GradientBounds) else dict(bounds)
        check_choice("noise", noise, ("per-layer", "global"))
        super().__init__(list(values.values()))
        if coefficients is not None and (
            noise == "global" or len(coefficients) != len(values) or not all(c > 0 for c in coefficients)
        ):
            raise UsageError(f"coefficients go with noise='per-layer': {len(values)} positive numbers")
        self.names, self.noise = tuple(values), noise
        self.coefficients = tuple(map(float, coefficients)) if coefficients else (math.sqrt(len(values)),) * len(values)

    def assign(self, names: Sequence[str]) -> list[int]:
        """Every parameter is a group."""
        if sorted(names) != sorted(self.names):
            raise UsageError(f"the bounds are for {', '.join(self.names)}, not for {', '.join(names)}")
        return [self.names.index(name) for name in names]

    def scales(self, norms: Float[Tensor, "B *J"]) -> Float[Tensor, "B *J"]:
        """Ones: nothing is clipped.

        Raises:
            UsageError: a norm above its bound, so that the bound does not belong to this network.
        """
        limits = norms.new_tensor(self.clip_norms if norms.ndim == 2 else [self.sensitivity])
        if bool((norms > limits * (1 + TOLERANCE)).any()):
            raise UsageError("a gradient exceeds its bound: the weights are not projected, or the loss is another")
        return torch.ones_like(norms)

    def _stds(self, noise_multiplier: float) -> tuple[float, ...]:
        if self.noise == "global":
            return super()._stds(noise_multiplier)
        pairs = zip(self.coefficients, self.clip_norms, strict=True)
        return tuple(noise_multiplier * coefficient * bound for coefficient, bound in pairs)

    def multiplier(self, noise_multiplier: float) -> float:
        """Sigma for "global", else (sum of (sigma c_j)^-2)^(-1/2)."""
        if self.noise == "global" or noise_multiplier == 0:
            return noise_multiplier
        return noise_multiplier * sum(c**-2 for c in self.coefficients) ** -0.5


class LipschitzOptimizer:
    """Private steps of a `LipschitzSequential`: an ordinary backward pass, noise, the inner step, the projection.

    Call `step()` after the backward of a loss that is SUMMED over a Poisson batch; an empty batch needs a step too.
    The order is always: bounds of the current weights, noise on the sum, division by the expected batch size, inner
    step, projection, ledger. Neighbours differ by one added or removed sample.

    Args:
        optimizer: any torch optimizer over all parameters of `model`.
        model: the network; projected at once.
        noise_multiplier: sigma.
        expected_batch_size: of the Poisson batches.
        sample_rate: probability of each sample to be in one.
        loss_constant: of the loss, see `privacy.loss_constant`.
        noise: "per-layer" or "global", see `LipschitzBound`.
        generator: of the noise; default: one that the system seeds. Seeded noise is for experiments, not for a release.
        ledger: to write into; default a new one.

    Raises:
        UsageError: values out of range, or parameters that the optimizer lacks.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: LipschitzSequential,
        *,
        noise_multiplier: float,
        expected_batch_size: float,
        sample_rate: float,
        loss_constant: float = CROSS_ENTROPY,
        noise: Literal["per-layer", "global"] = "per-layer",
        generator: torch.Generator | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if not noise_multiplier >= 0 or not expected_batch_size > 0 or not 0 < sample_rate <= 1:
            raise UsageError(
                "noise_multiplier must be at least 0, expected_batch_size above 0, sample_rate in (0, 1]; got "
                f"{noise_multiplier}, {expected_batch_size}, {sample_rate}"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held != {id(p) for p in model.parameters()}:
            raise UsageError("the optimizer must hold exactly the parameters of the model")
        last = list(model)[-1]
        if isinstance(last, ClipLogitGradient) and last.reduction != "sum":
            raise UsageError("the loss is summed here: ClipLogitGradient needs reduction='sum'")
        self.optimizer, self.model = optimizer, model
        self.noise_multiplier, self.expected_batch_size = float(noise_multiplier), float(expected_batch_size)
        self.sample_rate, self.loss_constant, self.noise = float(sample_rate), float(loss_constant), noise
        self.generator = generator or unseeded_generator(next(model.parameters()).device)
        self.ledger = Ledger() if ledger is None else ledger
        model.project()
        self.rule = self._rule(verify=True)
        self._pending: tuple[float, float] | None = None

    def _rule(self, *, verify: bool = False) -> LipschitzBound:
        bounds = gradient_bounds(self.model, loss_constant=self.loss_constant, verify=verify)
        return LipschitzBound(bounds, noise=self.noise)

    @torch.no_grad()
    def step(self) -> None:
        """Noise, divide, step, project, account."""
        stds = self.rule.noise_stds(self.noise_multiplier)
        for (_, p), std in zip(self.model.named_parameters(), stds, strict=True):
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            if std > 0:
                # drawn where the generator lives: a CPU generator can't fill a GPU tensor
                unit = torch.randn(p.shape, generator=self.generator, device=self.generator.device, dtype=p.dtype)
                gradient = gradient + std * unit.to(p.device)
            p.grad = gradient / self.expected_batch_size
        self.optimizer.step()
        self.model.project()
        spent = [self.rule.multiplier(self.noise_multiplier)]
        if self._pending is not None:
            spent.append(self._pending[0])
            self._last_clip().limit = self._pending[1]
            self._pending, self.rule = None, self._rule()
        # Both come from the same Poisson sample, so they are one mechanism, not two that were sampled apart.
        self.ledger.step(joint_multiplier(spent), self.sample_rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def _last_clip(self) -> ClipLogitGradient:
        last = list(self.model)[-1]
        if not isinstance(last, ClipLogitGradient):
            raise UsageError("there is no logit clip to adapt: end the network with ClipLogitGradient(limit)")
        return last

    def adapt_logit_clip(
        self, norms: Float[Tensor, "B"], *, quantile: float = 0.9, rate: float = 0.2, multiplier: float = 10.0
    ) -> float:
        """Move the logit clip towards a private quantile: c <- c exp(-rate (noisy share below c - quantile)).

        Call it between backward and `step`. The noisy count is released from the same batch as the gradient and enters
        the ledger with it; the new limit holds from the next forward pass on.

        Args:
            norms: of the batch's loss gradients at the logits, unclipped.
            quantile: share of samples that shall stay unclipped.
            rate: of the movement.
            multiplier: noise on the count, whose sensitivity is 1.

        Returns:
            The coming limit, at most the loss's own constant.

        Raises:
            UsageError: the network has no `ClipLogitGradient`, or values out of range.
        """
        limit = self._last_clip().limit
        if not 0 < quantile < 1 or not multiplier > 0:
            raise UsageError(f"quantile must be in (0, 1), multiplier above 0; got {quantile} and {multiplier}")
        noise = float(torch.randn((), generator=self.generator, device=self.generator.device)) * multiplier
        fraction = (float((norms < limit).sum()) + noise) / self.expected_batch_size
        coming = min(limit * math.exp(-rate * (fraction - quantile)), self.loss_constant)
        self._pending = (multiplier, coming)
        return coming


def largest_ratios(
    gradients: Mapping[str, Float[Tensor, "B ..."]], bounds: GradientBounds, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Largest per-sample gradient norm over its bound, for each parameter: 1 is tight, above 1 a violation."""
    chosen = gradients if names is None else list(names)
    return {name: float(gradients[name].flatten(1).norm(dim=1).max()) / bounds.parameters[name] for name in chosen}
