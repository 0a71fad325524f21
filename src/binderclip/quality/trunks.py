"""Networks whose maps a perceptual distance compares: AlexNet, VGG-16 and `lite0`, plain and shift-tolerant."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.vision import BlurPool

Variant = Literal["vanilla", "antialiased", "shift-tolerant"]
Net = Literal["alex", "vgg", "lite0"]
WIDTHS: dict[str, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "lite0": (16, 24, 40, 112, 320),
}
"""Channels of the five maps."""


class FeatureTrunk(nn.Module):
    """Stages one behind the other; the output of each is a map.

    Args:
        stages: modules.
        mean, std: of the input channels, in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Sequence[nn.Module], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """The maps (B, C, h, w) of images in [0, 1]."""
        x, maps = (images - self.mean) / self.std, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


# LPIPS normalises in [-1, 1], by shift (-.030, -.088, -.188) and scale (.458, .448, .450): the same in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def alexnet(variant: Variant, widths: Sequence[int], blur: int) -> FeatureTrunk:
    """The convolutions of AlexNet, maps behind each of the five ReLUs.

    Shift-tolerant: the first convolution has stride 1 and is blurred before its ReLU, poolings have stride 1 and are
    blurred, with mirrored borders of twice the width: 8 pixels a step instead of 16. Antialiased: stride 2, blurred
    behind the ReLU, plain borders.
    """
    a, b, c, d, e = widths

    def pool() -> list[nn.Module]:
        if variant == "vanilla":
            return [nn.MaxPool2d(3, 2)]
        return [nn.MaxPool2d(3, 1), BlurPool(blur, padding="more" if variant == "shift-tolerant" else "same")]

    stride = {"vanilla": 4, "antialiased": 2, "shift-tolerant": 1}[variant]
    first: list[nn.Module] = [nn.Conv2d(3, a, 11, stride, 2), nn.ReLU()]
    second = [*pool(), nn.Conv2d(a, b, 5, padding=2), nn.ReLU()]
    if variant == "shift-tolerant":
        first.insert(1, BlurPool(blur, padding="more"))
    elif variant == "antialiased":
        second.insert(0, BlurPool(blur))
    stages: list[list[nn.Module]] = [first, second, [*pool(), nn.Conv2d(b, c, 3, padding=1), nn.ReLU()]]
    stages += [[nn.Conv2d(i, o, 3, padding=1), nn.ReLU()] for i, o in ((c, d), (d, e))]
    return FeatureTrunk([nn.Sequential(*stage) for stage in stages], _MEAN, _STD)


def vgg16(variant: Variant, widths: Sequence[int], blur: int) -> FeatureTrunk:
    """The convolutions of VGG-16, maps before each pooling; poolings as in `alexnet`."""
    stages, before = [], 3
    for number, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True)):
        layers: list[nn.Module] = []
        if number:
            layers = [nn.MaxPool2d(2, 2 if variant == "vanilla" else 1)]
            if variant != "vanilla":
                layers.append(BlurPool(blur, padding="more" if variant == "shift-tolerant" else "same"))
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        stages.append(nn.Sequential(*layers))
    return FeatureTrunk(stages, _MEAN, _STD)


def lite0(variant: Variant, blur: int) -> FeatureTrunk:
    """`lite0` as trained on ImageNet, the last map at each of its five strides.

    Shift-tolerant and antialiased: every convolution of stride 2 keeps its weights, has stride 1 and is blurred before
    its norm and activation (the stem, which has stride 2 too, included); they differ by the borders.
    """
    from binderclip.models import load_vision

    whole: Any = load_vision("lite0")
    net: Any = copy.deepcopy(whole.module).float().eval()
    blocks = net.blocks
    stages = [nn.Sequential(net.conv_stem, net.bn1, blocks[0]), blocks[1], blocks[2], blocks[3:5], blocks[5:7]]
    trunk = FeatureTrunk(stages, whole.preprocess.mean, whole.preprocess.std)
    if variant != "vanilla":
        for parent in list(trunk.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                    setattr(parent, name, _blurred(child, variant, blur))
    return trunk.requires_grad_(False)


def _blurred(conv: nn.Conv2d, variant: Variant, blur: int) -> nn.Sequential:
    """A convolution of stride 1 with the same weights, and the subsampling behind it."""
    side = conv.kernel_size[0]
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, side, padding=side // 2, groups=conv.groups, bias=conv.bias is not None
    )  # fmt: skip
    plain.load_state_dict(conv.state_dict())
    return nn.Sequential(plain, BlurPool(blur, padding="more" if variant == "shift-tolerant" else "same"))


def trunk_of(net: Net, variant: Variant, widths: Sequence[int], blur: int) -> FeatureTrunk:
    """The trunk by its name."""
    if net == "lite0":
        return lite0(variant, blur)
    return (alexnet if net == "alex" else vgg16)(variant, widths, blur)
