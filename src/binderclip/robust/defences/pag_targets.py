"""Where an input gradient should point: from an image towards a class, known from examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.robust.checks import Labels, check_images, checked_labels
from binderclip.settings import check_choice

Rule = Literal["one_image", "class_mean", "nearest", "score"]


class PAGTargets:
    """Directions g(x, t) from an image x towards a class t, for perceptually aligned gradients.

    - `"one_image"`: towards one fixed image of the class.
    - `"class_mean"`: towards the mean image of the class.
    - `"nearest"`: towards the nearest of (some) images of the class, Euclidean in pixels.
    - `"score"`: the gradient of log p(t | x) if images are the given ones plus Gaussian noise: the difference of the
      class's and all classes' ideal denoisers, D_t(x) - D(x), over sigma squared. It is what a conditional diffusion
      model that has learnt these images by heart would give; directions of several sigmas are averaged at unit length.

    Args:
        rule: one of the four.
        images: (N, *size) examples, in the space in which gradients are taken.
        labels: (N,) their classes, each of 0..K-1 at least once.
        subset: at most so many examples a class for `"nearest"` and `"score"`, drawn at random; None: all.
        sigma: noise level, or several, of `"score"`, in the units of the images; default an eighth and a quarter of the
            root mean square distance of the images from their mean.
        seed: of the draws.

    Call it with images (B, *size) and classes (B, k); the result is (B, k, *size).

    Raises:
        UsageError: an unknown rule, a class without examples, a sigma that is not above 0, images that are not finite;
            when called, shapes that do not match, images that are not finite, or a class out of range.

    Paper: Do Perceptually Aligned Gradients Imply Adversarial Robustness? (arXiv 2207.11378).
    """

    def __init__(
        self,
        rule: Rule,
        images: Float[Tensor, "N *size"],
        labels: Labels,
        *,
        subset: int | None = None,
        sigma: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("rule", rule, ("one_image", "class_mean", "nearest", "score"))
        check_images("images", images, None)
        labels = checked_labels(labels, images)
        check_whole("seed", seed)
        if subset is not None:
            check_whole("subset", subset, least=1)
        counts = torch.bincount(labels)
        if not bool(counts.all()):
            raise UsageError(f"class {int((counts == 0).nonzero()[0])} has no example; number classes from 0 on")
        self.rule, self.size = rule, images.shape[1:]
        flat = images.detach().flatten(1)
        generator = torch.Generator().manual_seed(seed)
        self._shares = counts.double() / len(labels)
        self._classes: list[Tensor] = []
        for number in range(len(counts)):
            rows = (labels == number).nonzero()[:, 0]
            kept = {"one_image": 1, "class_mean": None}.get(rule, subset)
            if kept is not None:
                rows = rows[torch.randperm(len(rows), generator=generator)[:kept].to(rows.device)]
            self._classes.append(flat[rows])
        self._points = torch.stack([examples.mean(dim=0) for examples in self._classes])
        self.sigma = self._levels(sigma, flat)

    def __len__(self) -> int:
        return len(self._classes)

    def __repr__(self) -> str:
        return f"PAGTargets({self.rule!r}, {number_of(len(self), 'class')})"

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B *size"], classes: Int[Tensor, "B k"]) -> Float[Tensor, "B k *size"]:
        if images.shape[1:] != self.size or classes.ndim != 2 or len(classes) != len(images):
            raise UsageError(
                f"images {tuple(images.shape)} and classes {tuple(classes.shape)} must be (B, {self.size}) and (B, k)"
            )
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < len(self):
            raise UsageError(f"classes run from {int(classes.min())} to {int(classes.max())}; there are {len(self)}")
        check_images("images", images, None)
        flat = images.detach().flatten(1)
        if self.rule in ("one_image", "class_mean"):
            directions = self._points[classes] - flat[:, None]
        elif self.rule == "nearest":
            directions = self._nearest(flat, classes) - flat[:, None]
        else:
            directions = self._score(flat, classes)
        return directions.reshape(*classes.shape, *self.size).to(images.dtype)

    def _nearest(self, flat: Tensor, classes: Tensor) -> Tensor:
        nearest = flat.new_empty(*classes.shape, flat.shape[1])
        for number in classes.unique().tolist():
            of_class = classes == number
            rows = of_class.any(dim=1).nonzero()[:, 0]
            examples = self._classes[number]
            near = torch.empty(len(flat), dtype=torch.long, device=flat.device)
            near[rows] = torch.cdist(flat[rows], examples).argmin(dim=1)
            nearest[of_class] = examples[near[of_class.nonzero()[:, 0]]]
        return nearest

    def _score(self, flat: Tensor, classes: Tensor) -> Tensor:
        squares = [torch.cdist(flat.double(), examples.double()).square() for examples in self._classes]
        total = flat.new_zeros(*classes.shape, flat.shape[1]).double()
        for sigma in self.sigma:
            means, logs = [], []
            for weight, square, examples in zip(self._shares, squares, self._classes, strict=True):
                weights = -square / (2 * sigma**2)
                means.append(weights.softmax(dim=1) @ examples.double())
                # each example stands for an equal part of its class's share
                logs.append(weights.logsumexp(dim=1) + weight.log() - torch.tensor(len(examples)).log())
            denoised = torch.stack(means, dim=1)
            posterior = torch.stack(logs, dim=1).softmax(dim=1)
            every = (posterior[..., None] * denoised).sum(dim=1)
            chosen = denoised[torch.arange(len(flat), device=flat.device)[:, None], classes]
            scores = (chosen - every[:, None]) / sigma**2
            if len(self.sigma) > 1:
                scores = torch.nn.functional.normalize(scores, dim=2) / len(self.sigma)
            total += scores
        return total

    def _levels(self, sigma: float | Sequence[float] | None, flat: Tensor) -> tuple[float, ...]:
        if sigma is None:
            spread = float(flat.var(dim=0, correction=0).sum().sqrt()) or 1.0
            return (spread / 8, spread / 4)
        levels = tuple(float(s) for s in ([sigma] if isinstance(sigma, (int, float)) else sigma))
        if not levels:
            raise UsageError("sigma is empty: one level of noise or several, in the units of the images")
        for level in levels:
            check_number("sigma", level, above=0)
        return levels
