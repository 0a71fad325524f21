"""Layers that are 1-Lipschitz in their input and know a bound on the gradient of their own parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = [
    "AddBias",
    "BoundedInput",
    "Centring",
    "ClipLogitGradient",
    "GroupSort2",
    "L2NormPool2d",
    "LipschitzLayer",
    "LipschitzResidual",
    "lipschitz_rule",
]


class LipschitzLayer(nn.Module):
    """A layer with f(0) = 0 (or a known offset) that can say how far norms grow through it, forward and backward.

    `x` is the largest norm of one sample's input, `g` that of the loss gradient at one sample's output.
    """

    def out_bound(self, x: float) -> float:
        """Largest norm of the output of one sample."""
        return x

    def back_input(self, x: float, g: float) -> float:
        """Largest norm of the gradient that is passed down."""
        return g

    def back_params(self, x: float, g: float) -> dict[str, float]:
        """Largest norm of one sample's gradient for each of the layer's parameters, by name."""
        return {}

    def project(self) -> None:
        """Return to the set of weights for which the bounds hold; called after every optimizer step."""

    def spectral_norm(self) -> float:
        """Largest singular value of the weight that the bounds assume to be at most 1; 0 without a weight."""
        return 0.0


class BoundedInput(LipschitzLayer):
    """Shrinks each sample to norm `radius` where it is larger: the start of every bound.

    Args:
        radius: largest norm of one sample over all its dimensions but the first.

    Raises:
        UsageError: radius not positive and finite.
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        check_number("radius", radius, above=0)
        self.radius = float(radius)

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        norm = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp(min=self.radius)
        return x * (self.radius / norm).view(-1, *[1] * (x.ndim - 1))

    def out_bound(self, x: float) -> float:
        return min(x, self.radius)


class AddBias(LipschitzLayer):
    """Adds a bias vector along dimension 1, projected to a ball in the forward pass: norms grow by a known offset.

    Args:
        features: length of the bias.
        radius: largest norm of the bias.
        positions: pixels that share it, h w for maps, 1 for vectors: one bias moves all of them, and gets all their
            gradients.

    Raises:
        UsageError: radius not positive, sizes below 1; at the forward, more positions than promised.
    """

    def __init__(self, features: int, *, radius: float = 1.0, positions: int = 1) -> None:
        super().__init__()
        check_sizes(0, features=features, positions=positions)
        check_number("radius", radius, above=0)
        self.radius, self.positions = float(radius), positions
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        if x[0, 0].numel() > self.positions:
            raise UsageError(f"AddBias(positions={self.positions}) met {x[0, 0].numel()} positions")
        bias = self.bias * (self.radius / torch.linalg.vector_norm(self.bias).clamp(min=self.radius))
        return x + bias.view(-1, *[1] * (x.ndim - 2))

    def out_bound(self, x: float) -> float:
        return x + self.radius * math.sqrt(self.positions)

    def back_params(self, x: float, g: float) -> dict[str, float]:
        return {"bias": math.sqrt(self.positions) * g}


class GroupSort2(LipschitzLayer):
    """Sorts neighbouring pairs along dimension 1: preserves norms, and the norms of gradients, exactly.

    Raises:
        UsageError: at the forward, an odd number of features.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202), after Anil et al., Sorting out
    Lipschitz function approximation (arXiv 1811.05381).
    """

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        if x.shape[1] % 2:
            raise UsageError(f"GroupSort2 needs an even number of features, not {x.shape[1]}")
        first, second = x[:, ::2], x[:, 1::2]
        return torch.stack([torch.maximum(first, second), torch.minimum(first, second)], dim=2).flatten(1, 2)


class L2NormPool2d(LipschitzLayer):
    """Euclidean norm of each window that doesn't overlap another: 1-Lipschitz, and preserves the norm of the map.

    Args:
        window: side; None pools the whole map to (B, C). Rows and columns that fill no window are dropped.

    Raises:
        UsageError: a window below 1.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(self, window: int | None = 2) -> None:
        super().__init__()
        if window is not None and window < 1:
            raise UsageError(f"window must be at least 1, not {window}")
        self.window = window

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C ..."]:
        if self.window is None:
            return torch.linalg.vector_norm(x, dim=(2, 3))
        k, (h, w) = self.window, x.shape[2:]
        cut = x[:, :, : h - h % k, : w - w % k]
        return torch.linalg.vector_norm(cut.unflatten(3, (-1, k)).unflatten(2, (-1, k)), dim=(3, 5))


class Centring(LipschitzLayer):
    """Subtracts each sample's mean over all its values, an orthogonal projection."""

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return x - x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)


class LipschitzResidual(LipschitzLayer):
    """A branch beside the identity.

    Args:
        layers: of the branch, each a `LipschitzLayer` or one that `lipschitz_rule` knows.
        merge: "1-lip-add" averages both paths and stays 1-Lipschitz; "add" adds them, and norms grow by 2.

    Raises:
        UsageError: unknown merge.
        NotSupported: a layer without bounds.
    """

    def __init__(self, *layers: nn.Module, merge: str = "1-lip-add") -> None:
        super().__init__()
        check_choice("merge", merge, ("add", "1-lip-add"))
        self.branch, self.factor = nn.Sequential(*layers), 1.0 if merge == "add" else 0.5
        for layer in layers:
            lipschitz_rule(layer)

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return self.factor * (x + self.branch(x))

    def _inputs(self, x: float) -> list[float]:
        """Input norm of each layer of the branch, and its output's."""
        inputs = [x]
        for layer in self.branch:
            inputs.append(lipschitz_rule(layer).out_bound(inputs[-1]))
        return inputs

    def out_bound(self, x: float) -> float:
        return self.factor * (x + self._inputs(x)[-1])

    def back_input(self, x: float, g: float) -> float:
        down = self.factor * g
        for layer, norm in zip(reversed(self.branch), reversed(self._inputs(x)[:-1]), strict=True):
            down = lipschitz_rule(layer).back_input(norm, down)
        return self.factor * g + down

    def back_params(self, x: float, g: float) -> dict[str, float]:
        bounds, down = {}, self.factor * g
        norms = self._inputs(x)[:-1]
        for number in reversed(range(len(self.branch))):
            rule = lipschitz_rule(self.branch[number])
            bounds.update({f"branch.{number}.{k}": v for k, v in rule.back_params(norms[number], down).items()})
            down = rule.back_input(norms[number], down)
        return bounds

    def project(self) -> None:
        for layer in self.branch:
            lipschitz_rule(layer).project()

    def spectral_norm(self) -> float:
        return max(lipschitz_rule(layer).spectral_norm() for layer in self.branch)


class _ClipRows(torch.autograd.Function):
    """Identity forward; backward shrinks each row to `limit`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, limit: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
        return grad * (ctx.limit / norm.clamp(min=ctx.limit)), None


class ClipLogitGradient(LipschitzLayer):
    """Identity whose backward pass clips each sample's gradient at the logits: the last layer of the network.

    The loss's own constant (root 2 for cross-entropy) is a worst case; most samples stay far below it.

    Args:
        limit: largest norm of one sample's own loss gradient. With a mean over B samples the arriving rows are B times
            smaller, so they are compared with `limit / B`. (The released code's bound compares with `limit` itself
            there and so ignores the clip.)
        reduction: of the loss, "mean" or "sum".

    Raises:
        UsageError: limit not positive, or another reduction.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(self, limit: float, *, reduction: str = "mean") -> None:
        super().__init__()
        check_number("limit", limit, above=0)
        check_choice("reduction", reduction, ("mean", "sum"))
        self.limit, self.reduction = float(limit), reduction

    def forward(self, x: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return _ClipRows.apply(x, self.limit / (len(x) if self.reduction == "mean" else 1))

    def back_input(self, x: float, g: float) -> float:
        return min(g, self.limit)


class _Known(LipschitzLayer):
    """Rule of a layer of torch's own that is 1-Lipschitz, maps 0 to 0 and has no parameters."""


_KNOWN = _Known()
_PLAIN: tuple[type[nn.Module], ...] = (nn.Identity, nn.ReLU, nn.Tanh, nn.Flatten, nn.Unflatten)
_WHY: dict[type[nn.Module], str] = {
    nn.Linear: "nothing bounds its weight or bias; use SpectralLinear and AddBias",
    nn.Conv2d: "nothing bounds its kernel or bias; use SpectralConv2d and AddBias",
    nn.BatchNorm1d: "batch norm couples the samples and divides by a variance that may be tiny; use Centring",
    nn.BatchNorm2d: "batch norm couples the samples and divides by a variance that may be tiny; use Centring",
    nn.LayerNorm: "it divides by a deviation that may be tiny; use Centring",
    nn.AvgPool2d: "average pooling is left out, because overlapping windows break the bound; use L2NormPool2d",
    nn.Dropout: "dropout multiplies what it keeps by more than 1",
}


def lipschitz_rule(layer: nn.Module) -> LipschitzLayer:
    """The bounds of a layer: its own, or those of a 1-Lipschitz layer of torch (ReLU, Tanh, Flatten, max pooling).

    Raises:
        NotSupported: no bound is known; the message says what to use instead.
    """
    if isinstance(layer, LipschitzLayer):
        return layer
    if (isinstance(layer, nn.Flatten) and layer.start_dim == 0) or (isinstance(layer, nn.Unflatten) and layer.dim == 0):
        raise NotSupported(f"{layer} reshapes dimension 0, the samples: one row would hold several of them")
    if type(layer) in _PLAIN:
        return _KNOWN
    if type(layer) is nn.MaxPool2d:
        kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
        apart = all(s >= k for k, s in zip(kernel, stride, strict=True))
        if apart and _pair(layer.padding) == (0, 0) and _pair(layer.dilation) == (1, 1):
            return _KNOWN
        raise NotSupported("max pooling has a bound only where windows don't overlap: stride >= kernel, no padding")
    name = type(layer).__name__
    why = next((text for kind, text in _WHY.items() if isinstance(layer, kind)), "no bound on its gradients is known")
    raise NotSupported(f"{name} can't stand in a Lipschitz network: {why}")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def check_sizes(iterations: int, **sizes: int) -> None:
    """Refuse sizes below 1 and negative iterations."""
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    check_number("iterations", iterations, least=0)
