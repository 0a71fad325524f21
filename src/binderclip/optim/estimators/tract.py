"""The gradient of the first layer, as if its outputs were trained and not its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number

__all__ = ["GRAD_TRANSFORMS", "TrAct", "first_layer", "tract_weight_grad"]

_CHUNK = 1 << 24
"""Most numbers of unfolded patches at a time."""


def tract_weight_grad(
    inputs: Float[Tensor, "*rows n"], grad_out: Float[Tensor, "*positions m"], lam: float = 0.1
) -> Float[Tensor, "m n"]:
    """The weight gradient of a linear layer that moves its outputs as a gradient step on the outputs would.

    D^T X (X^T X / b + lam I)^-1 with inputs X (b, n) and output gradients D (b, m): the ordinary gradient D^T X, times
    the inverse second moment of the inputs. It is the ridge regression of b D on X with penalty b lam.

    Args:
        inputs: X; leading dimensions are rows.
        grad_out: the loss's gradient at the layer's outputs, as it arrives.
        lam: what is added to the second moment, in the square of the inputs' unit; 0.1 is for inputs of variance 1.

    Raises:
        UsageError: no rows, another number of rows, `lam` not above 0.

    Paper: TrAct: Making First-layer Pre-Activations Trainable (arXiv 2410.23970), equation 8.

    Examples:
        >>> tract_weight_grad(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]]), lam=1.0)  # 2 / (5 + 1)
        tensor([[0.3333]])
    """
    check_number("lam", lam, above=0)
    x, d = inputs.reshape(-1, inputs.shape[-1]), grad_out.reshape(-1, grad_out.shape[-1])
    if not len(x) or inputs.shape[:-1] != grad_out.shape[:-1]:
        raise UsageError(f"inputs and grad_out have rows in common, got {[*inputs.shape]} and {[*grad_out.shape]}")
    rows, width = x.shape
    if rows < width:
        # X (X^T X / b + lam I_n)^-1 = (X X^T / b + lam I_b)^-1 X, of which the smaller matrix is inverted
        return d.T @ _solve(x @ x.T / rows, lam, x)
    return _solve(x.T @ x / rows, lam, x.T @ d).T


def _solve(moment: Tensor, lam: float, right: Tensor) -> Tensor:
    """(moment + lam I)^-1 right in float64, NaN where rounding of the moment outweighs `lam`."""
    moment = moment.double()
    moment.diagonal().add_(lam)
    factor, failed = torch.linalg.cholesky_ex(moment)  # unlike `cholesky`, waits for no device
    return torch.where(failed == 0, torch.cholesky_solve(right.double(), factor), torch.nan).to(right.dtype)


class TrAct:
    """Change the gradient of a model's first layer so that it trains the layer's outputs instead of its weights.

    An ordinary first-layer gradient is proportional to the pixels, so bright and high-contrast pictures dominate it.
    The layer's weight gradient is multiplied by the inverse second moment of its inputs, (X^T X / b + lam I)^-1, where
    the b rows of X are the inputs of all positions since the last step; of a convolution the patches under its kernel.
    All other gradients, the bias's too, stay as they are. Called between backward and step:

        fit(step, model, batches, steps=1000, grad_transform=TrAct(model))

    in a recipe `grad_transform = "tract"`, in a loop of your own `tract()` before `optimizer.step()`. Inputs count in
    training mode with gradients alone. Over several processes their moment is that of all. The size of the layer's
    gradient changes by about 1 / (variance + lam), so that its learning rate may want another choice.

    Args:
        model: the layer, an `nn.Linear`, `nn.Conv2d` or timm's `Conv2dSame` of one group, or a model that has it: see
            `first_layer`.
        lam: what is added to the second moment; 0.1 is for inputs of variance 1. Where inputs are so large that
            rounding outweighs it, the gradient is NaN.

    Raises:
        UsageError: `lam` not above 0, a model without such a layer; at the call a gradient without a pass before.
        NotSupported: the layer has groups, or computes in a way of its own, such as with standardised weights.

    Paper: TrAct: Making First-layer Pre-Activations Trainable (arXiv 2410.23970).

    Examples:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> tract = TrAct(layer, lam=1.0)
        >>> layer(torch.tensor([[1.0], [3.0]])).sum().backward()  # 4, and the second moment is 5
        >>> tract()
        >>> layer.weight.grad
        tensor([[0.6667]])
    """

    def __init__(self, model: nn.Module, lam: float = 0.1) -> None:
        check_number("lam", lam, above=0)
        self.layer, self.lam = first_layer(model), lam
        self._moment: Tensor | None = None
        self._rows = 0
        self._hook = self.layer.register_forward_hook(self._see)

    def __call__(self, params: Iterable[Any] = ()) -> None:
        """Change the layer's `.grad`; where it has none nothing happens.

        Args:
            params: not needed; `fit` passes them.
        """
        weight, moment, rows = self.layer.weight, self._moment, self._rows
        self._moment, self._rows = None, 0
        if weight.grad is None:
            return
        if moment is None:
            raise UsageError("TrAct saw no inputs of its layer since the last step: call it once for each step")
        if dist.is_available() and dist.is_initialized():
            counted = torch.tensor(float(rows), dtype=moment.dtype, device=moment.device)
            dist.all_reduce(moment)
            dist.all_reduce(counted)
            moment = moment / counted
        else:
            moment = moment / rows
        gradient = weight.grad.flatten(1)  # (m, n)
        right = gradient.T.to(torch.promote_types(gradient.dtype, torch.float32))
        weight.grad.copy_(_solve(moment, self.lam, right).T.reshape_as(weight))

    def close(self) -> None:
        """Look at the layer no longer."""
        self._hook.remove()

    @torch.no_grad()
    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Add the inputs of a pass to the second moment."""
        if not (layer.training and output.requires_grad):
            return
        seen = inputs[0]
        if isinstance(layer, nn.Linear):
            seen = seen.reshape(-1, seen.shape[-1])
        elif seen.ndim == 3:  # one picture
            seen = seen[None]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        unfolded = output.numel() // len(weight) * weight[0].numel() // max(1, len(seen))  # numbers of one picture
        with torch.autocast(output.device.type, enabled=False):
            for part in seen.split(max(1, _CHUNK // max(1, unfolded))):
                rows = _rows(layer, part)  # (b, n)
                moment = rows.T @ rows
                self._moment = moment if self._moment is None else self._moment.add_(moment)
                self._rows += len(rows)


def _rows(layer: nn.Module, inputs: Tensor) -> Float[Tensor, "b n"]:
    """What the rows of a layer's weight are multiplied with, in float32 or better."""
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if not isinstance(layer, nn.Conv2d):
        return inputs
    if _pads_as_needed(layer):
        sizes = zip(inputs.shape[:1:-1], layer.kernel_size[::-1], layer.stride[::-1], layer.dilation[::-1], strict=True)
        around: list[int] = []
        for size, kernel, stride, dilation in sizes:  # width, then height, as `F.pad` has them
            lack = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            around += [lack // 2, lack - lack // 2]
        inputs = F.pad(inputs, around)
    elif any(layer._reversed_padding_repeated_twice):  # "same", numbers and reflection alike
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(inputs, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)  # (B, n, L)
    return patches.transpose(1, 2).flatten(0, 1)


def _pads_as_needed(layer: nn.Module) -> bool:
    """Whether it is timm's `Conv2dSame`, known by its name since this room needs torch alone."""
    return type(layer).__name__ == "Conv2dSame" and type(layer).__module__.startswith("timm.")


def first_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """The first linear layer or convolution of a model, in the order in which its parts were registered.

    Args:
        model: such as an image tower.

    Raises:
        UsageError: there is none.
        NotSupported: it has groups, or a forward of its own.
    """
    layer = next((m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))), None)
    if layer is None:
        raise UsageError(f"{type(model).__name__} has no nn.Linear and no nn.Conv2d: name the layer itself")
    plain = nn.Linear.forward if isinstance(layer, nn.Linear) else nn.Conv2d.forward
    own = type(layer).forward is not plain and not _pads_as_needed(layer)
    if own or getattr(layer, "groups", 1) != 1:
        raise NotSupported(f"the first layer, {layer}, has groups or a forward of its own")
    return layer


GRAD_TRANSFORMS: dict[str, Callable[..., Any]] = {"tract": TrAct}
"""What a recipe's `grad_transform` names: made of the model that is trained, and called before every step."""
