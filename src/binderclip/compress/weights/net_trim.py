"""Net-Trim: the sparsest weights, in the l1 sense, that keep a layer's responses within a tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.compress.weights.sparse_training import prunable_layers
from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["NetTrim", "TrimmedLayer", "net_trim_layer"]

ACTIVE = 1e-6
"""Responses above it are Omega: ReLU's open side."""
SETTLED = 5e-9
"""Change of an iteration at which the released solver stops, for each weight."""


@dataclass(frozen=True)
class TrimmedLayer:
    """Weights of a layer after `net_trim_layer`.

    Attributes:
        weight: (outputs, inputs), as `nn.Linear` has it, with exact zeros.
        epsilon: the tolerance, in units of the responses.
        residual: Frobenius norm of the error on the active responses; at most epsilon where the solver settled.
        violation: by how much an inactive response exceeds its limit, at most.
        iterations: of the solver.
        converged: whether it settled before its limit.
    """

    weight: Float[Tensor, "M N"]
    epsilon: float
    residual: float
    violation: float
    iterations: int
    converged: bool

    @property
    def sparsity(self) -> float:
        """Share of weights that are zero."""
        return float((self.weight == 0).float().mean())


@torch.no_grad()
def net_trim_layer(
    inputs: Float[Tensor, "P N"],
    outputs: Float[Tensor, "P M"],
    activation: Literal["relu", "linear"] = "relu",
    epsilon: float = 0.0,
    *,
    limits: Float[Tensor, "P M"] | None = None,
    rho: float = 50.0,
    iterations: int = 10_000,
    tolerance: float = SETTLED,
) -> TrimmedLayer:
    """Solve the convex program of one layer by ADMM: min ||U||_1 so that its responses stay within epsilon.

    With ReLU, where Omega are the responses Y above 0: ||(X U' - Y) on Omega||_F <= epsilon, and X U' <= V elsewhere.
    A linear layer has all responses in Omega. Computed in float64.

    Args:
        inputs: X, a row a sample; a column of ones stands for a bias.
        outputs: Y, the responses to keep, after the activation.
        activation: "relu" or "linear".
        epsilon: of all responses together, in their unit; `0.05 * outputs.norm()` allows 5 %.
        limits: V, at least 0 and read where a response is inactive; None for 0.
        rho: weight of the constraints in ADMM; it changes the speed alone.
        iterations: at most.
        tolerance: change of the weights by an iteration, for each of them, at which the solver stops.

    Raises:
        UsageError: shapes that do not fit, no sample, a number that is not finite, an epsilon or limits below 0, an
            unknown activation, or no weights that come within epsilon.

    Paper: Fast Convex Pruning of Deep Neural Networks (arXiv 1806.06457).

    Examples:
        >>> x = torch.eye(2).repeat(3, 1)
        >>> net_trim_layer(x, x @ torch.tensor([[2.0], [0.0]]), "linear", 0.0).weight.round(decimals=4)
        tensor([[2., 0.]])
    """
    _check_layer(inputs, outputs, limits, activation, epsilon)
    check_number("rho", rho, above=0)
    check_whole("iterations", iterations, least=1)
    check_number("tolerance", tolerance, above=0)
    x, y = inputs.double(), outputs.double()
    active = torch.ones_like(y, dtype=torch.bool) if activation == "linear" else y > ACTIVE
    v = torch.zeros_like(y) if limits is None else limits.double()
    if activation == "linear":
        least = float((x @ torch.linalg.lstsq(x, y, driver="gelsd").solution - y).norm())
        if least > epsilon * (1 + 1e-6) + 1e-9 * float(y.norm()):
            raise UsageError(
                f"no weights come within epsilon={epsilon:.4g}: the least squares error is {least:.4g}; responses of a "
                "ReLU need activation='relu'"
            )
    settled = tolerance * x.shape[1] * y.shape[1]
    weight, count, converged = _admm(x, y, active, v, float(epsilon), rho, iterations, settled)
    responses = x @ weight
    residual = float(torch.where(active, responses - y, 0.0).norm())
    if not converged and residual > 2 * epsilon + 0.05 * float(y.norm()):
        raise UsageError(
            f"no weights within epsilon={epsilon:.4g} in {iterations} iterations: the error is {residual:.4g}; raise "
            "epsilon, iterations, or limits"
        )
    violation = float(torch.where(active, 0.0, responses - v).amax().clamp(min=0))
    return TrimmedLayer(weight.T.contiguous().to(inputs.dtype), float(epsilon), residual, violation, count, converged)


def _admm(
    x: Float[Tensor, "P N"], y: Float[Tensor, "P M"], active: Bool[Tensor, "P M"], v: Float[Tensor, "P M"],
    epsilon: float, rho: float, iterations: int, settled: float,
) -> tuple[Float[Tensor, "N M"], int, bool]:  # fmt: skip
    """Algorithm 1: w1 copies the responses, w2 the weights with their zeros, w3 is free; u1 and u2 are the duals."""
    gram = x.T @ x
    scale = 0.3 * float(gram.amax().clamp(min=0).sqrt()) or 1.0
    x, y, v, epsilon = x / scale, y / scale, v / scale, epsilon / scale
    factor = torch.linalg.cholesky(gram / scale**2 + torch.eye(len(gram), dtype=x.dtype, device=x.device))
    w3 = x.new_zeros(x.shape[1], y.shape[1])
    u1, u2, responses = torch.zeros_like(y), torch.zeros_like(w3), torch.zeros_like(y)
    w2 = w3
    for count in range(1, iterations + 1):
        z = responses - u1
        error = torch.where(active, z - y, 0.0)
        # Onto the ball of radius epsilon around Y on Omega, all entries together; elsewhere below V.
        gain = epsilon / error.norm().clamp(min=max(epsilon, 1e-300))
        w1 = torch.where(active, y + gain * error, torch.minimum(z, v))
        w2 = nn.functional.softshrink(w3 - u2, 1 / rho)
        before, w3 = w3, torch.cholesky_solve(x.T @ (w1 + u1) + w2 + u2, factor)
        responses = x @ w3
        u1 = u1 + w1 - responses
        u2 = u2 + w2 - w3
        # The host waits for the device at every 20th alone.
        if count % 20 == 0 and float((w3 - before).norm()) < settled:
            return w2, count, True
    return w2, iterations, False


def _check_layer(inputs: Tensor, outputs: Tensor, limits: Tensor | None, activation: str, epsilon: float) -> None:
    check_choice("activation", activation, ("relu", "linear"))
    check_number("epsilon", epsilon, least=0)
    if len(inputs) == 0 or len(inputs) != len(outputs):
        raise UsageError(f"inputs and outputs need as many rows, at least one: {len(inputs)} and {len(outputs)}")
    for name, value in (("inputs", inputs), ("outputs", outputs), ("limits", limits)):
        if value is not None and not bool(value.isfinite().all()):
            raise UsageError(f"{name} has NaN or infinity")
    if limits is not None and (limits.shape != outputs.shape or bool((limits < 0).any())):
        raise UsageError(f"limits must be at least 0 and of the outputs' shape {tuple(outputs.shape)}")
    if activation == "relu" and bool((outputs < 0).any()):
        raise UsageError("outputs of a ReLU are never negative: give them after the activation, or activation='linear'")


class NetTrim:
    """Prune the linear layers of a trained model one by one, so that each keeps its responses; needs no labels.

    `NetTrim(0.05)(model, inputs)` changes the model in place. Each layer's weights and bias become those of least l1
    norm whose responses differ by at most `tolerance` of their norm. How sparse they are is an outcome.

    Args:
        tolerance: kappa; epsilon is kappa times the norm of a layer's responses. 0.01 to 0.2 in the paper.
        mode: "parallel", each layer with the inputs that the original model gives it, or "cascade", with those that the
            layers pruned before it give, and a tolerance that keeps the original weights feasible.
        layers: names or shell patterns of linear layers; None for all of them.
        growth: gamma of the cascade: epsilon of the second layer on is gamma times the error that the original weights
            make; sqrt(1.1) in the released code.
        samples: rows that the programs see, drawn evenly from what enters a layer.
        rho, iterations: of `net_trim_layer`.

    Raises:
        UsageError: a number out of range, or an unknown mode.

    Paper: Fast Convex Pruning of Deep Neural Networks (arXiv 1806.06457).
    """

    def __init__(
        self, tolerance: float = 0.05, *, mode: Literal["parallel", "cascade"] = "parallel",
        layers: Iterable[str] | None = None, growth: float = 1.1**0.5, samples: int = 2000, rho: float = 50.0,
        iterations: int = 2000,
    ) -> None:  # fmt: skip
        check_number("tolerance", tolerance, above=0, below=1)
        check_choice("mode", mode, ("parallel", "cascade"))
        check_number("growth", growth, least=1)
        check_whole("samples", samples, least=1)
        self.tolerance, self.mode, self.growth, self.samples = tolerance, mode, growth, samples
        self.layers, self.options = layers, {"rho": rho, "iterations": iterations}

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Any) -> dict[str, TrimmedLayer]:
        """Prune a model.

        Args:
            model: in evaluation mode.
            inputs: what one call of the model takes: unlabelled samples like those it was trained on. Never test data.

        Returns:
            By layer, in the order in which they are run; its weight has the bias as last column.

        Raises:
            UsageError: a layer that the inputs do not reach, or one that is run twice, and what `net_trim_layer` and
                `prunable_layers` refuse.
            NotSupported: a layer that is not linear.
        """
        if model.training:
            raise UsageError("the model is in training mode: call eval() first, so that its responses stand still")
        chosen = prunable_layers(model, ["*"] if self.layers is None else self.layers)
        linear = {name: module for name, module in chosen.items() if isinstance(module, nn.Linear)}
        if self.layers is not None and len(linear) < len(chosen):
            name = next(name for name in chosen if name not in linear)
            raise NotSupported(f"{name} is a {type(chosen[name]).__name__}: Net-Trim prunes nn.Linear")
        if not linear:
            raise UsageError("the model has no linear layer")
        original = _captured(model, linear, inputs)
        trimmed: dict[str, TrimmedLayer] = {}
        for name, (x, responses, relu) in original.items():
            rows = torch.linspace(0, len(x) - 1, min(self.samples, len(x)), device=x.device).round().long()
            target = responses[rows].relu() if relu else responses[rows]
            epsilon, limits, seen = self.tolerance * float(target.norm()), None, x[rows]
            if self.mode == "cascade" and trimmed:
                seen = _captured(model, {name: linear[name]}, inputs)[name][0][rows]
                today = seen @ _with_bias(linear[name]).T  # the original weights on the pruned layers' outputs
                limits = today.clamp(min=0) if relu else None
                error = torch.where(target > ACTIVE, today - target, 0.0) if relu else today - target
                epsilon = self.growth * float(error.norm())
            activation: Literal["relu", "linear"] = "relu" if relu else "linear"
            trimmed[name] = net_trim_layer(seen, target, activation, epsilon, limits=limits, **self.options)  # type: ignore[arg-type]
            if self.mode == "cascade":
                _put(linear[name], trimmed[name].weight)
        for name, layer in trimmed.items():
            _put(linear[name], layer.weight)
        return trimmed


def _captured(model: nn.Module, layers: dict[str, nn.Linear], inputs: Any) -> dict[str, tuple[Tensor, Tensor, bool]]:
    """Inputs with a column of ones for a bias (P, N), responses before the activation (P, M), whether a ReLU follows.

    In the order of the calls. A ReLU is a module that gets the very tensor which a layer has returned.
    """
    captured: dict[str, tuple[Tensor, Tensor, bool]] = {}
    outputs: dict[int, tuple[str, Tensor]] = {}

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if name in captured:
                raise UsageError(f"{name} is run more than once in a pass: leave it out")
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            if getattr(module, "bias", None) is not None:
                x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            captured[name] = (x, output.detach().reshape(-1, output.shape[-1]).clone(), False)
            outputs[id(output)] = (name, output)

        return hook

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        name, output = outputs.get(id(args[0]), ("", None))
        if output is args[0]:
            captured[name] = (*captured[name][:2], True)

    handles = [module.register_forward_hook(after(name)) for name, module in layers.items()]
    handles += [m.register_forward_pre_hook(before) for m in model.modules() if isinstance(m, nn.ReLU)]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in layers if name not in captured]:
        raise UsageError(f"the inputs do not reach {', '.join(missing[:3])}: leave such layers out")
    return captured


def _with_bias(layer: nn.Linear) -> Float[Tensor, "M N"]:
    return layer.weight if layer.bias is None else torch.cat([layer.weight, layer.bias[:, None]], 1)


def _put(layer: nn.Linear, weight: Float[Tensor, "M N"]) -> None:
    layer.weight.copy_(weight[:, : layer.in_features])
    if layer.bias is not None:
        layer.bias.copy_(weight[:, -1])
