"""Quantisation in floating point that training computes with: values rounded to a grid within their block's range.

One function, `fake_quant`, for all: which values share a range (`Blocks`), where the range comes from (a range rule,
which other libraries call an observer), the grid, the factor of the gradient (the surrogate), and how it rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.optim.surrogates import StraightThroughSurrogate, Surrogate
from binderclip.settings import check_choice

__all__ = [
    "AffineGrid",
    "Blocks",
    "FixedRange",
    "Grid",
    "MaxAbs",
    "MinMax",
    "RangeRule",
    "SignGrid",
    "SpikeGrid",
    "SymmetricGrid",
    "fake_quant",
]

MOST_BITS = 24
"""float32 holds whole numbers of 24 bits."""

Rounding: TypeAlias = Callable[[Tensor], Tensor]
RangeRule: TypeAlias = Callable[[Float[Tensor, "N K"]], tuple[Float[Tensor, "#N 1"], Float[Tensor, "#N 1"]]]
"""From blocks to the lower and the upper end of each block's range."""


@dataclass(frozen=True)
class Blocks:
    """Which values of a tensor share one range; by default all of them.

    Args:
        dim: every slice along this dimension is a block: 0 for a weight's output units or a batch's samples, 1 for
            channels.
        size: every run of so many consecutive values is a block, the last may be shorter.

    Raises:
        UsageError: both are given, or a value that is no whole number in range.
    """

    dim: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.dim is not None and self.size is not None:
            raise UsageError("blocks are slices of a dimension or runs of consecutive values: give dim or size")
        if self.dim is not None:
            check_whole("dim", self.dim)
        if self.size is not None:
            check_whole("size", self.size, least=1)

    def split(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "N K"]:
        """The values as one row a block; a shorter last run is filled up with its own last value.

        Raises:
            UsageError: there are no values, or the tensor lacks the dimension.
        """
        if x.numel() == 0:
            raise UsageError(f"there is nothing to quantise: the tensor has shape {tuple(x.shape)}")
        if self.size is not None:
            flat = x.reshape(-1)
            # The last value again changes neither minimum nor maximum of its block.
            return torch.cat([flat, flat[-1:].expand(-len(flat) % self.size)]).reshape(-1, self.size)
        if self.dim is None:
            return x.reshape(1, -1)
        if not -x.ndim <= self.dim < x.ndim:
            raise UsageError(f"blocks along dimension {self.dim}: the tensor has shape {tuple(x.shape)}")
        return x.movedim(self.dim, 0).reshape(x.shape[self.dim], -1)

    def join(self, rows: Float[Tensor, "N K"], shape: torch.Size) -> Float[Tensor, "*shape"]:
        """The tensor of this shape that the rows are the blocks of."""
        if self.dim is None:
            return rows.reshape(-1)[: shape.numel()].reshape(shape)
        moved = [shape[self.dim], *(length for number, length in enumerate(shape) if number != self.dim % len(shape))]
        return rows.reshape(moved).movedim(0, self.dim)


@dataclass(frozen=True)
class MinMax:
    """The range from the smallest to the largest value of a block.

    Args:
        include_zero: widen it so that zero lies inside, as torch.ao's `MinMaxObserver` does.
    """

    include_zero: bool = False

    def __call__(self, rows: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        low, high = rows.aminmax(dim=1, keepdim=True)
        if self.include_zero:
            low, high = low.clamp(max=0), high.clamp(min=0)
        return low, high


@dataclass(frozen=True)
class MaxAbs:
    """The range from minus to plus the largest magnitude of a block."""

    def __call__(self, rows: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        high = rows.abs().amax(dim=1, keepdim=True)
        return -high, high


@dataclass(frozen=True)
class FixedRange:
    """A range that is given: one for all blocks, or one for each.

    Args:
        low: the lower end, a number or a tensor of shape (blocks,).
        high: the upper end.

    Raises:
        UsageError: numbers that are not finite, or a lower end above the upper one. Tensors are not looked into.
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        for name, end in (("low", self.low), ("high", self.high)):
            if not isinstance(end, Tensor):
                check_number(name, end)
        if not isinstance(self.low, Tensor) and not isinstance(self.high, Tensor) and self.low > self.high:
            raise UsageError(f"a range from {self.low} to {self.high} is empty: low must be at most high")

    def __call__(self, rows: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "#N 1"], Float[Tensor, "#N 1"]]:
        low, high = (torch.as_tensor(end, dtype=rows.dtype, device=rows.device) for end in (self.low, self.high))
        return low.reshape(-1, 1), high.reshape(-1, 1)


@runtime_checkable
class Grid(Protocol):
    """From values and ranges to the values that a block's codes stand for."""

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor, rounding: Rounding) -> Tensor: ...


@dataclass(frozen=True)
class SymmetricGrid:
    """Multiples of high / 2^(bits - 1), with zero among them.

    Signed codes go from -2^(bits - 1) to 2^(bits - 1), so the range's both ends are on the grid; `narrow` leaves the
    upmost one out, which makes them `bits` wide. Codes without sign are multiples of high / 2^bits from 0 on.

    Args:
        bits: 1 to 24.
        signed: False for values that are never negative, such as those behind a ReLU.
        narrow: leave out the code that `bits` bits have no room for.

    Raises:
        UsageError: bits outside.
    """

    bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        _check_bits(self.bits)

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor, rounding: Rounding) -> Tensor:
        codes = 2 ** (self.bits - 1) if self.signed else 2**self.bits
        step = high / codes
        # An empty range has no step: its values are all 0, and so are their codes.
        code = rounding(rows / torch.where(step > 0, step, 1.0))
        return code.clamp(-codes if self.signed else 0, codes - 1 if self.narrow else codes) * step


@dataclass(frozen=True)
class AffineGrid:
    """2^bits levels at equal distances from one end of the range to the other; blocks of equal values stay.

    Args:
        bits: 1 to 24.
        zero: `integer` moves the grid by less than a step so that zero is a level, as integer kernels need it;
            `lowest` keeps both ends of the range as levels.

    Raises:
        UsageError: bits outside, or another zero.
    """

    bits: int
    zero: Literal["integer", "lowest"] = "integer"

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        check_choice("zero", self.zero, ("integer", "lowest"))

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor, rounding: Rounding) -> Tensor:
        top = 2**self.bits - 1
        step = (high - low) / top
        flat = step <= 0
        step = torch.where(flat, 1.0, step)
        if self.zero == "integer":
            zero = (-low / step).round().clamp(0, top)
            values = ((rounding(rows / step) + zero).clamp(0, top) - zero) * step
        else:
            values = rounding((rows - low) / step).clamp(0, top) * step + low
        return torch.where(flat, rows, values)


@dataclass(frozen=True)
class SignGrid:
    """The upper end times the sign: one bit; a value of exactly 0 stays 0, as `torch.sign` has it."""

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor, rounding: Rounding) -> Tensor:
        return rows.sign() * high


@dataclass(frozen=True)
class SpikeGrid:
    """1 where a value reaches the range's upper end, which is the threshold, and 0 below it."""

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor, rounding: Rounding) -> Tensor:
        return (rows >= high).to(rows.dtype)


WHOLE, UNCHANGED = Blocks(), StraightThroughSurrogate()
"""What `fake_quant` does where nothing else is asked for."""


class _FakeQuantization(torch.autograd.Function):
    """The grid's values forward, the surrogate's factor backward; ranges get no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rows: Tensor, low: Tensor, high: Tensor, grid: Grid, surrogate: Surrogate, rounding: Rounding
    ) -> Tensor:
        values = grid(rows, low, high, rounding)
        # A grid that keeps the values hands its input on, which autograd would take for a view.
        return values.clone() if values is rows else values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        rows, low, high, _, surrogate, _ = inputs
        ctx.surrogate = surrogate
        # What passes straight through needs no values: they would be kept until the backward pass for nothing.
        ctx.save_for_backward(*(() if isinstance(surrogate, StraightThroughSurrogate) else (rows, low, high)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = ctx.surrogate(*(x.detach() for x in ctx.saved_tensors)) if ctx.saved_tensors else None
        return (gradients[0] if factor is None else gradients[0] * factor), None, None, None, None, None


def fake_quant(
    x: Float[Tensor, "*shape"],
    rule: RangeRule,
    grid: Grid,
    *,
    blocks: Blocks = WHOLE,
    surrogate: Surrogate = UNCHANGED,
    stochastic: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """Values rounded to the grid within the range of their block, with a surrogate for the derivative.

    It computes in float32 (float64 stays), without waiting for the device. NaN gives NaN, in its whole block where the
    rule takes it into the range. Ranges are detached.

    Args:
        x: of any shape and floating dtype, in any unit.
        rule: ranges of the blocks, such as `MinMax()`, `MaxAbs()` or `FixedRange(-1, 1)`.
        grid: levels within the range.
        blocks: which values share a range; default all.
        surrogate: factor of the gradient; default 1.
        stochastic: round up with a probability of the fractional part, which is unbiased within the range, instead of
            to the nearest level.
        generator: of the noise, on the device of `x`; default PyTorch's own.

    Returns:
        Of the shape and dtype of `x`.

    Raises:
        UsageError: no values, values that are no floating-point numbers, or a dimension that the tensor lacks.

    Examples:
        >>> fake_quant(torch.tensor([-1.0, 0.2, 0.6, 1.0]), MaxAbs(), SymmetricGrid(bits=2))
        tensor([-1.0000,  0.0000,  0.5000,  1.0000])
    """
    if not x.is_floating_point():
        raise UsageError(f"only floating-point values can be quantised, got {x.dtype}")
    rows = blocks.split(x)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    with torch.no_grad():
        low, high = rule(rows.detach())
    rounding: Rounding = torch.round
    if stochastic:

        def unbiased(codes: Tensor) -> Tensor:  # E[round(y + u)] = y for u uniform in [-1/2, 1/2)
            noise = torch.empty_like(codes).uniform_(-0.5, 0.5, generator=generator)
            return (codes + noise).round()

        rounding = unbiased

    values = _FakeQuantization.apply(rows, low, high, grid, surrogate, rounding)
    return blocks.join(values, x.shape).to(x.dtype)


def _check_bits(bits: int) -> None:
    check_whole("bits", bits, least=1)
    if bits > MOST_BITS:
        raise UsageError(f"bits must be at most {MOST_BITS}, which float32 holds exactly, got {bits}")
