"""What an attack makes as large as it can: one number an image, with everything the model sees inside."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.display import number_of
from binderclip.errors import UsageError


class Objective(ABC):
    """`objective(images) -> (B,)`, larger is more adversarial; images do not interact.

    `networks` are put into eval mode, their weights frozen, while an attack runs. Subclasses write `judge`, and `rows`
    where it is cheap, so that an attack that keeps the first success need not look at finished images again.
    """

    networks: tuple[nn.Module, ...] = ()

    @abstractmethod
    def judge(self, images: Float[Tensor, "B *size"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Values (differentiable), and which images have reached the aim, from one forward pass."""

    def rows(self, index: Int[Tensor, "b"]) -> Objective | None:
        """The same objective of some of the images; None where they cannot be told apart."""
        return None

    def __call__(self, images: Float[Tensor, "B *size"]) -> Float[Tensor, "B"]:
        return self.judge(images)[0]


class _OfLabels(Objective):
    """An objective of a classifier's logits and one class an image."""

    def __init__(self, predictor: Any, labels: Int[Tensor, "B"], *, targeted: bool = False) -> None:
        if labels.ndim != 1 or labels.is_floating_point():
            raise UsageError(f"labels must be (B,) class indices, not {labels.dtype} {tuple(labels.shape)}")
        self.predictor, self.labels, self.targeted = predictor, labels, targeted
        self.networks = (predictor,) if isinstance(predictor, nn.Module) else ()

    def rows(self, index: Int[Tensor, "b"]) -> Objective:
        """Of the labels in these rows."""
        some = copy.copy(self)
        some.labels = self.labels[index]
        return some

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.predictor(images)
        if logits.ndim != 2 or len(logits) != len(self.labels):
            raise UsageError(f"{number_of(len(self.labels), 'label')} for logits {tuple(logits.shape)}")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= logits.shape[1]:
            raise UsageError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, but there are "
                f"{number_of(logits.shape[1], 'class')}"
            )
        hit = logits.argmax(dim=1) == self.labels
        return self.value(logits), hit if self.targeted else ~hit

    @abstractmethod
    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        """Values from logits."""


class CrossEntropy(_OfLabels):
    """Cross-entropy of the true class; with `targeted`, minus that of the class to reach.

    Args:
        predictor: images to logits (B, K).
        labels: (B,) true classes, or those to reach.
        targeted: which of the two.

    Raises:
        UsageError: labels that are no classes of the predictor.
    """

    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        loss = F.cross_entropy(logits, self.labels, reduction="none")
        return -loss if self.targeted else loss


class Margin(_OfLabels):
    """The best other logit minus the true one (targeted: minus that difference); above 0 is success.

    Unlike cross-entropy it does not flatten where a network is sure, so it also attacks networks with huge logits.

    Args:
        predictor: images to logits (B, K).
        labels: (B,) true classes, or those to reach.
        targeted: which of the two.
        confidence: the margin beyond which more counts no more, kappa in the attack of Carlini and Wagner; default
            none.

    Raises:
        UsageError: labels that are no classes of the predictor.

    Paper: Towards Evaluating the Robustness of Neural Networks (arXiv 1608.04644).
    """

    def __init__(
        self, predictor: Any, labels: Int[Tensor, "B"], *, targeted: bool = False, confidence: float = float("inf")
    ) -> None:
        super().__init__(predictor, labels, targeted=targeted)
        self.confidence = confidence

    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        own = logits.gather(1, self.labels[:, None])[:, 0]
        others = logits.scatter(1, self.labels[:, None], float("-inf")).amax(dim=1)
        return (own - others if self.targeted else others - own).clamp(max=self.confidence)


class MinSimilarity(Objective):
    """The least similarity of an image to many texts, over all models.

    The similarity is the cosine; for models with a bias (SigLIP) the probability sigmoid(scale * cosine + bias).

    Args:
        models: one image-text model, or several.
        texts: what an image is to be similar to, all at once.
        aggregate: `min`, or `mean` over texts and models.
        goal: a value above it is success; None: none is.

    Raises:
        UsageError: no model or text, or another aggregate.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """

    def __init__(
        self,
        models: Any,
        texts: Sequence[str],
        *,
        aggregate: Literal["min", "mean"] = "min",
        goal: float | None = None,
    ) -> None:
        self.models = tuple(models) if isinstance(models, (list, tuple)) else (models,)
        if not self.models or not len(texts) or isinstance(texts, str):
            raise UsageError("MinSimilarity needs at least one model and a list of at least one text")
        if aggregate not in ("min", "mean"):
            raise UsageError(f"aggregate must be min or mean, not {aggregate!r}")
        self.aggregate, self.goal, self.networks = aggregate, goal, self.models
        with torch.no_grad():
            self._texts = [F.normalize(model.encode_text(list(texts)), dim=1) for model in self.models]

    def rows(self, index: Int[Tensor, "b"]) -> Objective:
        """All images have the same texts."""
        return self

    def similarities(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B M K"]:
        """Of each image to each text, by each model."""
        found = []
        for model, texts in zip(self.models, self._texts, strict=True):
            cosine = F.normalize(model.encode_image(images), dim=1) @ texts.T.to(model.device)
            if model.logit_bias is not None:
                cosine = (model.scale() * cosine + model.logit_bias).sigmoid()
            found.append(cosine.to(images.device))
        return torch.stack(found, 1)

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Values, and which are above the goal."""
        found = self.similarities(images).flatten(1)
        values = found.amin(1) if self.aggregate == "min" else found.mean(1)
        return values, values > (float("inf") if self.goal is None else self.goal)
