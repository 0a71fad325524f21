"""`blend_search`: the weights that recombine precomputed logits best."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["BlendResult", "blend_search"]


@dataclass(frozen=True)
class BlendResult:
    """Result of `blend_search`.

    Attributes:
        best: the chosen value of every parameter.
        accuracy: validation accuracy there.
        table: every point tried, in order, with its accuracy.
    """

    best: dict[str, float]
    accuracy: float
    table: list[tuple[dict[str, float], float]]


def blend_search(
    terms: Mapping[str, Float[Tensor, "N C"]] | Callable[..., Any],
    targets: Int[Tensor, "N"],
    grid: Mapping[str, Sequence[float]],
) -> BlendResult:
    """Find the weights that recombine precomputed terms best; nothing is encoded or fitted again.

    Args:
        terms: logits by name, where a name in `grid` is multiplied by its value and the others are added as they are;
            or a function of some or all of the grid's parameters (by name) that gives logits, or such terms for the
            rest of them. Those weights are tried many at a time, so leave to the function what is not a mere weight.
        targets: class indices.
        grid: values to try for every parameter; all combinations, the first best wins.

    Raises:
        UsageError: an empty grid, or a grid name that is neither a term nor a parameter of the function.
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise UsageError("grid needs at least one parameter with at least one value")
    called = _taken(terms, list(grid)) if callable(terms) else []
    weighed = [name for name in grid if name not in called]
    weights = list(product(*(grid[name] for name in weighed)))
    order = [*called, *weighed]
    rows = []
    for values in product(*(grid[name] for name in called)):
        given = terms(**dict(zip(called, values, strict=True))) if callable(terms) else terms
        named = dict(given) if isinstance(given, Mapping) else {"logits": given}
        unknown = sorted(set(weighed) - set(named))
        if unknown:
            raise UsageError(f"grid names {', '.join(unknown)}; the terms are {', '.join(named)}")
        rows.append(_accuracies(named, targets, weighed, weights))
    table = np.concatenate(rows).reshape([len(grid[name]) for name in order])
    flat = table.transpose([order.index(name) for name in grid]).ravel().tolist()
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    first = int(np.argmax(flat))
    return BlendResult(points[first], flat[first], list(zip(points, flat, strict=True)))


_AT_ONCE = 1 << 17
"""Logits that `blend_search` holds at once: they stay in the processor's cache."""


def _taken(function: Callable[..., Any], names: list[str]) -> list[str]:
    """The names that the function takes, in their order."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return names
    known = {p.name for p in parameters}
    return [name for name in names if name in known]


@torch.no_grad()
def _accuracies(
    terms: Mapping[str, Float[Tensor, "N C"]], targets: Tensor, weighed: Sequence[str], weights: Sequence[Any]
) -> np.ndarray:
    """Accuracy of `sum of terms` for every row of weights of the `weighed` ones; one in any case."""
    fixed = [term for name, term in terms.items() if name not in weighed]
    base = torch.stack(fixed).sum(dim=0) if fixed else torch.zeros_like(next(iter(terms.values())))
    asked = targets.numpy()
    accuracies = np.empty(len(weights))
    step = max(1, _AT_ONCE // max(base.numel(), 1))
    for start in range(0, len(weights), step):
        part = torch.tensor(weights[start : start + step], dtype=base.dtype)
        logits = base.expand(len(part), *base.shape)
        for column, name in enumerate(weighed):
            logits = torch.addcmul(logits, part[:, column, None, None], terms[name])
        # NumPy's argmax over few classes is several times faster than torch's.
        accuracies[start : start + step] = (logits.numpy().argmax(axis=-1) == asked).mean(axis=-1)
    return accuracies
