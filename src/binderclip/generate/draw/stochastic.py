"""Gradients through any renderer: render twice, perturbed both ways, and credit each pixel to what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["Rendering", "estimate_gradient"]


@dataclass(frozen=True)
class Rendering:
    """A picture, and which parameters each of its pixels shows.

    Attributes:
        image: the picture, of any shape that the loss takes.
        contributors: for each parameter the rows of it that contribute to each of the P pixels, -1 for none; None if
            any row may contribute to any pixel. Vertices and texels come from ID and UV buffers (`vision.rasterize`).
    """

    image: Float[Tensor, "*shape"]
    contributors: tuple[Int[Tensor, "P _"] | None, ...]


@torch.no_grad()
def estimate_gradient(
    render: Callable[..., Rendering],
    params: Sequence[Float[Tensor, "..."]],
    loss: Callable[[Tensor], Float[Tensor, "..."]],
    eps: float | Sequence[float],
    *,
    samples: int = 1,
    reduction: str = "sum",
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "..."], ...]:
    """Estimates the gradient of a loss of pixels through a renderer that has none.

    It stands in the place of `torch.autograd.grad(loss(render(*params).image).sum(), params)`. All parameters are
    perturbed at once by `+-eps` with random signs s, and again with all signs turned; a pixel's difference in loss,
    `d_j`, is credited to the parameters that it shows in either picture alone:
    `g_i = sum_j d_j s_i / (2 eps_i)`. So the noise of an estimate depends on how many parameters a pixel shows, not on
    how many there are. It is unbiased for losses that are quadratic, and else up to what eps smooths: discontinuities
    become slopes 2 eps wide.

    Args:
        render: from the parameters to a `Rendering`, called as `render(*params)`; any black box.
        params: floating-point tensors; their first axis is what `contributors` number.
        loss: from the picture to the loss of each pixel, a tensor of P numbers of any shape, such as
            `(image - target).square().sum(0)`.
        eps: the size of a perturbation, one for each parameter or for all of them: about 1 for vertices in pixels (with
            less most pixels do not change), 0.05 for colours in [0, 1].
        samples: pairs of pictures that are averaged; 1 beside an optimizer with momentum.
        reduction: 'sum' of a parameter's pixels, as autograd has it, or their 'mean', by which the gradients of few and
            of many pixels become alike.
        generator: of the random signs, on any device; default PyTorch's global one.

    Returns:
        A tensor for each parameter, of its shape.

    Raises:
        UsageError: a setting out of range, parameters that are not floating-point, contributors that fit neither
            parameters nor pixels, or a loss that is not finite.

    Paper: Transforming a Non-Differentiable Rasterizer into a Differentiable One with Stochastic Gradient Estimation
    (arXiv 2404.09758).

    Examples:
        >>> import torch
        >>> def render(colours):  # of five pixels; each shows its own
        ...     return Rendering(colours.round(decimals=1), (torch.arange(5)[:, None],))
        >>> colours = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
        >>> gradient, = estimate_gradient(render, [colours], lambda image: image.square(), eps=0.2)
        >>> torch.allclose(gradient, 2 * colours)
        True
    """
    sizes = _checked(params, eps, samples, reduction)
    totals = [torch.zeros_like(param) for param in params]
    for _ in range(samples):
        signs = [_signs(param, generator) for param in params]
        steps = [size * sign for size, sign in zip(sizes, signs, strict=True)]
        plus = render(*(param + step for param, step in zip(params, steps, strict=True)))
        minus = render(*(param - step for param, step in zip(params, steps, strict=True)))
        difference = (loss(plus.image) - loss(minus.image)).flatten()  # d_j [P]
        if not bool(difference.isfinite().all()):
            raise UsageError("the loss of a perturbed picture is not finite")
        for place, (param, size, sign) in enumerate(zip(params, sizes, signs, strict=True)):
            rows = _contributors(plus, minus, place, len(params), len(difference), len(param))
            credit = _credit(difference, rows, len(param), reduction)  # [R]
            totals[place] += credit.reshape(-1, *[1] * (param.ndim - 1)) * sign / (2 * size)
    return tuple(total / samples for total in totals)


def _signs(param: Tensor, generator: torch.Generator | None) -> Tensor:
    """-1 or 1 for every element."""
    device = param.device if generator is None else generator.device
    return (torch.randint(2, param.shape, generator=generator, device=device) * 2 - 1).to(param)


def _credit(difference: Tensor, rows: Tensor | None, length: int, reduction: str) -> Float[Tensor, "R"]:
    """For each row of a parameter the differences of its pixels, each counted once."""
    if rows is None:
        total = difference.sum() if reduction == "sum" else difference.mean()
        return total.expand(length)
    ordered = rows.sort(1).values  # what contributes to both pictures stands side by side
    counted = ordered >= 0
    counted[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    index = ordered.clamp(min=0).flatten()
    credit = difference.new_zeros(length).index_add_(0, index, (difference[:, None] * counted).flatten())
    if reduction == "sum":
        return credit
    pixels = difference.new_zeros(length).index_add_(0, index, counted.flatten().to(difference.dtype))
    return credit / pixels.clamp(min=1)


def _contributors(
    plus: Rendering, minus: Rendering, place: int, params: int, pixels: int, length: int
) -> Int[Tensor, "P _"] | None:
    """The rows of a parameter that contribute to each pixel of either picture."""
    for rendering in (plus, minus):
        if len(rendering.contributors) != params:
            raise UsageError(f"render must give contributors for each of {params} parameters")
    first, second = plus.contributors[place], minus.contributors[place]
    if first is None or second is None:
        return None
    if len(first) != pixels or len(second) != pixels:
        raise UsageError(
            f"contributors of parameter {place} must have a row for each of the {pixels} pixels of the loss, not "
            f"{len(first)} and {len(second)}"
        )
    rows = torch.cat((first, second), 1)
    if rows.numel() and not -1 <= int(rows.min()) <= int(rows.max()) < length:
        raise UsageError(
            f"contributors of parameter {place} must be numbers of its {length} rows, or -1, got {int(rows.min())} to "
            f"{int(rows.max())}"
        )
    return rows


def _checked(params: Sequence[Tensor], eps: float | Sequence[float], samples: int, reduction: str) -> list[float]:
    """The size of every parameter's perturbation."""
    check_whole("samples", samples, least=1)
    check_choice("reduction", reduction, ("sum", "mean"))
    if not params:
        raise UsageError("there are no parameters")
    for place, param in enumerate(params):
        if not param.is_floating_point() or param.ndim == 0:
            raise UsageError(f"parameter {place} must be a floating-point tensor with an axis, got {param.dtype}")
    sizes = list(eps) if isinstance(eps, Sequence) else [eps] * len(params)
    if len(sizes) != len(params):
        raise UsageError(f"eps must be one number, or one for each of {len(params)} parameters, got {len(sizes)}")
    for size in sizes:
        check_number("eps", size, above=0)
    return [float(size) for size in sizes]
