"""Do maps of different classes differ? The correlation of the maps of two targets of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.faithfulness.retrain import standard_error


@dataclass(frozen=True)
class ClassSensitivity:
    """The correlation of two maps of each image; lower is more sensitive to the class, 1 is not at all.

    Attributes:
        values: (B,) Pearson correlations over pixels, in [-1, 1].
    """

    values: Float[Tensor, "B"]

    @property
    def mean(self) -> float:
        """Over images."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 for a single image."""
        return float(standard_error(self.values))


def class_sensitivity(
    method: Any, model: Any, images: Any, targets_a: Any = None, targets_b: Any = None
) -> ClassSensitivity:
    """How alike a method's maps for two classes are: a method that ignores its target scores 1.

    Args:
        method: a method of ours, or any callable `(model, images, target) -> maps (B, H, W)`.
        model: what is explained.
        images: as for the method.
        targets_a: one class or text, or one an image; None for each image's highest-scoring class.
        targets_b: likewise; None for its lowest-scoring class.

    Raises:
        UsageError: None for a model without classes, or maps that do not fit each other; see the method.

    Examples:
        >>> class_sensitivity(NormGrad(), model.predictor(labels), images).mean  # doctest: +SKIP

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866), section 3.3.
    """
    if targets_a is None or targets_b is None:
        highest, lowest = _extreme_classes(model, images)
        targets_a = highest if targets_a is None else targets_a
        targets_b = lowest if targets_b is None else targets_b
    first, second = (_maps(method(model, images, target)) for target in (targets_a, targets_b))
    return ClassSensitivity(map_correlation(first, second))


def map_correlation(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Pearson correlation over pixels of two maps of each image; 1 where both are constant, 0 where one is.

    Raises:
        UsageError: shapes that differ.
    """
    if first.ndim != 3 or first.shape != second.shape:
        raise UsageError(f"maps {tuple(first.shape)} and {tuple(second.shape)} must have one shape (B, H, W)")
    flat = [maps.flatten(1).double() for maps in (first, second)]
    # A constant map's mean is off by rounding, which would correlate.
    constant = [values.amax(1) == values.amin(1) for values in flat]
    x, y = (values - values.mean(dim=1, keepdim=True) for values in flat)
    x, y = (v / v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny) for v in (x, y))
    correlation = (x * y).sum(dim=1)
    correlation = torch.where(constant[0] | constant[1], (constant[0] & constant[1]).to(correlation), correlation)
    return correlation.clamp(-1, 1).float()


def _maps(result: Any) -> Tensor:
    maps = result.maps() if isinstance(result, Attribution) else result
    if not isinstance(maps, Tensor) or maps.ndim != 3:
        raise UsageError(f"a method must give an Attribution or maps (B, H, W), not {type(result).__name__}")
    return maps


def _extreme_classes(model: Any, images: Any) -> tuple[list[int], list[int]]:
    from binderclip.explain.engine.observed import Observer

    observer = Observer(model)
    if observer.model is observer.backbone:
        raise UsageError("an image-text model has no classes: give targets_a and targets_b, or model.predictor(labels)")
    with observer.ready(), torch.no_grad():
        logits = observer.run(observer.images(images)).outputs
    return logits.argmax(dim=-1).tolist(), logits.argmin(dim=-1).tolist()
