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

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number
from binderclip.robust.checks import (
    FiniteGuard,
    Labels,
    check_classes,
    check_finite,
    check_logits_shape,
    class_indices,
)
from binderclip.settings import check_choice


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

    def __init__(self, predictor: Any, labels: Labels, *, targeted: bool = False) -> None:
        self.predictor, self.labels, self.targeted = predictor, class_indices(labels), targeted
        self.networks = (predictor,) if isinstance(predictor, nn.Module) else ()
        self._known = 0
        """The number of classes that the labels were found to be among."""

    def rows(self, index: Int[Tensor, "b"]) -> Objective:
        """Of the labels in these rows."""
        some = copy.copy(self)
        some.labels = self.labels[index]
        return some

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.predictor(images)
        check_logits_shape(logits, len(self.labels))
        if logits.shape[1] != self._known:
            self._know(logits)
        places = logits.argmax(dim=1)
        return self.value(logits), places == self.labels if self.targeted else places != self.labels

    def _know(self, logits: Float[Tensor, "B K"]) -> None:
        """Logits and labels at first sight; later logits that are not finite give values that are not, see `attack`."""
        check_finite("logits of the predictor", logits)
        if logits.shape[1] < 2:
            raise UsageError(f"logits {tuple(logits.shape)} are of one class: an attack needs another to end at")
        self.labels = self.labels.to(logits.device)
        check_classes(self.labels, logits.shape[1])
        self._known = logits.shape[1]

    @abstractmethod
    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        """Values from logits."""


class CrossEntropy(_OfLabels):
    """Cross-entropy of the true class; with `targeted`, minus that of the class to reach.

    Args:
        predictor: images to logits (B, K).
        labels: (B,) true classes, or those to reach; a tensor, an array or a list of whole numbers.
        targeted: which of the two.

    Raises:
        UsageError: labels that are no classes of the predictor; when first called, logits that are not finite.
    """

    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        loss = F.cross_entropy(logits, self.labels, reduction="none")
        return -loss if self.targeted else loss


class Margin(_OfLabels):
    """The best other logit minus the true one (targeted: minus that difference); above 0 is success.

    Unlike cross-entropy it does not flatten where a network is sure, so it also attacks networks with huge logits.

    Args:
        predictor: images to logits (B, K).
        labels: (B,) true classes, or those to reach; a tensor, an array or a list of whole numbers.
        targeted: which of the two.
        confidence: the margin beyond which more counts no more, kappa in the attack of Carlini and Wagner; default
            none.

    Raises:
        UsageError: labels that are no classes of the predictor; when first called, logits that are not finite.

    Paper: Towards Evaluating the Robustness of Neural Networks (arXiv 1608.04644).
    """

    def __init__(
        self, predictor: Any, labels: Labels, *, targeted: bool = False, confidence: float = float("inf")
    ) -> None:
        super().__init__(predictor, labels, targeted=targeted)
        if confidence != float("inf"):
            check_number("confidence", confidence)
        self.confidence = confidence

    def value(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        own = logits.gather(1, self.labels[:, None])[:, 0]
        others = logits.scatter(1, self.labels[:, None], float("-inf")).amax(dim=1)
        margin = own - others if self.targeted else others - own
        if self.confidence == float("inf"):
            return margin
        # Nothing is added, but NaN where the margin is infinite: cut off, it would look as any other.
        return margin.clamp(max=self.confidence) + 0 * margin


class MinSimilarity(Objective):
    """The least similarity of an image to many texts, over all models.

    The similarity is the cosine; for models with a bias (SigLIP) the probability sigmoid(scale * cosine + bias).

    Args:
        models: one image-text model, or several.
        texts: what an image is to be similar to, all at once.
        aggregate: `min`, or `mean` over texts and models.
        goal: a value above it is success; None: none is.

    Raises:
        UsageError: no model or text, another aggregate, or a goal that is not finite; when called on the CPU,
            similarities that are not finite.

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
        check_choice("aggregate", aggregate, ("min", "mean"))
        if goal is not None:
            check_number("goal", goal)
        self.aggregate, self.goal, self.networks = aggregate, goal, self.models
        with torch.no_grad(), frozen(*(model for model in self.models if isinstance(model, nn.Module))):
            self._texts = [F.normalize(model.encode_text(list(texts)), dim=1) for model in self.models]

    def rows(self, index: Int[Tensor, "b"]) -> Objective:
        """All images have the same texts."""
        return self

    def similarities(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B M K"]:
        """Of each image to each text, by each model."""
        similarities = []
        for model, texts in zip(self.models, self._texts, strict=True):
            cosine = F.normalize(model.encode_image(images), dim=1) @ texts.T.to(model.device)
            if model.logit_bias is not None:
                cosine = (model.scale() * cosine + model.logit_bias).sigmoid()
            similarities.append(cosine.to(images.device))
        return torch.stack(similarities, 1)

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Values, and which are above the goal."""
        similarities = self.similarities(images).flatten(1)
        FiniteGuard()("similarities to the texts", similarities)
        values = similarities.amin(1) if self.aggregate == "min" else similarities.mean(1)
        return values, values > (float("inf") if self.goal is None else self.goal)
