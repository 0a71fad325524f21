"""Quality without reference, words or opinions: what statistics of pixels and of a network's maps say of faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS
from binderclip.data.images import open_image
from binderclip.errors import DataError, UsageError
from binderclip.files import make_folder
from binderclip.fit import FitResult, fit
from binderclip.models.files.devices import resolve_device
from binderclip.models.files.registry import BUNDLED
from binderclip.models.image_text.encode import EncodedImages, OnError
from binderclip.models.image_text.preprocess import ImageLike, as_list, float_batch
from binderclip.quality.rows import ShuffledRows
from binderclip.quality.score.damaged_views import FAMILIES, DamagedViews
from binderclip.quality.score.native_files import embedded_files, reduced_picture, reduced_size
from binderclip.quality.score.picture_score import PictureScore
from binderclip.quality.score.texture_statistics import TEXTURE, texture_statistics
from binderclip.quality.trunks import WIDTHS, FeatureTrunk, lite0
from binderclip.quality.weights import read_weights, take_over, write_weights

KIND, OF_VIEWS = "BlindQuality", "statistics of damaged views"
BUNDLED_WEIGHTS = BUNDLED / "lite0-quality" / "quality.safetensors"
LEAST = 16
"""Pixels on either side."""
PLACES = 1024
"""Places of a map, at most, that a quantile is taken over."""
LIGHT = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantiles of the brightness."""
ENDS = 2 / 255
"""Nearer to black or white than this is clipped."""
FLAT = 0.1
"""Standard deviation of a colour where a few pixels at most differ from one."""
BLANK = 6.0
"""The logit of a fault where there is nothing to see."""
PART = 50
"""Views whose statistics are written together."""


def map_statistics(maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B F"]:
    """Mean, standard deviation and 95th percentile over the places of every channel of every map, one behind another.

    The percentile, of every k-th place where a map has many, says what the sharpest or brightest parts are like: of a
    flower before a soft ground the mean is that of a blurred picture.
    """
    statistics = []
    for one in maps:
        places = one.flatten(2)
        some = places[..., :: max(1, places.shape[2] // PLACES)]
        statistics += [places.mean(2), places.std(2, correction=0), some.quantile(0.95, dim=2)]
    return torch.cat(statistics, dim=1)


def light_statistics(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L"]:
    """Quantiles of the brightness, log10 of the shares of pixels at black and at white, and how colourful they are.

    The last two are the mean and the 99th percentile of what lies between the strongest and the weakest channel.

    Args:
        images: in [0, 1].
    """
    light, span = images.mean(1).flatten(1), (images.amax(1) - images.amin(1)).flatten(1)
    some = slice(None, None, max(1, light.shape[1] // (16 * PLACES)))
    quantiles = light[:, some].quantile(torch.tensor(LIGHT).to(light), dim=1).T  # (B, Q)
    clipped = torch.stack([(light <= ENDS).to(light).mean(1), (light >= 1 - ENDS).to(light).mean(1)], dim=1)
    colour = torch.stack([span.mean(1), span[:, some].quantile(0.99, dim=1)], dim=1)
    return torch.cat([quantiles, (clipped + 1e-4).log10(), colour], dim=1)


class InputDropout(nn.Module):
    """Dropout with a share of its own for every input.

    Args:
        shares: chance of each of the F inputs to be dropped in a step of training, below 1.
    """

    shares: Tensor

    def __init__(self, shares: Float[Tensor, "F"]) -> None:
        super().__init__()
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """The inputs; while training 0 for those that are dropped, and the others scaled so that the mean stays."""
        return x * (torch.rand_like(x) >= self.shares) / (1 - self.shares) if self.training else x


class BlindQuality(PictureScore):
    """Score how free of faults a picture is, by a perceptron on statistics of its pixels and of its maps in `lite0`.

    `lite0` rests. Of the picture itself and of its five maps every channel gives a mean, a standard deviation and a
    95th percentile, and the pixels give `light_statistics` and `texture_statistics`. A perceptron with one hidden layer
    learns from photographs that were damaged for it how strong a fault of each of the seven `FAMILIES` is, and of any,
    from 0 to 1. The score is 1 less what the mean of two logits says: that of any fault, and that of the strongest
    family. As it compares levels of different photographs and of different faults, its scores order a folder; nobody's
    opinions are in it. A picture with nothing on it, of one colour but for a hundredth of its pixels, is wrongly
    exposed by rule. No paper's method.

    Args:
        hidden: units of the hidden layer.
        longest: larger pictures are reduced to this longer side in pixels (bicubic); None for never.
        device: where it works.

    Attributes:
        lower_better: False.
        fitted: whether it has been trained; without it nothing is scored.

    Raises:
        UsageError: `hidden` or `longest` below 1, or no such device.

    Examples:
        >>> metric = BlindQuality(hidden=4)
        >>> photo = torch.rand(3, 64, 64)
        >>> result = metric.fit([photo], views=2, steps=1)
        >>> metric(photo[None]).shape
        torch.Size([1])
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, *, hidden: int = 128, longest: int | None = None, device: str | torch.device = "cpu") -> None:
        super().__init__()
        if hidden < 1 or (longest is not None and longest < 1):
            raise UsageError(f"hidden and longest must be at least 1, got {hidden} and {longest}")
        self.hidden, self.longest, self.fitted = hidden, longest, False
        self.trunk: FeatureTrunk = lite0("vanilla", 3)
        coarse = len(LIGHT) + 4 + 3 * (3 + sum(WIDTHS["lite0"]))
        width = coarse + TEXTURE
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        # A few hundred photographs have few different maps: most of their statistics are dropped in a step.
        dropped = torch.cat([torch.full((coarse,), 0.7), torch.full((TEXTURE,), 0.3)])
        self.head = nn.Sequential(
            InputDropout(dropped), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(hidden, len(FAMILIES) + 1),
        )  # fmt: skip
        self.to(resolve_device(device)).eval()

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Statistics of pictures in [0, 1]; gradients reach the pixels.

        Raises:
            DataError: pictures of fewer than 16 pixels on a side.
        """
        height, width = reduced_size(images.shape[2], images.shape[3], self.longest)
        if (height, width) != tuple(images.shape[2:]):
            images = F.interpolate(images, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        if min(height, width) < LEAST:
            raise DataError(f"a picture: {height} x {width} pixels, {LEAST} are needed on either side")
        images = images.to(self.middle)
        maps = map_statistics([images, *self.trunk(images)])
        return torch.cat([light_statistics(images), maps, texture_statistics(images)], dim=1)

    @property
    def names(self) -> list[str]:
        """Of the columns of `each`: the families of faults."""
        return list(FAMILIES)

    def each(self, statistics: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """How free of the faults of every family pictures with these statistics are, in [0, 1].

        Raises:
            UsageError: nothing has been fitted.
        """
        return 1 - self._logits(statistics)[:, :-1].sigmoid()

    def total(self, statistics: Float[Tensor, "B F"]) -> Float[Tensor, "B"]:
        """Scores of statistics.

        Raises:
            UsageError: nothing has been fitted.
        """
        logits = self._logits(statistics)
        return (-(logits[:, -1] + logits[:, :-1].amax(1)) / 2).sigmoid()

    def _logits(self, statistics: Float[Tensor, "B F"]) -> Float[Tensor, "B L"]:
        """Of the K families, and of any fault: L = K + 1."""
        if not self.fitted:
            raise UsageError("nothing is fitted: call fit(images), or use BlindQuality.from_weights()")
        logits, hit = self._raw(statistics), torch.zeros(len(FAMILIES) + 1, dtype=torch.bool, device=statistics.device)
        hit[[FAMILIES.index("exposure"), -1]] = True
        colours = statistics[:, len(LIGHT) + 4 :][:, 3:6].amax(1)  # their deviations over the pixels
        blank = (statistics[:, len(LIGHT) - 1] - statistics[:, 0] <= ENDS) & (colours <= FLAT)  # 98 % of them are alike
        return logits.masked_fill(blank[:, None] & hit, BLANK)

    def _raw(self, statistics: Float[Tensor, "B F"]) -> Float[Tensor, "B L"]:
        return self.head(((statistics - self.middle) / self.spread).clamp(-5, 5))

    def forward(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "B"]:
        """Scores in [0, 1], higher is better.

        Args:
            images: one image or many: paths, PIL images, arrays, or float tensors (B, 3, H, W) in [0, 1], through which
                gradients pass.

        Raises:
            UsageError: nothing has been fitted, or an empty list.
        """
        batch = float_batch(images)
        if batch is not None:
            statistics = self.embed(batch) if len(batch) else self.middle.new_zeros(0, len(self.middle))
            return self.total(statistics)
        if not (sources := as_list(images)):
            raise UsageError("images is empty: give at least one")
        return self.total(self.files(sources, on_error="raise").features)

    def pixels(self, source: ImageLike) -> UInt8[np.ndarray, "h w 3"]:
        """One picture as the network gets it, 8-bit.

        Raises:
            DataError: it cannot be read, or has fewer than 16 pixels on a side.
        """
        picture = reduced_picture(open_image(source, mode="RGB"), self.longest)
        if min(picture.size) < LEAST:
            name = str(source) if isinstance(source, (str, os.PathLike)) else "a picture"
            raise DataError(f"{name}: {picture.height} x {picture.width} pixels, {LEAST} are needed on either side")
        return np.asarray(picture)

    def files(
        self,
        sources: Sequence[ImageLike],
        *,
        batch_size: int = 64,
        on_error: OnError = "skip",
        progress: Callable[[int], object] | None = None,
    ) -> EncodedImages:
        """Statistics of pictures of any sizes."""
        return embedded_files(
            self.pixels, self.embed, sources, width=len(self.middle), device=self.middle.device,
            batch_size=batch_size, on_error=on_error, progress=progress,
        )  # fmt: skip

    @torch.no_grad()
    def statistics_of(
        self, views: DamagedViews, folder: str | Path | None = None, *, progress: Callable[[int], object] | None = None
    ) -> tuple[Float[Tensor, "M F"], Float[Tensor, "M K"]]:
        """Statistics and levels of all pictures of all views, which is nearly all of the work of `fit`.

        Args:
            views: to learn from.
            folder: where parts are written as they are ready; those that are there are read, so that a run that was
                stopped goes on. One folder for one set of pictures and one seed.
            progress: called with the number of views done.

        Raises:
            UsageError: a folder with parts of other views.
        """
        settings = None if folder is None else views.settings()
        parts = []
        for start in range(0, len(views), PART):
            rows = range(start, min(start + PART, len(views)))
            path = None if folder is None else Path(folder) / f"views-{start:06d}.safetensors"
            part = None if path is None or not path.is_file() else _part(path, settings, len(rows) * (1 + views.faults))
            if part is None:
                made = [views[row] for row in rows]
                statistics = torch.cat([self.embed(pictures.to(self.middle.device)).cpu() for pictures, _ in made])
                part = {"statistics": statistics, "levels": torch.cat([levels for _, levels in made])}
                if path is not None:
                    make_folder(path.parent)
                    write_weights(path, part, OF_VIEWS, views=settings)
            parts.append(part)
            if progress is not None:
                progress(rows.stop)
        return torch.cat([part["statistics"] for part in parts]), torch.cat([part["levels"] for part in parts])

    def fit(
        self,
        images: Sequence[ImageLike],
        *,
        views: int = 1000,
        steps: int = 6000,
        faults: int = 3,
        sides: tuple[int, int] = (160, 640),
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        folder: str | Path | None = None,
        seed: int = 0,
        **options: Any,
    ) -> FitResult:
        """Learn from pictures without faults.

        Args:
            images: of any sizes; a hundred different ones at least.
            views: see `DamagedViews`, as `faults` and `sides`; (1 + faults) times as many pictures are learned from.
            steps: of the optimizer.
            lr, weight_decay: of AdamW.
            batch_size: pictures a step.
            folder: see `statistics_of`.
            seed: of views, order, dropout and first weights.
            options: of `binderclip.fit.fit`.

        Raises:
            UsageError: an argument that is wrong.
            DataError: a picture that cannot be read.
        """
        made = DamagedViews(images, views, faults=faults, sides=sides, seed=seed)
        statistics, levels = self.statistics_of(made, folder)
        levels = torch.cat([levels, levels.amax(1, keepdim=True)], dim=1)  # (M, K + 1), the last of any fault
        statistics, target = statistics.to(self.middle), levels.to(self.middle) / LEVELS
        self.middle.copy_(statistics.mean(0))
        spread = statistics.std(0, correction=0)
        self.spread.copy_(torch.where(spread > 1e-4, spread, 1.0))  # some channels never answer

        def step(rows: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            return F.binary_cross_entropy_with_logits(self._raw(statistics[rows]), target[rows])

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self.head:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
            self.head.train()
            result = fit(
                step, self.head, ShuffledRows(len(statistics), batch_size, seed), steps=steps, lr=lr,
                optimizer={"name": "adamw", "weight_decay": weight_decay}, **options,
            )  # fmt: skip
        self.eval()
        self.fitted = True
        return result

    def _learned(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if not name.startswith("trunk")}

    def save_weights(self, path: str | Path) -> Path:
        """Write the perceptron as safetensors; of `lite0` nothing.

        Args:
            path: of the file.

        Raises:
            UsageError: nothing has been fitted.
        """
        if not self.fitted:
            raise UsageError("nothing to save: the metric is not fitted")
        return write_weights(path, self._learned(), KIND, hidden=self.hidden)

    @classmethod
    def from_weights(
        cls, path: str | Path | None = None, *, longest: int | None = None, device: str | torch.device = "cpu"
    ) -> BlindQuality:
        """A metric that was fitted and saved before.

        Args:
            path: of `save_weights`; None for the bundled weights `lite0-quality`.
            longest, device: as in the class.

        Raises:
            CheckpointError: the file cannot be read, or belongs to another metric.
        """
        weights = read_weights(BUNDLED_WEIGHTS if path is None else path, KIND, need=("hidden",))
        metric = cls(hidden=weights.settings["hidden"], longest=longest, device=device)
        take_over(metric._learned(), weights)
        metric.fitted = True
        return metric


def _part(path: Path, settings: Any, count: int) -> dict[str, Tensor] | None:
    """The first rows of a part of `statistics_of`; None where it has fewer, as the last one of a shorter run.

    Raises:
        UsageError: it is of other views.
    """
    weights = read_weights(path, OF_VIEWS, need=("views",))
    if weights.settings["views"] != settings:
        raise UsageError(f"{path} is of other views, {weights.settings['views']}: give a folder of its own")
    rows = {name: value[:count] for name, value in weights.tensors.items()}
    return rows if len(rows["levels"]) == count else None
