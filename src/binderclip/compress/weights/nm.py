"""N:M sparsity: of every M consecutive input weights of an output the N largest stay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["NMMask", "Pattern", "StructureDecay", "is_nm", "nm_mask", "to_semi_structured"]

LARGEST_RANKED = 16
"""M up to which counting M - 1 comparisons a weight beats a sort."""
CHUNK = 1 << 18
"""Weights that are ranked at once on a CPU: their keys and ranks stay in the cache."""
SORTED = 150
"""Weights for each two of a group up to which its m (m - 1) / 2 comparisons take longer to start than a sort."""
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@runtime_checkable
class Pattern(Protocol):
    """Which weights are kept, over a training."""

    def mask(self, weight: Tensor) -> Tensor:
        """True for the weights that are kept; of the weight's shape."""
        ...

    def at(self, step: int, steps: int) -> Pattern:
        """The pattern at a step of the sparse phase, which takes `steps`; the first is 0."""
        ...


def nm_mask(weight: Float[Tensor, "*shape"], n: int, m: int, dim: int = 1) -> Bool[Tensor, "*shape"]:
    """True for the n largest magnitudes of every m consecutive weights along an axis.

    Of equal magnitudes the one further along is kept; NaN counts as the largest. A last group of fewer than m keeps n
    of them. The magnitudes are compared as integers, bit by bit, and ranked by counting, without a sort where m <= 16.

    Args:
        weight: of a linear layer (out, in), of a convolution (out, in, height, width), or of any shape.
        n: kept in each group.
        m: size of a group.
        dim: axis of the groups; 1 is the input of linear layers and of convolutions, which are grouped over channels.

    Raises:
        UsageError: not 1 <= n <= m, or no such axis.
    """
    _check_pattern(n, m)
    if not -weight.ndim <= dim < weight.ndim:
        raise UsageError(f"a weight of shape {tuple(weight.shape)} has no axis {dim}")
    rows = weight.detach().movedim(dim, -1)
    kept = torch.empty(rows.shape, dtype=torch.bool, device=rows.device)
    whole = rows.shape[-1] // m * m
    for begin, end, size in ((0, whole, m), (whole, rows.shape[-1], rows.shape[-1] - whole)):
        if end > begin:
            groups = rows[..., begin:end].reshape(-1, size)
            kept[..., begin:end] = _largest(groups, min(n, size)).view(*rows.shape[:-1], end - begin)
    return kept.movedim(-1, dim)


def _largest(groups: Float[Tensor, "G m"], n: int) -> Bool[Tensor, "G m"]:
    count, m = groups.shape
    if n == m:
        return torch.ones_like(groups, dtype=torch.bool)
    if m > LARGEST_RANKED or groups.numel() < SORTED * m * (m - 1):
        order = _keys(groups).argsort(dim=1, stable=True)[:, : m - n]
        return torch.ones_like(groups, dtype=torch.bool).scatter_(1, order, False)
    kept = torch.empty(groups.shape, dtype=torch.bool, device=groups.device)
    rows = max(1, CHUNK // m) if groups.device.type == "cpu" else max(1, count)
    for begin in range(0, count, rows):
        part = groups[begin : begin + rows]
        keys = _keys(part.t().contiguous()).unbind(0)  # m columns of (rows,)
        # ranks[i] counts the weights of the group that come before weight i: those larger, and equal ones behind it.
        ranks = [torch.full_like(keys[0], m - 1 - i, dtype=torch.int8) for i in range(m)]
        for i in range(m):
            for j in range(i + 1, m):
                before = (keys[i] > keys[j]).view(torch.int8)
                ranks[i] -= before
                ranks[j] += before
        kept[begin : begin + rows] = torch.stack(ranks, 1) < n
    return kept


def _keys(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Integers in the order of the magnitudes: the bits of a float without its sign."""
    integer = _INTEGERS[values.element_size()]
    return values.view(integer) & torch.iinfo(integer).max


def is_nm(weight: Float[Tensor, "*shape"], n: int, m: int, dim: int = 1) -> bool:
    """Whether of every m consecutive weights along an axis at most n are not zero.

    Args:
        weight, n, m, dim: as in `nm_mask`.

    Raises:
        UsageError: as `nm_mask`.
    """
    _check_pattern(n, m)
    nonzero = weight.detach().movedim(dim, -1) != 0
    padded = nn.functional.pad(nonzero, (0, -nonzero.shape[-1] % m))
    return bool((padded.unflatten(-1, (-1, m)).sum(-1) <= n).all())


@dataclass(frozen=True)
class NMMask:
    """Keep the n largest magnitudes of every m consecutive inputs of an output, chosen anew at every step.

    `NMMask(2, 4)` is what `to_semi_structured` turns into torch's semi-structured format.

    Args:
        n: kept in each group.
        m: size of a group.
        dim: axis of the groups, 1 for the inputs of linear layers and convolutions; 0 groups outputs.

    Raises:
        UsageError: not 1 <= n <= m.

    Paper: Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers (arXiv 2402.04744).

    Examples:
        >>> import torch
        >>> NMMask(2, 4).mask(torch.tensor([[0.1, -3.0, 2.0, 0.5]]))
        tensor([[False,  True,  True, False]])
    """

    n: int
    m: int
    dim: int = 1

    def __post_init__(self) -> None:
        _check_pattern(self.n, self.m)

    def mask(self, weight: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """See `nm_mask`."""
        return nm_mask(weight, self.n, self.m, self.dim)

    def at(self, step: int, steps: int) -> NMMask:
        """Itself."""
        return self


@dataclass(frozen=True)
class StructureDecay:
    """Reach an N:M pattern by way of milder ones, each for an equal part of the sparse phase (SdGf).

    Args:
        n, m: of the last pattern.
        shape: "stepwise" keeps m and halves what is kept, (m-1):m, m/2:m, m/4:m, ..., n:m (1:8: 7:8, 4:8, 2:8, 1:8);
            "geometric" keeps the ratio and halves the group, 8n:8m, 4n:4m, 2n:2m, n:m. Where halving misses n:m, which
            is where the released code stops, n:m follows as a pattern of its own.
        dim: see `NMMask`.

    Raises:
        UsageError: not 1 <= n < m, or an unknown shape.

    Paper: Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers (arXiv 2402.04744).
    """

    n: int
    m: int
    shape: Literal["stepwise", "geometric"] = "geometric"
    dim: int = 1
    frames: tuple[NMMask, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_pattern(self.n, self.m)
        check_choice("shape", self.shape, ("stepwise", "geometric"))
        if self.n == self.m:
            raise UsageError(f"{self.n}:{self.m} removes nothing: n must be below m")
        if self.shape == "geometric":
            pairs = [(self.n * factor, self.m * factor) for factor in (8, 4, 2, 1)]
        else:
            halvings = math.floor(math.log2(self.m / self.n))
            pairs = [(self.m - 1, self.m), *((self.m >> i, self.m) for i in range(1, halvings + 1)), (self.n, self.m)]
        frames = tuple(NMMask(*pair, self.dim) for pair in dict.fromkeys(pairs))
        object.__setattr__(self, "frames", frames)

    def mask(self, weight: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """That of the last pattern."""
        return self.frames[-1].mask(weight)

    def at(self, step: int, steps: int) -> NMMask:
        """The pattern of a step."""
        return self.frames[min(step * len(self.frames) // max(steps, 1), len(self.frames) - 1)]


def _check_pattern(n: int, m: int) -> None:
    check_whole("n", n, least=1)
    check_whole("m", m, least=1)
    if n > m:
        raise UsageError(f"{n}:{m} keeps more than a group has: n must be at most m")


def to_semi_structured(model: nn.Module) -> list[str]:
    """Turn the weights of all linear layers that are 2:4 sparse into torch's semi-structured format, in place.

    Args:
        model: finalized, on a CUDA device, in half precision or bfloat16; other layers stay as they are.

    Returns:
        Names of the layers that were turned.

    Raises:
        NotSupported: a 2:4 layer's weight is not on a GPU, for which torch has kernels alone.
        UsageError: no linear layer has a 2:4 weight.
    """
    from torch.sparse import to_sparse_semi_structured

    layers = {
        name: module for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_nm(module.weight, 2, 4)
    }  # fmt: skip
    if not layers:
        raise UsageError("no linear layer has a 2:4 sparse weight: train with NMMask(2, 4), then finalize()")
    for name, module in layers.items():
        if module.weight.device.type != "cuda":
            raise NotSupported(f"layer {name!r} lies on {module.weight.device}: 2:4 kernels of torch need CUDA")
    for module in layers.values():
        module.weight = nn.Parameter(to_sparse_semi_structured(module.weight.detach()), requires_grad=False)
    return list(layers)
