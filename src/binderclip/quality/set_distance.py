"""Distances between two sets of images, in the stateful form users know from torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import float_batch
from binderclip.quality.frechet import frechet_distance
from binderclip.quality.mmd import mmd_bootstrap, mmd_permutation_test, mmd_rbf
from binderclip.settings import check_choice

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SetScore:
    """A set distance with what is needed to judge it.

    Attributes:
        name: of the metric.
        value: the distance; lower is better.
        n_real, n_fake: sizes of the two sets.
        embedding: how images became features; two values are comparable only where this is equal.
        interval: bootstrap interval, or None where none was asked for.
        p_value: of the permutation test of equal distributions, or None.
    """

    name: str
    value: float
    n_real: int
    n_fake: int
    embedding: str
    interval: tuple[float, float] | None = None
    p_value: float | None = None


class SetDistance:
    """What set distances share: embed images batch by batch, keep the features, compute at the end.

    Args:
        embed: an `ImageTextModel`, a callable from images to features (B, d), or None where `update` gets features.
        resize: for an `ImageTextModel`: `paper` resizes to the model's input by bicubic interpolation without
            antialiasing and without a crop, and leaves what overshoots [0, 1] at hard edges as it is, as the embedding
            of the published code does (in its PyTorch port); `model` uses the model's own preprocessing, which cuts
            there. When the published code reads a folder it has cropped the centre square of each picture and resized
            it with antialiasing (Pillow's bicubic, in 8 bits) before; pictures prepared so pass `paper` unchanged.
    """

    lower_better = True
    name = "set distance"

    def __init__(self, embed: Any = None, *, resize: str = "paper") -> None:
        refuse_bare_module(embed, "SetDistance")
        check_choice("resize", resize, ("paper", "model"))
        if embed is not None and not callable(embed) and not hasattr(embed, "encode_image"):
            raise UsageError(f"embed must be an ImageTextModel, a callable or None, not {type(embed).__name__}")
        self.embed = embed
        self.resize = resize
        self.reset()

    @property
    def embedding(self) -> str:
        """How images become features, in words."""
        if self.embed is None:
            return "features as given"
        if not hasattr(self.embed, "encode_image"):
            return getattr(self.embed, "__name__", type(self.embed).__name__)
        paper = "bicubic without antialiasing, no crop, not clamped"
        way = paper if self.resize == "paper" else "the model's own preprocessing"
        return f"{getattr(self.embed, 'name', type(self.embed).__name__)}, {self.embed.image_size} px, {way}"

    def reset(self) -> None:
        """Forget both sets."""
        self._rows: dict[bool, list[Tensor]] = {True: [], False: []}

    def update(self, images: Float[Tensor, "B *shape"], *, real: bool) -> None:
        """Add a batch to the real or to the generated set.

        Args:
            images: (B, 3, H, W) in [0, 1]; features (B, d) where `embed` is None; for `resize="model"` also whatever
                the model's `encode_image` takes.
            real: which set.

        Raises:
            UsageError: features that are not (B, d), or whose d differs from what came before.
        """
        features = self._features(images)
        if features.ndim != 2:
            raise UsageError(f"features must have shape (B, d), not {tuple(features.shape)}: pass images with embed=")
        for rows in self._rows.values():
            if rows and rows[0].shape[1] != features.shape[1]:
                raise UsageError(
                    f"features have {number_of(features.shape[1], 'column')}; earlier batches had {rows[0].shape[1]}"
                )
        self._rows[bool(real)].append(features.detach().cpu())

    @torch.no_grad()
    def _features(self, images: Any) -> Tensor:
        if self.embed is None:
            return images
        if not hasattr(self.embed, "encode_image"):
            return self.embed(images)
        if self.resize == "paper":
            if not isinstance(images, Tensor) or images.ndim != 4:
                raise UsageError("resize='paper' needs an image tensor (B, 3, H, W) in [0, 1]")
            side = self.embed.image_size
            size = (side, side) if isinstance(side, int) else tuple(side)
            batch = float_batch(images.float())
            assert batch is not None
            return self._encoded(F.interpolate(batch, size, mode="bicubic", antialias=False))
        return self.embed.encode_image(images)

    def _encoded(self, images: Float[Tensor, "B 3 h w"], batch_size: int = 64) -> Float[Tensor, "B d"]:
        """Features of images of the model's own size, which may leave [0, 1]: its own face would refuse or cut them."""
        if not hasattr(self.embed, "encode_pixels"):
            return self.embed.encode_image(images)
        device, normalize = self.embed.device, self.embed.preprocess.normalize
        return torch.cat([self.embed.encode_pixels(normalize(part.to(device))) for part in images.split(batch_size)])

    @property
    def real(self) -> Tensor:
        """Features of the real set, (n, d)."""
        return self._set(True)

    @property
    def fake(self) -> Tensor:
        """Features of the generated set, (m, d)."""
        return self._set(False)

    def _set(self, real: bool) -> Tensor:
        if not self._rows[real]:
            raise UsageError(f"no {'real' if real else 'generated'} images yet: call update(images, real={real})")
        return torch.cat(self._rows[real])

    def compute(self) -> Float[Tensor, ""]:
        """The distance between the two sets, a float64 scalar."""
        return self.distance(self.real, self.fake)

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """The distance of two feature sets; the part a metric defines."""
        raise UsageError(f"{type(self).__name__} defines no distance: use CMMD or FrechetDistance")

    def report(self) -> SetScore:
        """The value with its set sizes and its embedding."""
        return SetScore(self.name, float(self.compute()), len(self.real), len(self.fake), self.embedding)


class CMMD(SetDistance):
    """CLIP maximum mean discrepancy: 1,000 times the squared MMD of unit CLIP image embeddings.

    A replacement of FID without its normality assumption and with little bias in the sample size; a typical value is
    0.1 to 5, lower is better. Published values use CLIP ViT-L/14 at 336 px, so compare only within one `embedding`.

    Args:
        embed: an `ImageTextModel`, a callable from images in [0, 1] to features, or None to update with features.
        sigma: kernel width for unit vectors.
        scale: factor on the squared MMD.
        unbiased: the U-statistic instead of the published V-statistic.
        block: rows of the kernel matrix held at once.
        resize: `paper` or `model`, see `SetDistance`.

    Raises:
        UsageError: sigma or scale not above 0.

    Examples:
        >>> metric = CMMD()
        >>> metric.update(torch.tensor([[1.0, 0.0]]), real=True)
        >>> metric.update(torch.tensor([[0.0, 1.0]]), real=False)
        >>> round(float(metric.compute()), 4)
        19.9003

    Paper: Rethinking FID: Towards a Better Evaluation Metric for Image Generation (arXiv 2401.09603).
    """

    name = "CMMD"

    def __init__(
        self,
        embed: Any = None,
        *,
        sigma: float = 10.0,
        scale: float = 1000.0,
        unbiased: bool = False,
        block: int = 1024,
        resize: str = "paper",
    ) -> None:
        refuse_bare_module(embed, "CMMD")
        for argument, value in (("sigma", sigma), ("scale", scale)):
            if not value > 0:
                raise UsageError(f"{argument} must be above 0, not {value}")
        super().__init__(embed, resize=resize)
        self.sigma, self.scale, self.unbiased, self.block = sigma, scale, unbiased, block

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """1,000 (`scale`) times the squared MMD; rows are brought to unit length first."""
        real, fake = self._units(real, fake)
        return self.scale * mmd_rbf(real, fake, sigma=self.sigma, unbiased=self.unbiased, block=self.block)

    def report(self, *, permutations: int = 0, resamples: int = 0, level: float = 0.95, seed: int = 0) -> SetScore:
        """The value with its set sizes, and on request a p-value and an interval.

        Args:
            permutations: of the test of equal distributions; 0 for none.
            resamples: of the bootstrap interval; 0 for none.
            level: coverage of the interval.
            seed: of both.
        """
        real, fake = self._units(self.real, self.fake)
        p_value = interval = None
        if permutations:
            test = mmd_permutation_test(
                real, fake, sigma=self.sigma, permutations=permutations, seed=seed, block=self.block
            )
            p_value = test.p_value
        if resamples:
            low, high = mmd_bootstrap(
                real, fake, sigma=self.sigma, unbiased=self.unbiased, level=level, resamples=resamples, seed=seed,
                block=self.block,
            )  # fmt: skip
            interval = (self.scale * low, self.scale * high)
        return SetScore(
            self.name, float(self.compute()), len(real), len(fake), self.embedding, interval=interval, p_value=p_value
        )

    @staticmethod
    def _units(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(real.double(), dim=-1), F.normalize(fake.double(), dim=-1)


class FrechetDistance(SetDistance):
    """Fréchet distance of the two sets' features: FID on the features of your choice, as a baseline of `CMMD`.

    Args:
        embed: an `ImageTextModel`, a callable from images in [0, 1] to features, or None to update with features.
        resize: `paper` or `model`, see `SetDistance`.
    """

    name = "FID"

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """`frechet_distance` of the raw features."""
        return frechet_distance(real, fake)
