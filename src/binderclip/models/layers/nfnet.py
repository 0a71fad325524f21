"""Residual networks without normalisation: standardised convolutions, fixed gains, and known variances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["ACTIVATION_GAINS", "NFBlock", "NFResNet", "ScaledActivation", "ScaledStdConv2d", "expected_stds"]

ACTIVATION_GAINS: dict[str, float] = {
    "identity": 1.0,
    "relu": 1.7139588594436646,
    "gelu": 1.7015043497085571,
    "silu": 1.7881293296813965,
    "tanh": 1.5939117670059204,
    "sigmoid": 4.803835391998291,
    "elu": 1.2716004848480225,
    "softplus": 1.9203323125839233,
    "leaky_relu": 1.70590341091156,
}
"""1 / standard deviation of the activation of a standard normal number, as published (sampled, to about 0.1%)."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
}


class ScaledActivation(nn.Module):
    """An activation times the constant that gives unit-variance input unit variance again.

    Args:
        name: a key of `ACTIVATION_GAINS`.
        scale: a further constant; an NF block passes 1 / expected standard deviation of its input.

    Raises:
        UsageError: an unknown name.
    """

    def __init__(self, name: str = "gelu", scale: float = 1.0) -> None:
        super().__init__()
        if name not in ACTIVATION_GAINS:
            raise UsageError(f"activation must be one of {', '.join(ACTIVATION_GAINS)}, got {name!r}")
        self.name, self.scale = name, scale

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """gain * activation(x) * scale."""
        return _FUNCTIONS[self.name](x) * (ACTIVATION_GAINS[self.name] * self.scale)

    def extra_repr(self) -> str:
        """For printing."""
        return f"{self.name}, scale={self.scale:g}"


class ScaledStdConv2d(nn.Conv2d):
    """A convolution whose filters are standardised at every call, so that it keeps unit variance without a norm layer.

    With N inputs a filter: weight used = gain * (W - mean(W)) / sqrt(max(var(W) * N, eps)), with mean and population
    variance per filter. Zero-mean filters also remove the mean that activations add. `gain` is learned, one a filter,
    from 1.

    Args:
        in_channels, out_channels, kernel_size: as of `nn.Conv2d`.
        stride, padding, dilation, groups, bias: likewise; `padding=None` is half the kernel.
        eps: lower bound of var(W) * N.

    Raises:
        UsageError: channels that the groups do not divide, or an eps that is not positive.

    Paper: High-Performance Large-Scale Image Recognition Without Normalization, arXiv 2102.06171; official code
    google-deepmind/deepmind-research, nfnets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-4,
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise UsageError(f"groups={groups} must divide {in_channels} input and {out_channels} output channels")
        check_number("eps", eps, above=0)
        padding = dilation * (kernel_size - 1) // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))
        # filters of norm 1: the standardisation does not care, but AGC compares gradients with this norm
        nn.init.normal_(self.weight, std=self.fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def fan_in(self) -> int:
        """Inputs a filter."""
        return math.prod(self.weight.shape[1:])

    def standardized_weight(self) -> Float[Tensor, "out group kh kw"]:
        """The filters as they are used: mean 0, variance gain^2 / fan_in each."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = self.gain * torch.rsqrt((variance * self.fan_in).clamp(min=self.eps))
        return (self.weight - mean) * scale

    def forward(self, x: Float[Tensor, "B in H W"]) -> Float[Tensor, "B out H2 W2"]:
        """Convolve with the standardised filters."""
        return self._conv_forward(x, self.standardized_weight(), self.bias)


class SqueezeExcite(nn.Module):
    """A gate for each channel, 2 * sigmoid of a small net of the channel means: 1 on average at the start."""

    def __init__(self, channels: int, ratio: float = 0.5) -> None:
        super().__init__()
        hidden = max(1, int(channels * ratio))
        self.down, self.up = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """x times its gate."""
        gate = 2 * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class NFBlock(nn.Module):
    """A normaliser-free residual bottleneck: h + alpha * gain * branch(act(h) / s), s the known deviation of h.

    The branch is 1x1, 3x3 (grouped, strided), 3x3 (grouped), 1x1, standardised all four, with gain-scaled activations
    between and a squeeze-excite gate behind; it has unit variance at the start, so the output's variance is
    s^2 + alpha^2 once the skip gain has grown to 1. The skip gain starts at 0 (SkipInit): the block is its shortcut.
    Where width or resolution change, the shortcut is a 1x1 convolution of act(h) / s (averaged over 2 x 2 first).
    The division stands behind the activation, as published: exact for relu, an approximation for curved activations.

    Args:
        in_channels, out_channels: widths.
        stride: 1 or 2.
        expected_std: s, see `expected_stds`.
        alpha: weight of the branch.
        ratio: width of the bottleneck over `out_channels`.
        group_width: channels a group of the 3x3 convolutions; the bottleneck is rounded down to a multiple.
        activation: a key of `ACTIVATION_GAINS`.
        squeeze_excite: hidden width of the gate over its channels; 0 leaves it out.
        skip_gain: start of the learned scalar on the branch; None leaves it out.
        drop_path: probability of dropping the branch of a sample in training; kept ones are divided by 1 - p.
        projection: whether the shortcut is a convolution; None: where width or resolution change. The first block of
            a stage needs one to start from variance 1 again.

    Raises:
        UsageError: a value outside its range, or a width change without projection.

    Paper: High-Performance Large-Scale Image Recognition Without Normalization, arXiv 2102.06171.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expected_std: float = 1.0,
        alpha: float = 0.2,
        ratio: float = 0.5,
        group_width: int = 128,
        activation: str = "gelu",
        squeeze_excite: float = 0.5,
        skip_gain: float | None = 0.0,
        drop_path: float = 0.0,
        projection: bool | None = None,
    ) -> None:
        super().__init__()
        changes = stride != 1 or in_channels != out_channels
        check_choice("stride", stride, (1, 2))
        check_number("expected_std", expected_std, above=0)
        check_number("drop_path", drop_path, least=0, below=1)
        if projection is False and changes:
            raise UsageError(f"{in_channels} -> {out_channels} channels with stride {stride} needs a projection")
        width = int(out_channels * ratio) // group_width * group_width
        if width < 1:
            raise UsageError(
                f"the bottleneck of {out_channels} * {ratio:g} channels is narrower than one group of {group_width}"
            )
        groups = width // group_width
        self.alpha, self.drop_path, self.stride = alpha, drop_path, stride
        self.entry = ScaledActivation(activation, 1 / expected_std)
        self.act = ScaledActivation(activation)
        self.reduce = ScaledStdConv2d(in_channels, width, 1)
        self.spatial = ScaledStdConv2d(width, width, 3, stride=stride, groups=groups)
        self.spatial2 = ScaledStdConv2d(width, width, 3, groups=groups)
        self.expand = ScaledStdConv2d(width, out_channels, 1)
        self.gate = SqueezeExcite(out_channels, squeeze_excite) if squeeze_excite > 0 else nn.Identity()
        self.skip_gain = None if skip_gain is None else nn.Parameter(torch.tensor(float(skip_gain)))
        projected = changes if projection is None else projection
        self.projection = ScaledStdConv2d(in_channels, out_channels, 1) if projected else None

    def forward(self, h: Float[Tensor, "B in H W"]) -> Float[Tensor, "B out H2 W2"]:
        """One residual step."""
        a = self.entry(h)
        shortcut = h
        if self.projection is not None:
            pooled = F.avg_pool2d(a, 2, ceil_mode=True, count_include_pad=False) if self.stride == 2 else a
            shortcut = self.projection(pooled)
        branch = self.reduce(a)
        branch = self.spatial(self.act(branch))
        branch = self.spatial2(self.act(branch))
        branch = self._dropped(self.gate(self.expand(self.act(branch))))
        if self.skip_gain is not None:
            branch = branch * self.skip_gain
        return shortcut + self.alpha * branch

    def _dropped(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * kept.to(branch.dtype) / (1 - self.drop_path)


def expected_stds(depths: Sequence[int], alpha: float = 0.2) -> list[list[float]]:
    """Standard deviation of each block's input at the start, stage by stage, with the skip gains at 1.

    The first block of a stage sees what the stage before has piled up; its projection starts the count at 1 again, and
    every block adds alpha^2 to the variance.

    Args:
        depths: blocks a stage.
        alpha: weight of the branches.
    """
    stds, std = [], 1.0
    for depth in depths:
        stage = []
        for index in range(depth):
            stage.append(std)
            std = math.hypot(1.0 if index == 0 else std, alpha)
        stds.append(stage)
    return stds


class NFResNet(nn.Module):
    """A normaliser-free residual network: stem, stages of `NFBlock`, a widening 1x1 convolution, pooling, `head`.

    The defaults are the shape of NFNet-F0 but for the stem; small ones for small pictures are made by the arguments.
    Train it with AGC on everything but the head: `AGC(exclude="head.*").attach(optimizer, model.named_parameters())`.

    Args:
        classes: outputs of `head`.
        in_channels: 3 for colour.
        widths, depths: a stage each.
        strides: of the first block of each stage.
        stem: widths of the 3x3 convolutions in front, an activation between each two; the first and the last have
            stride 2.
        stem_stride: 4 as described, or 1 for pictures of a few pixels.
        final_width: channels in front of the pooling; default twice the last stage's.
        drop_path: largest drop rate; grows in proportion to depth, from 0.
        dropout: on the pooled features.
        block: further arguments of every `NFBlock` (`activation`, `group_width`, `alpha`, ...).

    Raises:
        UsageError: widths, depths and strides of different lengths, or an unknown stem stride.

    Examples:
        >>> net = NFResNet(10, widths=(32, 64), depths=(1, 1), strides=(1, 2), stem=(8,), stem_stride=1, group_width=16)
        >>> net(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (256, 512, 1536, 1536),
        depths: Sequence[int] = (1, 2, 6, 3),
        strides: Sequence[int] = (1, 2, 2, 2),
        stem: Sequence[int] = (16, 32, 64, 128),
        stem_stride: int = 4,
        final_width: int | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        alpha: float = 0.2,
        activation: str = "gelu",
        **block: Any,
    ) -> None:
        super().__init__()
        if not len(widths) == len(depths) == len(strides):
            raise UsageError(f"widths, depths and strides must go together: {widths}, {depths}, {strides}")
        if stem_stride not in (1, 4) or not stem:
            raise UsageError(f"stem_stride must be 1 or 4, with at least one convolution; got {stem_stride} and {stem}")
        layers: list[nn.Module] = []
        for index, (before, width) in enumerate(zip((in_channels, *stem), stem, strict=False)):
            layers += [ScaledActivation(activation)] if index else []
            at_an_end = index in (0, len(stem) - 1)
            layers.append(ScaledStdConv2d(before, width, 3, stride=2 if stem_stride == 4 and at_an_end else 1))
        self.stem = nn.Sequential(*layers)
        channels, number, total = stem[-1], 0, sum(depths)
        blocks = []
        for width, stride, stds in zip(widths, strides, expected_stds(depths, alpha), strict=True):
            for index, std in enumerate(stds):
                settings: dict[str, Any] = {"expected_std": std, "alpha": alpha, "activation": activation, **block}
                settings |= {"drop_path": drop_path * number / total, "projection": index == 0}
                blocks.append(NFBlock(channels, width, stride=stride if index == 0 else 1, **settings))
                channels, number = width, number + 1
        self.blocks = nn.Sequential(*blocks)
        self.final = ScaledStdConv2d(channels, final_width or 2 * channels, 1)
        self.act, self.dropout = ScaledActivation(activation), nn.Dropout(dropout)
        self.head = nn.Linear(final_width or 2 * channels, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Pooled features in front of the head."""
        return self.act(self.final(self.blocks(self.stem(images)))).mean((2, 3))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logits; images are best brought to mean 0 and variance 1."""
        return self.head(self.dropout(self.features(images)))
