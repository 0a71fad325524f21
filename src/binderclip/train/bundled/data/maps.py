"""Maps of the frozen lower convolutions, kept on disk: the first, cheap half of training the image tower.

The stem and the first five stages see each view once; what trains on top (the last two stages, projection, blocks,
head) then costs a third of the whole. Depthwise kernels stay as ImageNet left them, here and later: their gradients
take most of a CPU's backward pass for 3% of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from binderclip.files import write_whole
from binderclip.models.bundled.architectures import CLIP_MEAN, CLIP_STD, LiteTrunk
from binderclip.train.bundled.data.pictures import ViewBatch

__all__ = ["Maps", "frozen_depthwise", "lower_maps", "normalise", "read_maps", "write_maps"]


@dataclass(frozen=True)
class Maps:
    """Cached views: lower maps, the texts that belong to each (row of a text table, -1: none) and their masks.

    `masks` are shares of 255 of each grid cell that the object covers; a whole photograph has a full mask.
    """

    lower: Float[Tensor, "N C g g"]
    texts: Int[Tensor, "N K"]
    masks: UInt8[Tensor, "N K cells"]

    def __len__(self) -> int:
        return len(self.lower)


def normalise(images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """[0, 1] to CLIP's stock mean and deviation, channels last (a third faster on a CPU)."""
    mean, std = images.new_tensor(CLIP_MEAN).view(3, 1, 1), images.new_tensor(CLIP_STD).view(3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def lower_maps(trunk: LiteTrunk, views: ViewBatch, *, batch: int = 128) -> Maps:
    """Run the lower convolutions over a batch of views in bfloat16 and keep the result in float16."""
    parts = []
    with torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(views.images), batch):
            parts.append(trunk.lower(normalise(views.images[start : start + batch])).half().contiguous())
    masks = (views.masks.flatten(2) * 255).round().to(torch.uint8)
    return Maps(torch.cat(parts).clone(), views.objects.to(torch.int32), masks.clone())


def write_maps(maps: Maps, path: Path) -> None:
    """Write one safetensors file."""
    tensors = {"lower": maps.lower, "texts": maps.texts, "masks": maps.masks}
    write_whole(path, lambda draft: save_file(tensors, draft))


def read_maps(path: Path) -> Maps:
    """Read what `write_maps` wrote."""
    return Maps(**load_file(path))


class _FrozenDepthwise(torch.autograd.Function):
    """Depthwise convolution at stride 1 whose kernel does not learn.

    Its input gradient is the same convolution with the kernel turned round, which runs at the speed of the forward
    pass; the library's general routine is about ten times as slow on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = padding, dilation
        return nn.functional.conv2d(x, weight, bias, 1, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        padding, dilation = ctx.geometry
        (gradient,) = gradients
        turned = weight.flip(2, 3).to(gradient.dtype)
        back = nn.functional.conv2d(gradient, turned, None, 1, padding, dilation, len(weight))
        return back, None, None, None, None


@contextmanager
def frozen_depthwise(module: nn.Module) -> Iterator[None]:
    """While open, depthwise convolutions of `module` with stride 1 keep their weights and train fast."""
    changed: list[tuple[nn.Conv2d, list[bool]]] = []

    def fast(conv: nn.Conv2d) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            weight, bias = conv.weight, conv.bias
            if torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
                x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            return _FrozenDepthwise.apply(x, weight, bias, conv.padding[0], conv.dilation[0])

        return forward

    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1:
            changed.append((conv, [parameter.requires_grad for parameter in conv.parameters()]))
            conv.requires_grad_(False)
            plain = type(conv) is nn.Conv2d and conv.stride == (1, 1) and isinstance(conv.padding[0], int)
            if plain and 2 * conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] - 1):
                conv.forward = fast(conv)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for conv, flags in changed:
            conv.__dict__.pop("forward", None)
            for parameter, flag in zip(conv.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
