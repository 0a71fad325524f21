"""The last global attention of a promptable segmenter's image encoder, on the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.hf import HfSegmenter
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.small import PromptModel

__all__ = ["EncoderAttention", "encoder_attention"]


MOST_SIDE = 2048
"""Largest side in pixels at which the bundled encoder is run."""


@dataclass(frozen=True)
class EncoderAttention:
    """Attention of one block on one picture; N = h * w cells, row by row, padding left out.

    Attributes:
        weights: after the softmax; rows sum to 1, less where padding was attended to.
        values: what is attended to.
        grid: (h, w) of the cells.
    """

    weights: Float[Tensor, "H N N"]
    values: Float[Tensor, "H N d"]
    grid: tuple[int, int]


@torch.no_grad()
def encoder_attention(segmenter: Any, image: ImageLike, *, side: int | None = None) -> EncoderAttention:
    """Attention weights and values of the last block of a segmenter's image encoder.

    Args:
        segmenter: `PromptModel` (the bundled one), or `HfSegmenter` with a SAM, whose last block is a global one.
        image: one picture.
        side: of the encoder's square input in pixels, a multiple of 8, for the bundled network alone; None for its own.

    Raises:
        NotSupported: another segmenter (a SAM 2 ends in a block of small windows), or a `side` that it cannot take.
        UsageError: a `side` that is no multiple of 8, or above 2,048, whose attention would not fit into any memory.
    """
    if isinstance(segmenter, PromptModel):
        return _small(segmenter, image, side)
    if side is not None:
        raise NotSupported("only the bundled segmenter takes another side; leave it out")
    if isinstance(segmenter, HfSegmenter) and segmenter.model.config.model_type == "sam":
        return _sam(segmenter, image)
    raise NotSupported(
        f"no global attention can be read from {type(segmenter).__name__}: take a SAM or the bundled one"
    )


def _input_of(module: nn.Module, run: Any) -> Tensor:
    """What a module is given while `run()` runs."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        seen.append(inputs[0] if inputs else named["hidden_states"])

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[-1]


def _small(segmenter: PromptModel, image: ImageLike, side: int | None) -> EncoderAttention:
    if side is not None and (side % 8 or not 8 <= side <= MOST_SIDE):
        raise UsageError(f"side must be a multiple of 8 pixels up to {MOST_SIDE}, not {str(side)[:12]}")
    network, preprocess = segmenter.backbone, segmenter.preprocess
    preprocess = preprocess if side is None else preprocess.at(side)
    pixels = preprocess(as_picture(image)[0]).to(segmenter.device)
    attention: Any = network.blocks[-1].attn
    x = _input_of(attention, lambda: network.encode(pixels))
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    weights = (attention.scale * q @ k.mT).softmax(-1)
    return EncoderAttention(weights[0].float(), v[0].float(), (pixels.shape[-2] // 8, pixels.shape[-1] // 8))


def _sam(segmenter: HfSegmenter, image: ImageLike) -> EncoderAttention:
    pixels, (height, width) = segmenter.inputs(image)
    encoder: Any = segmenter.model.vision_encoder
    attention = encoder.layers[-1].attn
    x = _input_of(attention, lambda: encoder(pixels))
    grid, heads = (x.shape[1], x.shape[2]), attention.num_attention_heads
    q, k, v = attention.qkv(x).flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = attention.scale * q[0] @ k[0].mT
    if attention.use_rel_pos:
        bias = attention.get_decomposed_rel_pos(q[0], attention.rel_pos_h, attention.rel_pos_w, grid, grid)
        scores = scores + bias.reshape(scores.shape)
    patch = segmenter.image_size // grid[0]
    rows, columns = (max(1, length // patch) for length in segmenter.resized(height, width))
    kept = (torch.arange(rows)[:, None] * grid[1] + torch.arange(columns)).flatten().to(x.device)
    weights = scores.softmax(-1)[:, kept][:, :, kept]
    return EncoderAttention(weights.float(), v[0][:, kept].float(), (rows, columns))
