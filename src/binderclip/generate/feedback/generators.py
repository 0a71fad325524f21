"""Small generators that are told of a picture by tokens and a vector, and diffusers' U-Nets in their place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.feedback.condition import ImageCondition
from binderclip.numeric import check_number, check_whole

__all__ = ["DiffusersGenerator", "ImageConditionedGenerator", "MaskedTokenModel", "PatchDenoiser"]


class ImageConditionedGenerator(nn.Module, ABC):
    """Predicts what a corruption asks for, of corrupted pictures, their times and conditions."""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: ImageCondition) -> Tensor:
        """The prediction.

        Args:
            x: corrupted values or ids.
            t: times of the corruption, (B,).
            condition: of each picture.
        """


class _TimedTransformer(ImageConditionedGenerator):
    """Blocks with adaptive layer norms; the tokens of the condition stand before those of the picture."""

    def __init__(
        self, length: int, width: int, depth: int, heads: int,
        sequence_width: int | None, pooled_width: int | None, last_time: float,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("heads", heads)):
            check_whole(name, value, least=1)
        check_number("last_time", last_time, above=0)
        if width % heads or width % 2:
            raise UsageError(f"width = {width} must be even and a multiple of heads = {heads}")
        self.width, self.last_time, self.inputs = width, float(last_time), (sequence_width, pooled_width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.sequence = None if sequence_width is None else nn.Linear(sequence_width, width)
        self.pooled = None if pooled_width is None else nn.Linear(pooled_width, width)
        self.blocks = nn.ModuleList(_AdaptiveBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)

    def encode(self, tokens: Float[Tensor, "B L D"], t: Tensor, condition: ImageCondition) -> Float[Tensor, "B L D"]:
        """Tokens of the picture after all blocks and the last norm."""
        _check_condition(condition, *self.inputs)
        time = self.time(_embedded_time(t / self.last_time, self.width, tokens.dtype))  # (B, D)
        if self.pooled is not None:
            time = time + self.pooled(condition.pooled)
        x = tokens + self.positions
        before = 0
        if self.sequence is not None and condition.sequence is not None:
            x = torch.cat([self.sequence(condition.sequence), x], 1)  # (B, S + L, D)
            before = condition.sequence.shape[1]
        for block in self.blocks:
            x = block(x, time)
        shift, scale = self.modulation(F.silu(time))[:, None].chunk(2, 2)
        return self.norm(x[:, before:]) * (1 + scale) + shift


class PatchDenoiser(_TimedTransformer):
    """A small diffusion transformer on patches of values: for noise, velocities, or clean values.

    The time and the pooled vector scale and shift every layer norm; the sequence stands before the patches.

    Args:
        shape: (C, H, W) of what is generated.
        patch: side of a patch, which divides H and W.
        width, depth, heads: of the blocks.
        sequence_width, pooled_width: of the condition's parts; None for one that there is not.
        last_time: T of a diffusion's times, 1 of a flow's.

    Raises:
        UsageError: sizes that do not fit together; at the call, a condition without a part.

    Paper: the design is DiT's (arXiv 2212.09748); GenHancer's (arXiv 2503.19480) is such a one, wider.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, patch: int = 4, width: int = 128, depth: int = 4, heads: int = 4,
        sequence_width: int | None = None, pooled_width: int | None = None, last_time: float = 1.0,
    ) -> None:  # fmt: skip
        channels, height, breadth = shape
        check_whole("patch", patch, least=1)
        if min(shape) < 1 or height % patch or breadth % patch:
            raise UsageError(f"shape = {tuple(shape)} cannot be cut into patches of {patch} x {patch}")
        length = (height // patch) * (breadth // patch)
        super().__init__(length, width, depth, heads, sequence_width, pooled_width, last_time)
        self.shape, self.patch = tuple(shape), patch
        self.enter = nn.Linear(channels * patch**2, width)
        self.leave = nn.Linear(width, channels * patch**2)
        nn.init.zeros_(self.leave.weight)  # it starts with predicting zeros, as in DiT
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, " B"] | Int[Tensor, " B"], condition: ImageCondition
    ) -> Float[Tensor, "B C H W"]:
        """The prediction, of the shape of x."""
        if tuple(x.shape[1:]) != self.shape:
            raise UsageError(f"this generator makes {self.shape}, got {tuple(x.shape[1:])}")
        patches = F.unfold(x, self.patch, stride=self.patch).mT  # (B, L, C p p)
        y = self.leave(self.encode(self.enter(patches), t, condition))
        return F.fold(y.mT, self.shape[1:], self.patch, stride=self.patch)


class MaskedTokenModel(_TimedTransformer):
    """Predicts the ids of masked tokens from the others and the condition, for `TokenMasking`.

    Args:
        codes: K, of the codebook.
        length: L, tokens of a picture.
        width, depth, heads, sequence_width, pooled_width: as of `PatchDenoiser`.

    Raises:
        UsageError: sizes that do not fit together; at the call, a condition without a part, or another length.

    Paper: the discrete form of GenHancer (arXiv 2503.19480), with self-attention in the place of its perceiver.
    """

    def __init__(
        self, codes: int, length: int, *, width: int = 128, depth: int = 4, heads: int = 4,
        sequence_width: int | None = None, pooled_width: int | None = None,
    ) -> None:  # fmt: skip
        check_whole("codes", codes, least=2)
        check_whole("length", length, least=1)
        super().__init__(length, width, depth, heads, sequence_width, pooled_width, 1.0)
        self.codes, self.length = codes, length
        self.enter = nn.Embedding(codes + 1, width)  # the last one is the mask
        self.leave = nn.Linear(width, codes)

    def forward(
        self, x: Int[Tensor, "B L"], t: Float[Tensor, " B"], condition: ImageCondition
    ) -> Float[Tensor, "B L K"]:
        """Logits over the codes."""
        if x.ndim != 2 or x.shape[1] != self.length:
            raise UsageError(f"this generator makes {self.length} tokens, got shape {tuple(x.shape)}")
        return self.leave(self.encode(self.enter(x), t, condition))


class DiffusersGenerator(ImageConditionedGenerator):
    """A U-Net of diffusers: its prompt is the condition's sequence, its class embedding the pooled vector.

    Args:
        unet: a `UNet2DConditionModel`, of any folder; its `forward(x, t, encoder_hidden_states, class_labels)` is used.
        prompt: (S, W) tokens for conditions without a sequence, as of an empty prompt (Stable unCLIP).

    Raises:
        UsageError: at the call, a condition without a sequence where there is no prompt.
    """

    prompt: Tensor | None

    def __init__(self, unet: nn.Module, prompt: Float[Tensor, "S W"] | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("prompt", None if prompt is None else prompt.detach().clone())

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Int[Tensor, " B"], condition: ImageCondition
    ) -> Float[Tensor, "B C H W"]:
        """The U-Net's prediction."""
        sequence = condition.sequence
        if sequence is None:
            if self.prompt is None:
                raise UsageError("the U-Net needs a sequence: give the tap sequence_width, or the generator a prompt")
            sequence = self.prompt.expand(len(x), -1, -1)
        unet: Any = self.unet
        return unet(x, t, encoder_hidden_states=sequence, class_labels=condition.pooled).sample


class _AdaptiveBlock(nn.Module):
    """Attention and a perceptron, their norms scaled and shifted and their results weighted by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_perceptron = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        # Gates start at 1, not at DiT's 0: in a few hundred steps four closed blocks would hardly open.
        self.modulation.bias.data = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0]).repeat_interleave(width)

    def forward(self, x: Float[Tensor, "B L D"], time: Float[Tensor, "B D"]) -> Float[Tensor, "B L D"]:
        shift, scale, gate, shift_p, scale_p, gate_p = self.modulation(F.silu(time))[:, None].chunk(6, 2)
        h = self.norm_attention(x) * (1 + scale) + shift
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, d) each
        x = x + gate * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + gate_p * self.perceptron(self.norm_perceptron(x) * (1 + scale_p) + shift_p)


def _embedded_time(t: Tensor, width: int, dtype: torch.dtype) -> Float[Tensor, "B D"]:
    """Cosines and sines of 1000 t, t in [0, 1], wave lengths from 2 pi to 2 pi 10,000."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=dtype, device=t.device) * (-math.log(10_000) / half))
    angles = 1000 * t.to(dtype)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _check_condition(condition: ImageCondition, sequence_width: int | None, pooled_width: int | None) -> None:
    parts = (("sequence", condition.sequence, sequence_width), ("pooled", condition.pooled, pooled_width))
    for name, part, width in parts:
        if (part is None) != (width is None):
            raise UsageError(
                f"this generator takes {'no' if width is None else 'a'} {name} condition, got the contrary"
            )
        if part is not None and part.shape[-1] != width:
            raise UsageError(f"the {name} condition is {part.shape[-1]} wide, and this generator takes {width}")
