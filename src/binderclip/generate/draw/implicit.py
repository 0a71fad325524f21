"""Pictures as networks from places to colours, whose layers hold different frequencies."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import clamp_with_grad
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.numeric import check_number, check_whole
from binderclip.optim.schedules import layerwise_gaussian_lr

__all__ = ["ImplicitImage", "robust_fit"]

_TINY = 1e-12


class ImplicitImage(Parametrisation):
    """A picture given by a FINER network from coordinates in [-1, 1]^2 to colours.

    Sine layers `z = sin(omega alpha u)` with `u = W z + b` and `alpha = |u| + 1`, through which no gradient flows, so
    frequency grows with the size of what a layer gets; then a linear layer and `0.5 + 0.5 x`, clamped (the gradient
    passes where it leads back). Rates may sweep from the first to the last layer over a run, so that a picture is made
    from coarse to fine.

    Args:
        size: (H, W) of the picture.
        width: units of a sine layer; the paper's are about 256.
        hidden: sine layers after the first.
        omega: of all sine layers.
        first_bias: biases of the first layer are uniform in [-first_bias, first_bias]: FINER's wide ones let units
            begin at different frequencies.
        finer: False takes alpha = 1, which is SIREN.
        lr: largest learning rate of a layer.
        sweep: standard deviation, in layers, of the Gaussian of rates that moves from the first to the last layer
            (`optim.layerwise_gaussian_lr`); None gives all layers the rate `lr` throughout.
        seed: of the weights.

    Raises:
        UsageError: a setting out of range.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161); FINER (arXiv 2312.02434).

    Examples:
        >>> picture = ImplicitImage((8, 12))
        >>> picture().shape, len(picture.groups())
        (torch.Size([1, 3, 8, 12]), 5)
        >>> picture.render((64, 96)).shape
        torch.Size([1, 3, 64, 96])
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        width: int = 64,
        hidden: int = 3,
        omega: float = 30.0,
        first_bias: float = 5.0,
        finer: bool = True,
        lr: float = 1e-3,
        sweep: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("height", size[0]), ("width of the picture", size[1]), ("width", width)):
            check_whole(name, value, least=1)
        check_whole("hidden", hidden, least=0)
        check_whole("seed", seed)
        check_number("omega", omega, above=0)
        check_number("first_bias", first_bias, least=0)
        check_number("lr", lr, above=0)
        self.size, self.omega, self.finer, self.lr = size, omega, finer, lr
        layers = hidden + 2
        self.schedules = None if sweep is None else layerwise_gaussian_lr(layers, width=sweep)
        widths = [2, *[width] * (hidden + 1), 3]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for number, layer in enumerate(self.layers):
                assert isinstance(layer, nn.Linear)
                inputs = layer.in_features
                # SIREN: inputs of a sine are then of unit variance in every layer but the first
                bound = 1 / inputs if number == 0 else math.sqrt(6 / inputs) / omega
                layer.weight.uniform_(-bound, bound, generator=g)
                bias = first_bias if number == 0 else 1 / math.sqrt(inputs)
                layer.bias.uniform_(-bias, bias, generator=g)

    def forward(self) -> Float[Tensor, "1 3 H W"]:
        """The picture at its size."""
        return self.render(self.size)

    def render(self, size: tuple[int, int]) -> Float[Tensor, "1 3 H W"]:
        """The picture at any size (H, W)."""
        weight = self.layers[0].weight
        assert isinstance(weight, Tensor)
        y, x = (
            (torch.arange(length, device=weight.device, dtype=weight.dtype) * 2 + 1) / length - 1 for length in size
        )
        z = torch.stack((x.expand(size), y[:, None].expand(size)), -1).reshape(-1, 2)  # [HW, 2]
        for layer in list(self.layers)[:-1]:
            u = layer(z)
            alpha = u.detach().abs() + 1 if self.finer else 1.0
            z = torch.sin(self.omega * alpha * u)
        colours = 0.5 + 0.5 * self.layers[-1](z)
        return clamp_with_grad(colours, 0.0, 1.0).T.reshape(1, 3, *size)

    def groups(self) -> list[dict[str, Any]]:
        """A group for each layer, from the first to the last."""
        groups: list[dict[str, Any]] = [{"params": list(layer.parameters()), "lr": self.lr} for layer in self.layers]
        if self.schedules is not None:
            for group, schedule in zip(groups, self.schedules, strict=True):
                group["schedule"] = schedule
        return groups


def robust_fit(
    param: Parametrisation,
    image: Float[Tensor, "B 3 H W"],
    *,
    steps: int = 200,
    gamma: float = 5e-3,
    blur: float = 0.04,
    lr: float = 1e-3,
) -> float:
    """Fits a picture, blurred, so that small changes of the weights change little: where an inversion starts from.

    Each step goes up first, by `gamma |W| g / |g|` for every weight matrix W with its gradient g (biases stay), takes
    the gradient there, steps, and goes back: adversarial weight perturbation.

    Args:
        param: is fitted in place by Adam, all parameters at one rate.
        image: pictures of its size in [0, 1].
        steps: of Adam.
        gamma: relative size of the perturbation; 0 is ordinary fitting.
        blur: standard deviation of the Gaussian blur, in sides of the picture.
        lr: of Adam.

    Returns:
        The mean squared error after the last step, of the blurred picture.

    Raises:
        UsageError: pictures of another size or not in [0, 1], or a setting out of range.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161); Adversarial Weight Perturbation Helps
    Robust Generalization (arXiv 2004.05884).
    """
    check_whole("steps", steps, least=0)
    for name, value in (("gamma", gamma), ("blur", blur)):
        check_number(name, value, least=0, most=1)
    check_number("lr", lr, above=0)
    with torch.no_grad():
        shape = param().shape
    if image.shape != shape or not bool(((image >= 0) & (image <= 1)).all()):
        raise UsageError(f"image must be {tuple(shape)}, in [0, 1], got {tuple(image.shape)}")
    target = gaussian_blur(image, blur * min(shape[-2:]))
    matrices = [weight for weight in param.parameters() if weight.ndim > 1]
    optimizer = torch.optim.Adam(param.parameters(), lr=lr)
    for _ in range(steps):
        gradients = torch.autograd.grad(F.mse_loss(param(), target), matrices) if gamma else ()
        shifts = [
            gamma * weight.detach().norm() * gradient / (gradient.norm() + _TINY)
            for weight, gradient in zip(matrices, gradients, strict=False)
        ]
        _add(matrices, shifts, 1)
        optimizer.zero_grad()
        F.mse_loss(param(), target).backward()
        optimizer.step()
        _add(matrices, shifts, -1)
        param.project_()
    with torch.no_grad():
        return float(F.mse_loss(param(), target))


@torch.no_grad()
def _add(weights: list[nn.Parameter], shifts: list[Tensor], sign: int) -> None:
    for weight, shift in zip(weights, shifts, strict=False):  # no shifts where gamma is 0
        weight.add_(shift, alpha=sign)
