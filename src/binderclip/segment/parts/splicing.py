"""Spliced tokens mixed over the whole picture by another model's global attention (Trident)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.files.folders import bundled_of
from binderclip.models.towers import Record, Recorder, Site
from binderclip.segment.parts.affinity import vision_model
from binderclip.segment.parts.context import Frame, resample
from binderclip.segment.parts.last_block import row_normalised
from binderclip.segment.promptable import EncoderAttention, PromptModel, encoder_attention, load_promptable

#: picture (1, 3, H, W) in [0, 1] -> attention of one block on it
AttentionSource: TypeAlias = "Callable[[Tensor], EncoderAttention]"


@lru_cache(maxsize=2)
def promptable(name: str, device: str = "cpu") -> Any:
    """A promptable segmenter by name (`load_promptable`), loaded once."""
    return load_promptable(name, device=device)


@dataclass(frozen=True)
class ValueMaskedAttention:
    """Every cell of the spliced map becomes a mean over the picture, by another model's attention to what is like it.

    The attention of the last block is kept where the cosine of the values is above the query's threshold, which is
    `factor` times its mean cosine over heads and cells and at most `cap`; heads are averaged and rows normalised. The
    map comes out on the other model's grid.

    Args:
        source: name of a promptable segmenter (`load_promptable`) or of a vision tower (`models.load_vision`), or a
            callable from the picture to an `EncoderAttention`.
        factor: of the mean cosine; 0 keeps what has a positive cosine.
        cap: largest threshold.
        negative: threshold in place of a negative one; None leaves it as it is.
        size: side in pixels at which the bundled segmenter sees the picture, or shorter side for a vision tower; None
            for the segmenter's own, or the picture's. Other segmenters (SAM) have one side only and see it at that.

    Raises:
        UsageError: a cap above 1.

    Paper: Shi et al., Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary
    Segmentation (ICCV 2025, arXiv 2411.09219).
    """

    source: str | AttentionSource = "small-sam"
    factor: float = 1.2
    cap: float = 0.9
    negative: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.cap > 1:
            raise UsageError(f"cap must be a cosine, at most 1, not {self.cap}")

    def __call__(self, maps: Float[Tensor, "1 D h w"], frame: Frame) -> Float[Tensor, "1 D gh gw"]:
        """The mixed map."""
        weights, grid = frame.once(("value masked", self), lambda: self._weights(frame.image))
        mixed = weights.to(maps) @ resample(maps, grid)[0].flatten(1).mT
        return mixed.mT.unflatten(1, grid)[None]

    def _weights(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if not isinstance(self.source, str):
            attention = self.source(image)
        elif self.source.startswith("timm:") or self.source in bundled_of("vision"):
            attention = tower_attention(self.source, image, self.size)
        else:
            segmenter = promptable(self.source, str(image.device))
            attention = encoder_attention(
                segmenter, image, side=self.size if isinstance(segmenter, PromptModel) else None
            )
        weights = value_masked(
            attention.weights, attention.values, factor=self.factor, cap=self.cap, negative=self.negative
        )
        return weights, attention.grid


def value_masked(
    weights: Float[Tensor, "H N N"],
    values: Float[Tensor, "H N d"],
    *,
    factor: float = 1.2,
    cap: float = 0.9,
    negative: float | None = None,
) -> Float[Tensor, "N N"]:
    """One attention map of several heads, kept where values are alike; a row of which nothing is left keeps itself.

    Args:
        weights: attention after the softmax.
        values: of the cells.
        factor, cap, negative: as in `ValueMaskedAttention`.
    """
    unit = F.normalize(values, dim=-1)
    similar = unit @ unit.mT
    threshold = factor * similar.mean((0, 2))[None, :, None]
    if negative is not None:
        threshold = threshold.where(threshold >= 0, threshold.new_tensor(negative))
    kept = weights.where(similar > threshold.clamp(max=cap), weights.new_tensor(0.0))
    return row_normalised(kept.mean(0))


def tower_attention(name: str, image: Float[Tensor, "1 3 H W"], size: int | None = None) -> EncoderAttention:
    """Attention and values of the last block of a vision tower, between patches.

    Args:
        name: as in `models.load_vision`.
        image: in [0, 1].
        size: shorter side in pixels at which the tower sees it; None as it comes.
    """
    model, seen = vision_model(name, image, size)
    tower, last = model.image_tower, model.image_tower.depth - 1
    recorder = Recorder(Record("attn", "v", layers=[last]), tower.depth)
    tokens = tower.run(tower.embed(seen), record=recorder)
    assert tokens.grid is not None
    weights = recorder.values[Site("attn", last)][0, :, tokens.prefix :, tokens.prefix :]
    return EncoderAttention(
        weights.float(), recorder.values[Site("v", last)][0, :, tokens.prefix :].float(), tokens.grid
    )
