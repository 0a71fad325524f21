"""Where the axes of inner tensors lie in the image: feature maps, channels last, tokens, attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

#: Operations whose channels are the last axis.
CHANNELS_LAST = ("linear", "layer_norm", "rms_norm")
#: Products of tokens with tokens have rows and columns of tokens, not of pixels.
TOKEN_PAIRS = ("matmul", "__matmul__", "bmm", "baddbmm", "softmax", "einsum")


@dataclass(frozen=True)
class TensorLayout:
    """How to read a tensor whose first axis is the image.

    Attributes:
        kind: `channels-first` (B, C, h, w), `channels-last` (B, h, w, C), `tokens` (B, L, D) or `heads` (B, H, L, d).
        grid: (h, w) of the patches, for tokens.
        prefix: tokens before the patches.
    """

    kind: Literal["channels-first", "channels-last", "tokens", "heads"]
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0


def layout_of(
    op: str, shape: tuple[int, ...], aspect: float, tokens: tuple[tuple[int, int], int] | None = None
) -> TensorLayout | None:
    """The layout of an operation's output, None for one without a place in the image.

    Args:
        op: the operation.
        shape: of its output, the image first.
        aspect: height / width of the network's input.
        tokens: grid and prefix of a tower's tokens; None to look for a square number of them.
    """
    if len(shape) not in (3, 4):
        return None
    if len(shape) == 3:
        return _token_layout("tokens", shape[1], tokens)
    if op == "scaled_dot_product_attention" or (tokens and shape[2] == tokens[1] + tokens[0][0] * tokens[0][1]):
        return None if op in TOKEN_PAIRS else _token_layout("heads", shape[2], tokens)
    first = op not in CHANNELS_LAST
    height, width = shape[2:] if first else shape[1:3]
    if op in TOKEN_PAIRS or min(height, width) < 2 or not 1 / 2 <= height / width / aspect <= 2:
        return None
    # Elementwise operations say nothing about their axes: where only channels last fits the image's form, it is that.
    if first and abs(shape[1] / shape[2] / aspect - 1) < 0.2 < abs(height / width / aspect - 1):
        first = False
    return TensorLayout("channels-first" if first else "channels-last")


def on_grid(values: Float[Tensor, "B *size"], layout: TensorLayout | None) -> Float[Tensor, "B h w C"] | None:
    """A tensor as a map with its channels last; None for one without a place."""
    if layout is None:
        return None
    if layout.kind == "channels-first":
        return values.permute(0, 2, 3, 1)
    if layout.kind == "channels-last":
        return values
    tokens = values.transpose(1, 2).flatten(2) if layout.kind == "heads" else values
    count = layout.grid[0] * layout.grid[1]
    return tokens[:, layout.prefix : layout.prefix + count].unflatten(1, layout.grid)


def _token_layout(
    kind: Literal["tokens", "heads"], length: int, tokens: tuple[tuple[int, int], int] | None
) -> TensorLayout | None:
    if tokens is not None:
        (height, width), prefix = tokens
        # Patches alone, before the class token is put in front, or all of them.
        prefix_of = {height * width: 0, prefix + height * width: prefix}.get(length)
        return None if prefix_of is None else TensorLayout(kind, (height, width), prefix_of)
    for prefix in range(min(length, 9)):
        side = round((length - prefix) ** 0.5)
        if side > 1 and side * side == length - prefix:
            return TensorLayout(kind, (side, side), prefix)
    return None
