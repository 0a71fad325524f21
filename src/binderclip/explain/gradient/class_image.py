"""Activation maximisation: the image that a score likes best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.targets import resolve
from binderclip.settings import check_choice


@dataclass(frozen=True)
class ClassImage:
    """An optimised image.

    Attributes:
        image: (3, H, W) in mean-subtracted space, as it was optimised.
        display: (3, H, W) in [0, 1]: the mean added once, then clipped.
        scores: (steps + 1,) the score at the start and after each step, without the penalty.
        display_score: the score of `display`; clipping can change it.
    """

    image: Tensor
    display: Tensor
    scores: Tensor
    display_score: float


@dataclass(frozen=True)
class ClassModelImage:
    """Gradient ascent on `S(I) - weight_decay |I|^2` from a grey image, with the weights fixed.

    `I` lives in mean-subtracted space: the model sees `mean + I`, and the mean is added once for display.

    Args:
        steps: number of steps.
        lr: step size; with `normalized` ascent the root-mean-square change of a pixel in units of 1/255.
        weight_decay: lambda, on the squared norm.
        ascent: `normalized` (the gradient is divided by its root mean square), `sgd` or `adam`.
        mean: grey level of the start, in [0, 1].
        size: side in pixels; None for the model's own input.
        jitter: largest random shift in pixels before each step; 0 for none, as in the paper.
        seed: of the jitter.

    Raises:
        UsageError: a setting out of range; when called, no size for a model that has none.

    Paper: Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps
    (arXiv 1312.6034).
    """

    steps: int = 200
    lr: float = 1.0
    weight_decay: float = 1e-3
    ascent: Literal["normalized", "sgd", "adam"] = "normalized"
    mean: float = 0.5
    size: int | None = None
    jitter: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or self.weight_decay < 0 or self.jitter < 0:
            raise UsageError(
                f"steps at least 1, lr above 0, weight_decay and jitter at least 0; got {self.steps}, {self.lr}, "
                f"{self.weight_decay}, {self.jitter}"
            )
        check_choice("ascent", self.ascent, ("normalized", "sgd", "adam"))

    def __call__(self, model: Any, target: Any) -> ClassImage:
        """Optimise an image for a target (see `targets.resolve`)."""
        return self._optimise(model, target, 1)[0]

    def many(self, model: Any, targets: Sequence[str] | Sequence[int]) -> list[ClassImage]:
        """One image for each of several texts or classes, optimised side by side in one batch.

        Raises:
            UsageError: no target.
        """
        if isinstance(targets, str) or not len(targets):
            raise UsageError(f"targets must be a list of at least one text or class, not {targets!r}")
        return self._optimise(model, list(targets), len(targets))

    def _optimise(self, model: Any, target: Any, count: int) -> list[ClassImage]:
        observer = Observer(model)
        image = torch.zeros(count, 3, *self._size(observer), device=observer.device)
        generator = torch.Generator().manual_seed(self.seed)
        mean_square = torch.zeros_like(image)
        momentum = torch.zeros_like(image)
        scores = []
        with observer.ready():
            score = resolve(model, target, observer.run(self.mean + image, []).outputs.detach())
            for step in range(self.steps):
                value, gradient = self._gradient(observer, score, image, generator)
                scores.append(value)
                if self.ascent == "normalized":
                    root = gradient.pow(2).mean(dim=(1, 2, 3), keepdim=True).sqrt()
                    gradient = gradient / root.clamp(min=1e-12) / 255
                elif self.ascent == "adam":
                    momentum = 0.9 * momentum + 0.1 * gradient
                    mean_square = 0.999 * mean_square + 0.001 * gradient**2
                    root = (mean_square / (1 - 0.999 ** (step + 1))).sqrt()
                    gradient = momentum / (1 - 0.9 ** (step + 1)) / (root + 1e-8)
                image = image + self.lr * gradient
            display = (self.mean + image).clamp(0, 1)
            with torch.no_grad():
                scores.append(score(observer.run(self.mean + image, []).outputs))
                shown = score(observer.run(display, []).outputs)
        path = torch.stack(scores, dim=1).detach()
        return [ClassImage(image[i], display[i], path[i], float(shown[i])) for i in range(count)]

    def _gradient(
        self, observer: Observer, score: Any, image: Float[Tensor, "B 3 H W"], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        shift = (0, 0)
        if self.jitter:
            rows, columns = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator).tolist()
            shift = (rows, columns)
        seen = observer.run(self.mean + image.roll(shift, dims=(-2, -1)), ["input"])
        value = score(seen.outputs)
        gradient = seen.grads(value, ["input"])[0].permute(0, 3, 1, 2).roll((-shift[0], -shift[1]), dims=(-2, -1))
        return value.detach(), gradient - 2 * self.weight_decay * image

    def _size(self, observer: Observer) -> tuple[int, int]:
        if self.size is not None:
            return self.size, self.size
        if observer.preprocess is None:
            raise UsageError("this model does not say its input size: give ClassModelImage(size=...)")
        return observer.preprocess.size
