"""Per-sample gradients in the form in which they are cheapest: their norms, their weighted sums, their full size.

A weight's gradient of one sample is a sum of outer products, one a position. Its norm needs only the two Gram matrices
of the factors (ghost norms: Goodfellow 2015; Li et al., ICLR 2022), its weighted sum over samples only one matrix
product (book-keeping: Bu et al., ICML 2023); the B x P matrix of all per-sample gradients is formed where it is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.grad import conv2d_weight

__all__ = ["Contribution", "Convolved", "Direct", "Looked", "Outer", "squared_norms"]

CHUNK = 1 << 24
"""Elements of an intermediate that is cut along the samples when it would be larger (64 MB in float32)."""


class Contribution:
    """The per-sample gradients (B, *shape) that one use of a parameter gives."""

    shape: tuple[int, ...]

    def squares(self) -> Float[Tensor, "B"]:
        """Squared norm of each sample's gradient."""
        return _rows(self.full()).square().sum(1)

    def weighted(self, weights: Float[Tensor, "B"], bad: Bool[Tensor, "B"] | None = None) -> Tensor:
        """Sum over samples of weight times gradient; samples in `bad` are left out, whatever they hold."""
        raise TypeError(f"{type(self).__name__} has no weighted sum")

    def full(self) -> Float[Tensor, "B *shape"]:
        """The gradients themselves."""
        raise TypeError(f"{type(self).__name__} has no full form")

    def settled(self) -> Contribution:
        """The same in whichever form takes less memory."""
        return self


class Direct(Contribution):
    """Gradients held as they are, (B, *shape)."""

    def __init__(self, grad: Float[Tensor, "B *shape"]) -> None:
        self.grad, self.shape = grad, tuple(grad.shape[1:])

    def weighted(self, weights: Float[Tensor, "B"], bad: Bool[Tensor, "B"] | None = None) -> Tensor:
        rows = _without(_rows(self.grad), bad)
        return (weights.to(rows.dtype) @ rows).view(self.shape)

    def full(self) -> Float[Tensor, "B *shape"]:
        return self.grad


class Outer(Contribution):
    """Sum over T positions of left (x) right.

    Args:
        left: (B, T, m). right: (B, T, n). The gradient is (m, n).
    """

    def __init__(self, left: Float[Tensor, "B T m"], right: Float[Tensor, "B T n"]) -> None:
        if left.dtype != right.dtype:
            left, right = left.float(), right.float()
        self.left, self.right = left, right
        self.shape = (left.shape[2], right.shape[2])

    @property
    def ghost(self) -> bool:
        """Whether the factors take less memory, and their Gram matrices less time, than the gradients."""
        m, n = self.shape
        return self.left.shape[1] * (m + n) < m * n

    def squares(self) -> Float[Tensor, "B"]:
        if self.left.shape[1] == 1:
            return self.left[:, 0].square().sum(1) * self.right[:, 0].square().sum(1)
        return self.inner(self) if self.ghost else super().squares()

    def inner(self, other: Outer) -> Float[Tensor, "B"]:
        """Inner product of each sample's gradient with that of another use of the same parameter."""
        parts = []
        for rows in _chunks(len(self.left), 2 * self.left.shape[1] * other.left.shape[1]):
            gram = torch.bmm(self.left[rows], other.left[rows].transpose(1, 2))
            parts.append((gram * torch.bmm(self.right[rows], other.right[rows].transpose(1, 2))).sum((1, 2)))
        return _joined(parts)

    def weighted(self, weights: Float[Tensor, "B"], bad: Bool[Tensor, "B"] | None = None) -> Tensor:
        left, right = _without(self.left, bad), _without(self.right, bad)
        scale = weights.to(left.dtype)[:, None, None]
        if left.shape[2] <= right.shape[2]:
            left = left * scale
        else:
            right = right * scale
        return left.flatten(0, 1).T @ right.flatten(0, 1)

    def full(self) -> Float[Tensor, "B m n"]:
        return torch.bmm(self.left.transpose(1, 2), self.right)

    def settled(self) -> Contribution:
        return self if self.ghost else Direct(self.full())


class Looked(Contribution):
    """Gradient of a table whose rows were looked up: row ids[t] gets values[t].

    Args:
        ids: (B, T); -1 for positions that give no gradient. values: (B, T, d). rows: of the table.
    """

    def __init__(self, ids: Int[Tensor, "B T"], values: Float[Tensor, "B T d"], rows: int) -> None:
        self.ids = ids
        self.values = torch.where((ids >= 0)[..., None], values, torch.zeros_like(values))
        self.shape = (rows, values.shape[2])

    def squares(self) -> Float[Tensor, "B"]:
        return self.inner(self)

    def inner(self, other: Looked | Outer) -> Float[Tensor, "B"]:
        """As `Outer.inner`; against an outer product, whose left factor runs over the table's rows."""
        if isinstance(other, Outer):
            # <e_id (x) v, l (x) r> = l[id] <v, r>
            picked = other.left.gather(2, self.ids.clamp(min=0)[:, None, :].expand(-1, other.left.shape[1], -1))
            return (picked.transpose(1, 2) * torch.bmm(self.values, other.right.transpose(1, 2))).sum((1, 2))
        parts = []
        for rows in _chunks(len(self.ids), 2 * self.ids.shape[1] * other.ids.shape[1]):
            same = self.ids[rows][:, :, None] == other.ids[rows][:, None, :]
            parts.append((torch.bmm(self.values[rows], other.values[rows].transpose(1, 2)) * same).sum((1, 2)))
        return _joined(parts)

    def weighted(self, weights: Float[Tensor, "B"], bad: Bool[Tensor, "B"] | None = None) -> Tensor:
        values = _without(self.values, bad) * weights.to(self.values.dtype)[:, None, None]
        table = values.new_zeros(self.shape)
        return table.index_add_(0, self.ids.clamp(min=0).flatten(), values.flatten(0, 1))

    def full(self) -> Float[Tensor, "B rows d"]:
        table = self.values.new_zeros(len(self.ids), *self.shape)
        index = self.ids.clamp(min=0)[..., None].expand_as(self.values)
        return table.scatter_add_(1, index, self.values)


class Convolved(Contribution):
    """Gradient of a 2-d convolution's kernel.

    Args:
        x: input (B, in, H, W). d: gradient of the output (B, out, h, w). shape: of the kernel (out, in / groups, kh,
            kw). stride, padding, dilation: pairs. groups: of channels.
    """

    def __init__(
        self,
        x: Float[Tensor, "B c H W"],
        d: Float[Tensor, "B o h w"],
        shape: Sequence[int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.x, self.d, self.shape = x.to(d.dtype), d, tuple(shape)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    @property
    def ghost(self) -> bool:
        """Whether Gram matrices over the positions are cheaper than the gradients."""
        m, n = self.shape[0] // self.groups, math.prod(self.shape[1:])
        return self.d[0, 0].numel() * (m + n) < m * n

    def _factors(self, rows: slice) -> tuple[Tensor, Tensor]:
        """(b * groups, m, L) and (b * groups, n, L)."""
        windows = F.unfold(
            self.x[rows], self.shape[2:], dilation=self.dilation, padding=self.padding, stride=self.stride
        )
        n = math.prod(self.shape[1:])
        count = windows.shape[0] * self.groups
        return self.d[rows].reshape(count, self.shape[0] // self.groups, -1), windows.reshape(count, n, -1)

    def _chunks(self) -> Iterator[slice]:
        positions = self.d[0, 0].numel()
        each = positions * max(self.groups * math.prod(self.shape[1:]), positions * self.groups if self.ghost else 0)
        return _chunks(len(self.x), each)

    def squares(self) -> Float[Tensor, "B"]:
        parts = []
        for rows in self._chunks():
            left, right = self._factors(rows)
            if self.ghost:
                product = torch.bmm(left.transpose(1, 2), left) * torch.bmm(right.transpose(1, 2), right)
                squares = product.sum((1, 2))
            else:
                squares = torch.bmm(left, right.transpose(1, 2)).square().sum((1, 2))
            parts.append(squares.view(-1, self.groups).sum(1))
        return _joined(parts)

    def weighted(self, weights: Float[Tensor, "B"], bad: Bool[Tensor, "B"] | None = None) -> Tensor:
        d = _without(self.d, bad) * weights.to(self.d.dtype)[:, None, None, None]
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d_weight(_without(self.x, bad), self.shape, d, *settings)

    def full(self) -> Float[Tensor, "B *shape"]:
        parts = []
        for rows in self._chunks():
            left, right = self._factors(rows)
            parts.append(torch.bmm(left, right.transpose(1, 2)).reshape(-1, *self.shape))
        return torch.cat(parts)

    def settled(self) -> Contribution:
        size = math.prod(self.shape)
        return Direct(self.full()) if not self.ghost and size <= self.x[0].numel() + self.d[0].numel() else self


def squared_norms(uses: Sequence[Contribution]) -> Float[Tensor, "B"]:
    """Squared norm of the SUM of several uses of one parameter, per sample."""
    if len(uses) == 1:
        return uses[0].squares()
    if all(isinstance(use, (Outer, Looked)) for use in uses):
        parts = [use.squares() for use in uses]
        for i, one in enumerate(uses):
            for other in uses[i + 1 :]:
                first, second = (other, one) if isinstance(other, Looked) else (one, other)
                parts.append(2 * first.inner(second))  # type: ignore[attr-defined]
        # cancellation may leave a tiny negative number
        return torch.stack(parts).sum(0).clamp(min=0)
    return Direct(sum(use.full() for use in uses)).squares()  # type: ignore[arg-type]


def _rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _chunks(count: int, each: int) -> Iterator[slice]:
    """Slices of the samples so that `each` elements a sample stay below `CHUNK`."""
    size = max(1, CHUNK // max(each, 1))
    return (slice(start, start + size) for start in range(0, max(count, 1), size))


def _without(tensor: Tensor, bad: Tensor | None) -> Tensor:
    """Zeros in the rows of `bad`: a weight of 0 does not remove a NaN."""
    return tensor if bad is None else tensor.masked_fill(bad.view(-1, *[1] * (tensor.ndim - 1)), 0)
