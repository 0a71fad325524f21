"""A fourth input channel that tells an image tower where to look (Alpha-CLIP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError

__all__ = ["ALPHA_MEAN", "ALPHA_STD", "AlphaConv2d", "AlphaConv2dSame", "alpha_of", "put_alpha", "with_alpha"]

ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
_ALPHA: ContextVar[Tensor | None] = ContextVar("alpha", default=None)


@contextmanager
def with_alpha(alpha: Float[Tensor, "#B 1 h w"] | None) -> Iterator[None]:
    """Give the first convolution of towers with an alpha channel this one, (alpha - 0.5) / 0.26; None: all ones."""
    token = _ALPHA.set(alpha)
    try:
        yield
    finally:
        _ALPHA.reset(token)


class _WithAlpha:
    """Adds the convolution of the alpha channel to that of the picture; what both classes below share."""

    alpha_weight: nn.Parameter

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        seen: Tensor = super().forward(x)  # type: ignore[misc]
        alpha = _ALPHA.get()
        if alpha is None:
            alpha = x.new_full((1, 1, *x.shape[-2:]), (1 - ALPHA_MEAN) / ALPHA_STD)
        if alpha.shape[-2:] != x.shape[-2:] or len(alpha) not in (1, len(x)):
            raise UsageError(f"alpha must be (B or 1, 1, h, w) for pictures {tuple(x.shape)}, got {tuple(alpha.shape)}")
        return seen + self._of_alpha(alpha.to(x)).to(seen.dtype)

    def _of_alpha(self, alpha: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b C h w"]:
        raise NotImplementedError


class AlphaConv2d(_WithAlpha, nn.Conv2d):
    """A `Conv2d` over three channels with one more, whose weights are `alpha_weight` (C, 1, k, k)."""

    def _of_alpha(self, alpha: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b C h w"]:
        return F.conv2d(alpha, self.alpha_weight, None, self.stride, self.padding, self.dilation)


class AlphaConv2dSame(_WithAlpha, Conv2dSame):
    """The same for timm's convolution with TensorFlow's padding."""

    def _of_alpha(self, alpha: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b C h w"]:
        padded = pad_same(alpha, self.kernel_size, self.stride, self.dilation)  # type: ignore[arg-type]
        return F.conv2d(padded, self.alpha_weight, None, self.stride, (0, 0), self.dilation)


_KINDS: dict[type, type] = {nn.Conv2d: AlphaConv2d, Conv2dSame: AlphaConv2dSame}


def put_alpha(visual: nn.Module) -> None:
    """Give the first convolution of an image tower an alpha channel of zero weights, in place.

    Args:
        visual: the tower; its parameters keep their names, `alpha_weight` is new.

    Raises:
        NotSupported: no convolution over three channels, or one of another class.
    """
    for conv in visual.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == 3 and conv.groups == 1:
            if type(conv) not in _KINDS or conv.padding_mode != "zeros":
                raise NotSupported(f"an alpha channel: the first convolution is a {type(conv).__name__}")
            weight = conv.weight
            conv.__class__ = _KINDS[type(conv)]
            conv.alpha_weight = nn.Parameter(weight.detach()[:, :1].clone().zero_())
            return
    raise NotSupported(f"an alpha channel: {type(visual).__name__} has no convolution over three channels")


def alpha_of(visual: nn.Module) -> Any:
    """The convolution of a tower that has an alpha channel, or None."""
    return next((m for m in visual.modules() if isinstance(m, (AlphaConv2d, AlphaConv2dSame))), None)
