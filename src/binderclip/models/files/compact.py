"""Smaller model folders: weights of 8 or 4 bits with scales, and a text tower that another folder holds.

The configuration of such a folder says so in a table beside open_clip's own entries:
`"binderclip": {"weights": "int8", "text_tower": "small"}`. open_clip alone cannot open it; `binderclip.load` can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Int8, UInt8
from safetensors.torch import load_file
from torch import Tensor

from binderclip.errors import CheckpointError, UsageError

__all__ = ["compact_state", "dequantise", "pack_nibbles", "quantise", "text_folder", "unpack_nibbles"]

SCALE, SHAPE = "::scale", "::shape"
INT8_CODES = "int8_codes"
"""How the name of an int8 layer's weights ends in a state dict: they are codes to the layer too, and stay."""
LEAST = 1024  # numbers below which a tensor stays in half precision


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in 8 bits: each output channel is rounded to 255 steps between its own largest magnitudes.

    Args:
        state: float tensors. Those of two or more axes and at least 1,024 numbers become int8 `NAME` and float16
            `NAME::scale` (one number a row); the others become float16.

    Raises:
        UsageError: a number that is not finite.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise UsageError(f"{name} holds numbers that are not finite")
        if value.ndim < 2 or value.numel() < LEAST:
            packed[name] = value.detach().half().contiguous().clone()
            continue
        rows = value.detach().float().flatten(1)
        # The scale is rounded first, so that what is divided by is what will be multiplied with.
        scale = (rows.abs().amax(1) / 127).clamp(min=2**-20).half().float()
        packed[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view(value.shape)
        packed[name + SCALE] = scale.half()
    return packed


def pack_nibbles(codes: Int[Tensor, "*blocks K"]) -> UInt8[Tensor, "*blocks half"]:
    """Codes of 4 bits, two to a byte: the first of each pair in the lower half.

    Args:
        codes: from -8 to 7; K is even.
    """
    low, high = (codes.to(torch.int16) + 8).unflatten(-1, (-1, 2)).unbind(-1)
    return (low + 16 * high).to(torch.uint8)


def unpack_nibbles(packed: UInt8[Tensor, "*blocks half"]) -> Int8[Tensor, "*blocks K"]:
    """The codes that `pack_nibbles` was given, from -8 to 7."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8) - 8


def _of_nibbles(name: str, packed: Mapping[str, Tensor]) -> Tensor:
    """Weights in float32 of codes in blocks (outputs, blocks, half a block), of which each output's last are filling.

    Raises:
        CheckpointError: scales or shape are missing or do not fit.
    """
    value, scale, shape = packed[name], packed.get(name + SCALE), packed.get(name + SHAPE)
    if scale is None or shape is None or value.ndim != 3 or scale.shape != value.shape[:2] or len(shape) < 1:
        raise CheckpointError(f"the 4-bit weights {name} come without scales and a shape that fit")
    rows = (unpack_nibbles(value) * scale.float().unsqueeze(-1)).flatten(1)
    outputs, *inputs = shape.tolist()
    if outputs != len(rows) or not 0 < math.prod(inputs) <= rows.shape[1]:
        raise CheckpointError(f"the 4-bit weights {name} are too few for the shape {tuple(shape.tolist())}")
    return rows[:, : math.prod(inputs)].reshape(outputs, *inputs).contiguous()


def dequantise(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 state that stored weights stand for: those of `quantise` up to half a step of each channel."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        if name.endswith((SCALE, SHAPE)):
            continue
        if value.dtype == torch.uint8:
            state[name] = _of_nibbles(name, packed)
        elif name.endswith(INT8_CODES):
            state[name] = value
        elif value.dtype == torch.int8:
            if name + SCALE not in packed:
                raise CheckpointError(f"the 8-bit weights {name} come without their scale")
            scale = packed[name + SCALE].float()
            state[name] = value.float() * scale.view(-1, *[1] * (value.ndim - 1))
        else:
            state[name] = value.float()
    return state


def text_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Folder of the text tower and tokenizer: the folder itself, or its neighbour named by `text_tower` or `towers`.

    Raises:
        CheckpointError: the neighbour is not there.
    """
    other = settings.get("text_tower", settings.get("towers"))
    if other is None:
        return folder
    path = folder.parent / str(other)
    if not path.is_dir():
        raise CheckpointError(f"{folder} takes its text tower from {path}, which is not there")
    return path


def compact_state(folder: Path, weights: Path, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The whole state dict of a compact folder, in float32.

    Args:
        folder: the model folder. weights: its safetensors file. settings: its configuration's `binderclip` table.

    Raises:
        CheckpointError: an unknown way of storing weights, or a text tower that is not where it should be.
    """
    if settings.get("weights", "float") not in ("float", "int8", "int4"):
        raise CheckpointError(
            f"{folder}: weights stored as {settings['weights']!r} cannot be read; float, int8 or int4 can"
        )
    state = dequantise(load_file(weights))
    other = text_folder(folder, settings)
    if other not in (folder, weights.parent):
        neighbour = load_file(other / weights.name)
        state |= {name: value.float() for name, value in neighbour.items() if name.startswith("text.")}
    return state
