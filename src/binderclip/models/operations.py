"""Floating-point operations of a call, counted as it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_operations"]


def count_operations(function: Callable[[], object]) -> int:
    """Operations of the matrix products and convolutions in a call, a multiplication and an addition counted as two.

    By torch's flop counter, which misses two things: attention in fused kernels of the CPU and of
    `nn.MultiheadAttention`'s fast path counts as nothing there, so both are switched off for the call; and the backward
    pass of a convolution in groups counts as often as there are groups, so it is counted here. Works on the `meta`
    device too.

    Args:
        function: called once; what it records for gradients, and whether it runs a backward pass, is its own affair.

    Examples:
        >>> count_operations(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
        48
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    formulas: Any = {torch.ops.aten.convolution_backward: _convolution_backward}
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def _convolution_backward(
    gradient: Sequence[int],
    images: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """One forward pass for the gradient of the images, and one for that of the weights, if they are asked for.

    A kernel (out, in / groups, ...) acts at each place of the output, a transposed one at each place of the input.
    """
    places = images if transposed else gradient
    forward = 2 * math.prod(weight) * places[0] * math.prod(places[2:])
    return forward * sum(bool(asked) for asked in output_mask[:2])
