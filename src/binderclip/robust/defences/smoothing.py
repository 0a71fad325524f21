"""Randomised smoothing: the answer most often given under Gaussian noise, and how far it provably holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import beta, binomtest, norm
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number, check_whole
from binderclip.robust.checks import FiniteGuard, check_box, check_images, check_logits_shape, class_indices

__all__ = ["ABSTAIN", "Certificate", "RandomizedSmoothing"]

ABSTAIN = -1
"""The class where nothing can be said, as in `locuslab/smoothing`."""


@dataclass(frozen=True)
class Certificate:
    """What is certain, but for a chance of alpha an image.

    Attributes:
        classes: (B,) the smoothed class, or `ABSTAIN`.
        radius: (B,) no change of smaller Euclidean length, over all pixels in [0, 1], changes the class; 0 where it
            abstains.
        lower: (B,) lower bound on the probability of the class under noise.
    """

    classes: Int[Tensor, "B"]
    radius: Float[Tensor, "B"]
    lower: Float[Tensor, "B"]

    def accuracy(self, labels: Int[Tensor, "B"], radius: float = 0.0) -> float:
        """Certified accuracy: share of images with the right class and a radius of at least `radius`.

        Raises:
            UsageError: labels that are no classes, or of other images, or a radius that is no number of at least 0.
        """
        check_number("radius", radius, least=0)
        labels = class_indices(labels)
        if labels.shape != self.classes.shape:
            raise UsageError(f"labels {tuple(labels.shape)} do not go with {len(self.classes)} certificates")
        return float(((self.classes == labels) & (self.radius >= radius)).float().mean())


class RandomizedSmoothing:
    """A classifier's most frequent answer to x + sigma e, e ~ N(0, I), with the radius in which it provably stays.

    With p the lower confidence bound on the probability of the most frequent class, R = sigma * Phi^-1(p) where p is
    above 1/2. Which class that is and how probable it is are found on different draws: used again, the first ones would
    make the certificate void.

    Args:
        predictor: images (B, 3, H, W) to logits (B, K); it must give the same answer to the same pixels. Put into eval
            mode meanwhile. Noise is added to the images as they are given: the radius belongs to their resolution.
        sigma: standard deviation of the noise, in units of pixels in [0, 1].
        denoise: of noisy images, which leave [0, 1], before the predictor; None leaves them.
        box: range that what the predictor sees is cut to, after noise and denoiser; a part of the classifier that is
            certified. None for a predictor that takes any numbers.
        batch_size: draws at a time.
        seed: of the noise; a call begins at the same draws again.

    Raises:
        UsageError: a setting out of range; when called, images that are no (B, 3, H, W) in `box` (without one: not
            finite), or logits that are not finite.

    Papers: Certified Adversarial Robustness via Randomized Smoothing (arXiv 1902.02918); with a denoiser: Denoised
    Smoothing (arXiv 2003.01908).

    Examples:
        >>> predictor = lambda x: torch.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)
        >>> smooth = RandomizedSmoothing(predictor, 0.25)
        >>> smooth.certify(torch.full((1, 3, 8, 8), 0.8), n0=10, n=100).classes.tolist()
        [1]
    """

    def __init__(
        self,
        predictor: Any,
        sigma: float,
        *,
        denoise: Any = None,
        box: tuple[float, float] | None = (0.0, 1.0),
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        check_number("sigma", sigma, above=0)
        check_whole("batch_size", batch_size, least=1)
        check_whole("seed", seed)
        if box is not None:
            check_box(box)
        self.predictor, self.sigma, self.denoise, self.box = predictor, sigma, denoise, box
        self.batch_size, self.seed = batch_size, seed

    def certify(
        self, images: Float[Tensor, "B 3 H W"], *, n0: int = 100, n: int = 10_000, alpha: float = 0.001
    ) -> Certificate:
        """The class of each image, and its radius.

        Args:
            images: in `box`.
            n0: draws that choose the class.
            n: draws that bound its probability, by Clopper and Pearson's one-sided interval.
            alpha: chance, for each image, that what is said is wrong.

        Raises:
            UsageError: numbers of draws below 1, or an alpha outside (0, 1); images and logits as the class.
        """
        self._check(images, alpha, n0=n0, n=n)
        classes, hits = [], []
        generator = torch.Generator().manual_seed(self.seed)
        with torch.inference_mode(), frozen(*self._networks()):
            for image in images:
                classes.append(int(self._counts(image, n0, generator).argmax()))
                counts = self._counts(image, n, generator)
                hits.append(int(counts[classes[-1]]))
        count = np.array(hits)
        lower = np.where(count > 0, beta.ppf(alpha, np.maximum(count, 1), n - count + 1), 0.0)
        sure = lower > 0.5
        return Certificate(
            torch.tensor(np.where(sure, classes, ABSTAIN)),
            torch.from_numpy(np.where(sure, self.sigma * norm.ppf(np.maximum(lower, 0.5)), 0.0)).float(),
            torch.from_numpy(lower).float(),
        )

    def predict(self, images: Float[Tensor, "B 3 H W"], *, n: int = 100, alpha: float = 0.001) -> Int[Tensor, "B"]:
        """The most frequent class of each image, or `ABSTAIN` where the second might be as frequent.

        Args:
            images: in `box`.
            n: draws.
            alpha: largest p of a two-sided binomial test of the two most frequent classes.

        Raises:
            UsageError: as `certify`.
        """
        self._check(images, alpha, n=n)
        predictions = []
        generator = torch.Generator().manual_seed(self.seed)
        with torch.inference_mode(), frozen(*self._networks()):
            for image in images:
                counts = self._counts(image, n, generator)
                order = counts.argsort(descending=True, stable=True)
                first, second = int(counts[order[0]]), int(counts[order[1]]) if len(order) > 1 else 0
                known = binomtest(first, first + second, 0.5).pvalue <= alpha
                predictions.append(int(order[0]) if known else ABSTAIN)
        return torch.tensor(predictions)

    def _check(self, images: Tensor, alpha: float, **draws: int) -> None:
        """Everything that a call is given."""
        check_images("images", images, self.box, shape="(B, 3, H, W)")
        for name, count in draws.items():
            check_whole(name, count, least=1)
        check_number("alpha", alpha)
        if not 0 < alpha < 1:
            raise UsageError(f"alpha is {alpha}; it is a probability between 0 and 1")

    def _networks(self) -> list[nn.Module]:
        return [part for part in (self.predictor, self.denoise) if isinstance(part, nn.Module)]

    def _counts(self, image: Float[Tensor, "3 H W"], n: int, generator: torch.Generator) -> Int[Tensor, "K"]:
        """How often each class is the answer among n draws."""
        total: Tensor | None = None
        guard = FiniteGuard()
        for start in range(0, n, self.batch_size):
            size = (min(self.batch_size, n - start), *image.shape)
            noise = torch.randn(size, generator=generator).to(image)
            noisy = noise.mul_(self.sigma).add_(image)
            seen = noisy if self.denoise is None else self.denoise(noisy)
            logits = self.predictor(seen if self.box is None else seen.clamp(*self.box))
            check_logits_shape(logits, len(noisy))
            guard("logits of the predictor", logits)
            counts = logits.argmax(1).bincount(minlength=logits.shape[1])
            total = counts if total is None else total + counts  # stays where it was made: no host read in the loop
        guard.settle()
        assert total is not None
        return total
