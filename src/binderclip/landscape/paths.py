"""Paths between two solutions, straight or bent, and the loss along them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.landscape.directional import LossAlong
from binderclip.optim.space import TensorTree

__all__ = ["bezier_middle", "figure_between"]


def figure_between(
    figure: Callable[[], Tensor | float],
    params: TensorTree,
    start: TensorTree,
    end: TensorTree,
    *,
    middle: TensorTree | None = None,
    points: int = 21,
) -> LossAlong:
    """A figure, such as a loss or an accuracy, along the way from one solution to another.

    The way is the straight line (1 - t) a + t b, or with a middle m the quadratic Bezier curve (1 - t)^2 a +
    2 t (1 - t) m + t^2 b, t in [0, 1]. The parameters are put back bit for bit; running statistics, such as batch
    norm's, stay those that they are.

    Args:
        figure: a function without arguments that reads the parameters, on a fixed batch.
        params: tensors that are moved, in a sequence or by name.
        start, end: a and b, as many tensors of the same shapes, in the same order or by the same names.
        middle: m, as `bezier_middle` finds it.
        points: on the way, both ends included; 2 or more.

    Returns:
        `steps` are the t, `losses` the figures; `start` is the figure at the parameters as they were given.

    Raises:
        UsageError: fewer than two points, no parameter, or tensors that do not fit.

    Paper: Scimeca et al., Which Shortcut Cues Will DNNs Choose? A Study from the Parameter-Space Perspective (arXiv
    2110.03095); the curve is that of Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs
    (arXiv 1802.10026).

    Examples:
        >>> w = torch.zeros(1)
        >>> a, b = torch.tensor([-1.0]), torch.tensor([1.0])
        >>> figure_between(lambda: w.square().sum(), [w], [a], [b], points=3).losses.tolist()
        [1.0, 0.0, 1.0]
    """
    if points < 2:
        raise UsageError(f"points is {points}; a way has two ends at least")
    tensors, a, b = _tensors(params), _fitting(params, start, "start"), _fitting(params, end, "end")
    m = None if middle is None else _fitting(params, middle, "middle")
    places = torch.linspace(0, 1, points, dtype=torch.float64)
    with torch.no_grad():
        before, values = float(figure()), []
        with _put_back(tensors):
            for place in places.tolist():
                _move(tensors, a, b, m, place)
                values.append(float(figure()))
    return LossAlong(places, torch.tensor(values, dtype=torch.float64), before)


def bezier_middle(
    loss: Callable[[], Float[Tensor, ""]],
    params: TensorTree,
    start: TensorTree,
    end: TensorTree,
    *,
    steps: int = 300,
    lr: float = 1e-2,
    seed: int = 0,
) -> list[Tensor]:
    """Train the middle of the quadratic Bezier curve between two solutions for a low mean loss along it.

    From the mean of both ends, where the curve is the straight line; each step takes the gradient at one uniformly
    drawn place t, which reaches the middle with the weight 2 t (1 - t), and makes a step of Adam. The parameters are
    put back bit for bit.

    Args:
        loss: a function without arguments that computes the scalar loss from the parameters; it may draw a batch.
        params: tensors with `requires_grad`, in a sequence or by name.
        start, end: both solutions, as in `figure_between`.
        steps: of Adam.
        lr: its rate.
        seed: of the places.

    Returns:
        The middle, one tensor a parameter, in the order of `params`.

    Raises:
        UsageError: no step, a rate that is not above 0, no parameter or a frozen one, or tensors that do not fit.

    Paper: as `figure_between`.
    """
    if steps < 1 or not lr > 0:
        raise UsageError(f"steps must be at least 1 and lr above 0, got {steps} and {lr}")
    tensors, a, b = _tensors(params), _fitting(params, start, "start"), _fitting(params, end, "end")
    if not all(tensor.requires_grad for tensor in tensors):
        raise UsageError("a parameter does not require a gradient: leave it out of params")
    middle = [torch.lerp(x, y, 0.5) for x, y in zip(a, b, strict=True)]
    optimizer = torch.optim.Adam(middle, lr=lr)
    places = torch.rand(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    with _put_back(tensors):
        for place in places:
            _move(tensors, a, b, middle, place)
            with torch.enable_grad():
                grads = torch.autograd.grad(loss(), tensors, allow_unused=True)
            for part, grad in zip(middle, grads, strict=True):
                part.grad = None if grad is None else 2 * place * (1 - place) * grad
            optimizer.step()
    return [part.detach() for part in middle]


def _tensors(params: TensorTree) -> list[Tensor]:
    tensors = list(params.values()) if isinstance(params, Mapping) else list(params)
    if not tensors:
        raise UsageError("params holds no tensor")
    return tensors


def _fitting(params: TensorTree, tree: TensorTree, name: str) -> list[Tensor]:
    """The tensors of another tree in the order of the parameters, copied."""
    if isinstance(params, Mapping) != isinstance(tree, Mapping):
        raise UsageError(f"{name} and params must both be sequences, or both by name")
    if isinstance(params, Mapping) and isinstance(tree, Mapping):
        if set(tree) != set(params):
            raise UsageError(f"{name} and params differ in names: {', '.join(sorted(set(tree) ^ set(params))[:5])}")
        parts: Sequence[Tensor] = [tree[key] for key in params]
    else:
        parts = list(tree)  # type: ignore[arg-type]
    shapes, own = [part.shape for part in parts], [tensor.shape for tensor in _tensors(params)]
    if shapes != own:
        raise UsageError(f"{name} must have the shapes of params: {len(parts)} tensors for {len(own)}, or other sizes")
    return [part.detach().clone() for part in parts]


@torch.no_grad()
def _move(
    tensors: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor], m: Sequence[Tensor] | None, t: float
) -> None:
    """Bring the parameters to place t of the way."""
    for number, tensor in enumerate(tensors):
        if m is None:
            tensor.copy_(torch.lerp(a[number], b[number], t))
        else:
            tensor.copy_((1 - t) ** 2 * a[number] + 2 * t * (1 - t) * m[number] + t**2 * b[number])


@contextmanager
def _put_back(tensors: Sequence[Tensor]) -> Iterator[None]:
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, origin in zip(tensors, before, strict=True):
                tensor.copy_(origin)
