"""A classifier of noisy pictures: the encoder half of a diffusion U-Net with attention pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.numeric import check_whole

__all__ = ["NoisyClassifier"]


class NoisyClassifier(nn.Module):
    """Logits of a noisy picture at its time, for `ClassifierGuidance`.

    Residual blocks whose group norms are scaled and shifted by the time (adaptive group normalisation), each stage at
    half the resolution of the one before, and an attention pool: the mean token asks all places. It has to be trained
    on noisy pictures, as `loss` does: the gradient of one that knows only clean pictures means nothing at large noise.

    Args:
        num_classes: K.
        size: side of a picture, a multiple of `2^(stages - 1)`.
        channels: of a picture.
        widths: channels of each stage, multiples of 8.
        heads: of the pool; they divide the last width.

    Raises:
        UsageError: numbers that are not whole or do not fit together.

    Paper: Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233).

    Examples:
        >>> classifier = NoisyClassifier(10, size=8, channels=1, widths=(8, 16))
        >>> classifier(torch.zeros(2, 1, 8, 8), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, size: int, channels: int = 3, widths: Sequence[int] = (32, 64, 128), heads: int = 4
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("size", size), ("channels", channels), ("heads", heads)):
            check_whole(name, value, least=1)
        if not widths or any(width % 8 or width < 8 for width in widths) or widths[-1] % heads:
            raise UsageError(f"widths must be multiples of 8, the last also of heads = {heads}, got {tuple(widths)}")
        if size % 2 ** (len(widths) - 1):
            raise UsageError(f"size = {size} cannot be halved {len(widths) - 1} times: one stage of widths less a half")
        from open_clip.modified_resnet import AttentionPool2d

        time_width = 4 * widths[0]
        self.frequencies = widths[0]
        self.time = nn.Sequential(
            nn.Linear(widths[0], time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU()
        )
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        pairs = zip([widths[0], *widths], widths, strict=False)
        self.blocks = nn.ModuleList(_TimedBlock(before, width, time_width) for before, width in pairs)
        self.norm = nn.GroupNorm(8, widths[-1])
        self.pool = AttentionPool2d(size // 2 ** (len(widths) - 1), widths[-1], heads, num_classes)

    def forward(self, x: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]) -> Float[Tensor, "B K"]:
        """Logits of noisy pictures x_t at their times, which are the schedule's own, also where sampling skips some."""
        time = self.time(_embedded(t, self.frequencies, x.dtype))
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2) if number else x, time)
        return self.pool(F.silu(self.norm(x)))

    def loss(
        self,
        images: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        schedule: NoiseSchedule,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy on the images with noise of uniformly drawn times.

        Args:
            images: clean.
            labels: their classes.
            schedule: of the denoiser that shall be guided.
            generator: of times and noise; default torch's.
        """
        t = torch.randint(len(schedule), (len(images),), generator=generator, device=images.device)
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return F.cross_entropy(self(schedule.add_noise(images, noise, t), t), labels)


class _TimedBlock(nn.Module):
    """Two convolutions and a shortcut; the second norm's scale and shift come from the time."""

    def __init__(self, width_in: int, width: int, time_width: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(8, width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.norm_out, self.conv_out = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * width)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        nn.init.zeros_(self.conv_out.weight)  # a block starts as its shortcut, as in the paper's networks
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, 1)
        h = self.norm_out(self.conv_in(F.silu(self.norm_in(x)))) * (1 + scale) + shift
        return self.shortcut(x) + self.conv_out(F.silu(h))


def _embedded(t: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of the times [B, size], wave lengths from 2 pi to 2 pi 10,000."""
    half = size // 2
    rates = torch.exp(torch.arange(half, dtype=dtype, device=t.device) * (-math.log(10_000) / half))
    angles = t.to(dtype)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)
