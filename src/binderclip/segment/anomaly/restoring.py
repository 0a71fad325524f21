"""An anomaly is what a restorer, trained on normal pictures alone, cannot restore once it is hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.models.checks import refuse_bare_module
from binderclip.segment.anomaly.bottleneck import InformationBottleneckMap
from binderclip.segment.anomaly.clap import (
    ContrastiveLanguagePrompting,
    as_pixels,
    mosaic,
    random_regions,
)
from binderclip.segment.anomaly.prompts import ANOMALOUS_STATES, NORMAL_STATES, state_prompts
from binderclip.segment.anomaly.result import Anomalies, as_anomalies

#: images (B, 3, S, S) in [0, 1] -> pixels (B, S, S) that are suspected and will be hidden
Regions: TypeAlias = "Callable[[Tensor], Tensor]"

FLOOR = 0.0026
"""Constant of the gradient similarity for pixels in [0, 1]."""
LEAST = 8
"""Pyramid levels with a shorter side are left out."""


def prewitt(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """Gradient magnitude of the grey image by 3 x 3 Prewitt filters (weights of a third), the border repeated."""
    grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[1.0, 0.0, -1.0]] * 3, device=images.device, dtype=images.dtype) / 3
    gradients = F.conv2d(grey, torch.stack([across, across.T])[:, None])
    # The small number keeps the slope of the root finite on flat ground.
    return (gradients.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()


def gradient_error(
    images: Float[Tensor, "B 3 H W"], others: Float[Tensor, "B 3 H W"], *, scales: int = 4
) -> Float[Tensor, "B H W"]:
    """One minus the similarity of gradient magnitudes, in [0, 1], mean over a pyramid of halved images.

    Args:
        images, others: what is compared.
        scales: levels of the pyramid; those whose shorter side is below 8 pixels are left out.

    Raises:
        UsageError: images of different shapes, or too small ones.
    """
    if images.shape != others.shape or images.ndim != 4:
        raise UsageError(f"images {tuple(images.shape)} and {tuple(others.shape)} must be (B, 3, H, W) of one shape")
    if min(images.shape[-2:]) < LEAST:
        raise UsageError(f"images must be at least {LEAST} pixels, not {tuple(images.shape[-2:])}")
    size, maps = (images.shape[-2], images.shape[-1]), []
    for _ in range(scales):
        one, two = prewitt(images), prewitt(others)
        error = 1 - (2 * one * two + FLOOR) / (one.square() + two.square() + FLOOR)
        maps.append(F.interpolate(error, size=size, mode="bilinear", align_corners=False)[:, 0])
        if min(images.shape[-2:]) < 2 * LEAST:
            break
        images, others = F.avg_pool2d(images, 2), F.avg_pool2d(others, 2)
    return torch.stack(maps).mean(dim=0).clamp(min=0)


def structural_similarity(
    images: Float[Tensor, "B C H W"], others: Float[Tensor, "B C H W"], *, window: int = 7
) -> Float[Tensor, "B C h w"]:
    """SSIM of every whole window of pixels in [0, 1], equal weights inside."""
    first, second = 0.01**2, 0.03**2
    mean_one, mean_two = (F.avg_pool2d(x, window, 1) for x in (images, others))
    square_one, square_two, product = (
        F.avg_pool2d(x, window, 1) for x in (images * images, others * others, images * others)
    )
    spread = square_one - mean_one**2 + square_two - mean_two**2
    shared = product - mean_one * mean_two
    top = (2 * mean_one * mean_two + first) * (2 * shared + second)
    return top / ((mean_one**2 + mean_two**2 + first) * (spread + second))


def restoration_loss(restored: Float[Tensor, "B 3 H W"], images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Squared error, one minus SSIM and gradient error, equally weighted."""
    similarity = structural_similarity(restored, images).mean()
    return F.mse_loss(restored, images) + (1 - similarity) + gradient_error(images, restored).mean()


class RestorationNet(nn.Module):
    """A U-Net of five convolution blocks each way with skips; (B, 3, S, S) -> the same.

    It learns what is to be added: untrained it gives its input back, so what is not hidden is right from the start.

    Args:
        widths: channels of the five blocks.

    Raises:
        UsageError: other than five widths.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 64, 64)) -> None:
        super().__init__()
        if len(widths) != 5 or min(widths) < 1:
            raise UsageError(f"widths must be five numbers of channels, not {widths}")
        before = (3, *widths[:-1])
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in zip(before, widths, strict=True))
        self.up = nn.ModuleList(_convolutions(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.last = nn.Sequential(_convolutions(widths[0], widths[0]), nn.Conv2d(widths[0], 3, 1))
        for parameter in self.last[1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        given, skips = x, []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], dim=1))
        return given + self.last(x)


def _convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
    )  # fmt: skip


class InpaintingAnomalyDetector:
    """Hides what is suspected under a mosaic, restores it as if it were normal, and scores how far that is off.

    A U-Net learns on normal pictures alone to undo mosaics, inside suspected and inside random regions. A picture's map
    is the error of gradients between it and its restoration, its score the largest value of the map. The fewer normal
    places are hidden, the fewer false alarms: that is what the choice of regions is for.

    Args:
        regions: images -> suspected pixels, such as `ContrastiveLanguagePrompting(...).regions`.
        side: of the square at which pictures are restored, in pixels.
        block: side of the mosaic's blocks; None for an eighth of the side.
        steps: of training; the default is the paper's 20 epochs of 3,000 pictures.
        lr: of Adam.
        batch_size: pictures a step.
        widths: channels of the U-Net.
        seed: of weights, order and random regions.
        device: where it is trained and runs.

    Raises:
        UsageError: a side below 32 or no multiple of the block, or settings below 1.

    Paper: Contrastive Language Prompting to Ease False Positives in Medical Anomaly Detection (arXiv 2411.07546).
    """

    def __init__(
        self,
        regions: Regions,
        *,
        side: int = 64,
        block: int | None = None,
        steps: int = 1875,
        lr: float = 1e-3,
        batch_size: int = 32,
        widths: tuple[int, ...] = (16, 32, 64, 64, 64),
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.block = side // 8 if block is None else block
        if side < 32 or self.block < 1 or side % self.block:
            raise UsageError(f"side {side} must be at least 32 and a multiple of the mosaic's block, {self.block}")
        if steps < 1 or batch_size < 1 or not lr > 0:
            raise UsageError(f"steps, batch_size and lr must be positive: {steps, batch_size, lr}")
        self.regions, self.side, self.steps = regions, side, steps
        self.lr, self.batch_size, self.widths, self.seed = lr, batch_size, widths, seed
        self.device = torch.device(device)
        self.net: RestorationNet | None = None

    def fit(self, images: Any) -> InpaintingAnomalyDetector:
        """Train the restorer on normal pictures.

        Args:
            images: normal pictures, anything `data.open_image` takes, or floats (B, 3, H, W) in [0, 1].

        Raises:
            UsageError: no picture.
            DataError: a picture that cannot be read.
        """
        pixels = as_pixels(images, self.side).to(self.device)
        hidden = self._suspected(pixels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = RestorationNet(self.widths).to(self.device)
        generator = torch.Generator().manual_seed(self.seed)

        def batches() -> Any:
            for _ in range(self.steps):
                rows = torch.randint(len(pixels), (self.batch_size,), generator=generator)
                random = random_regions(self.batch_size, (self.side, self.side), generator).to(self.device)
                # Half of the regions are those that the restorer will meet.
                own = (torch.rand(self.batch_size, generator=generator) < 0.5).to(self.device)
                yield pixels[rows], torch.where(own[:, None, None], hidden[rows], random)

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            clean, region = batch
            return restoration_loss(net(mosaic(clean, region, self.block)), clean)

        net.train()
        fit(loss, list(net.parameters()), batches(), steps=self.steps, lr=self.lr, optimizer="adam")
        self.net = net.eval()
        return self

    def __call__(self, images: Any) -> Anomalies:
        """Score pictures by how badly their suspected places are restored.

        Args:
            images: as in `fit`.

        Raises:
            UsageError: no picture, or not fitted.
            DataError: a picture that cannot be read.
        """
        pixels = as_pixels(images, self.side).to(self.device)
        return self.score(pixels, self._suspected(pixels))

    @torch.no_grad()
    def restore(
        self, pixels: Float[Tensor, "B 3 S S"], hidden: Bool[Tensor, "B S S"], *, batch_size: int = 64
    ) -> Float[Tensor, "B 3 S S"]:
        """Pictures of the detector's side with their hidden pixels restored.

        Raises:
            UsageError: not fitted.
        """
        if self.net is None:
            raise UsageError("the restorer is not trained: call fit(normal pictures) first")
        seen = mosaic(pixels, hidden, self.block)
        return torch.cat([self.net(part) for part in seen.split(batch_size)])

    def score(self, pixels: Float[Tensor, "B 3 S S"], hidden: Bool[Tensor, "B S S"]) -> Anomalies:
        """Scores and maps with the hidden pixels given.

        Raises:
            UsageError: not fitted.
        """
        error = gradient_error(pixels, self.restore(pixels, hidden))
        return as_anomalies(error.amax(dim=(1, 2)), error)

    def _suspected(self, pixels: Float[Tensor, "B 3 S S"]) -> Bool[Tensor, "B S S"]:
        regions = self.regions(pixels)
        if tuple(regions.shape) != (len(pixels), self.side, self.side):
            raise UsageError(f"regions gave {tuple(regions.shape)} for {len(pixels)} pictures of {self.side} pixels")
        return regions.to(self.device)


def clap_detector(
    model: Any,
    name: str = "object",
    *,
    normal: Sequence[str] = NORMAL_STATES,
    anomalous: Sequence[str] = ANOMALOUS_STATES,
    size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> InpaintingAnomalyDetector:
    """The whole of CLAP for an object: bottleneck maps of its states, contrasted, hidden and restored.

    Args:
        model: an `ImageTextModel` whose image tower opens.
        name: what the object is.
        normal: phrases for a sound object, the negative words.
        anomalous: phrases for a damaged one, the positive words.
        size: side in pixels at which the model sees pictures; None for its own.
        seed: of the maps' noise, and of the restorer's weights, order and random regions.
        options: others of `InpaintingAnomalyDetector`.

    Raises:
        UsageError: see `state_prompts`, `InformationBottleneckMap` and `InpaintingAnomalyDetector`.

    Paper: Contrastive Language Prompting to Ease False Positives in Medical Anomaly Detection (arXiv 2411.07546).
    """
    refuse_bare_module(model, "clap_detector")
    positive, negative = (state_prompts(name, states, ("{}",)) for states in (anomalous, normal))
    # A model's text is short: one prompt of all states would be cut.
    prompting = ContrastiveLanguagePrompting(
        InformationBottleneckMap(model, size=size, seed=seed), positive, negative, join="mean"
    )
    return InpaintingAnomalyDetector(prompting.regions, device=model.device, seed=seed, **options)
