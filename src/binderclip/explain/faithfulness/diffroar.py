"""DiffROAR: do the pixels that a map ranks highest say more about the class than those it ranks lowest?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data import Fill
from binderclip.errors import UsageError
from binderclip.explain.faithfulness.retrain import (
    CHUNK,
    Labelled,
    RetrainTable,
    TrainClassifier,
    Unit,
    keep_mask,
    remove_and_retrain,
    standard_error,
)

MapMethod: TypeAlias = Callable[[Any, Tensor, Any], Any]


@dataclass(frozen=True)
class DiffROARResult:
    """What DiffROAR measured.

    Attributes:
        top: accuracies of networks that saw only the highest values.
        bottom: the same of the lowest values.
    """

    top: RetrainTable
    bottom: RetrainTable

    @property
    def methods(self) -> tuple[str, ...]:
        """Rows, with `random` at the end."""
        return self.top.methods

    @property
    def difference(self) -> Float[Tensor, "M F S"]:
        """Top minus bottom, one value a method, fraction and seed."""
        return self.top.accuracy - self.bottom.accuracy

    def of(self, method: str) -> Float[Tensor, "F S"]:
        """Differences of one method."""
        return self.top.of(method) - self.bottom.of(method)

    def mean(self, method: str) -> Float[Tensor, "F"]:
        """Mean over seeds at each fraction: positive where high values are the discriminative ones."""
        return self.of(method).mean(dim=1)

    def standard_error(self, method: str) -> Float[Tensor, "F"]:
        """Standard error of that mean; zero for a single seed."""
        return standard_error(self.of(method))


@dataclass(frozen=True)
class DiffROAR:
    """Retrain on the highest and on the lowest share of a map; the difference of test accuracies is its quality.

    A map that ranks discriminative pixels first is positive, a random one zero, one that ranks them last negative; when
    everything is kept the difference is exactly zero. Networks are trained from scratch on masked images and tested on
    masked ones: this is no deletion curve of the explained model.

    Args:
        fit: `(images, labels, seed) -> classifier` trains a new network, see `from_scratch`.
        fractions: shares that are kept. Default those of the paper.
        fill: of removed pixels, one constant for all images; see `remove_and_retrain`.
        seeds: of masks and trainings; at least three for a standard error worth its name.
        unit: `"coordinate"` ranks every channel of every pixel for itself, as the paper does; `"pixel"` for maps
            (N, H, W).

    Call it with the explained `model`, the attributions, training and test images with their labels (the targets). An
    attribution is any `(model, images, target) -> maps` or `-> Attribution`, called with the labels as targets, or a
    pair of ready (training, test) maps; larger values must mean more important.

    Raises:
        UsageError: no attribution; when called, whatever `remove_and_retrain` refuses.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from binderclip.explain import from_scratch
        >>> labels = torch.arange(24) % 2
        >>> images = 0.1 * torch.rand(24, 3, 8, 8)
        >>> images[:, :, 2:4, 2:4] += labels.view(-1, 1, 1, 1)  # class 1 has a bright square, the rest is noise
        >>> train_anew = from_scratch(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), epochs=20, lr=0.01)
        >>> ideal = torch.zeros(24, 3, 8, 8)
        >>> ideal[..., 2:4, 2:4] = 1.0
        >>> test = DiffROAR(train_anew, fractions=[0.0625], seeds=[0])
        >>> result = test(None, {"square": (ideal, ideal)}, (images, labels), (images, labels))
        >>> bool(result.mean("square") > 0.2)
        True

    Paper: Do Input Gradients Highlight Discriminative Features? (arXiv 2102.12781).
    """

    fit: TrainClassifier
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    fill: str | float | Sequence[float] | Fill = "mean"
    seeds: Sequence[int] = (0, 1, 2)
    unit: Unit = "coordinate"

    def __call__(
        self,
        model: Any,
        attributions: MapMethod | Mapping[str, MapMethod | tuple[Tensor, Tensor]],
        train: Labelled,
        test: Labelled,
    ) -> DiffROARResult:
        named = attributions if isinstance(attributions, Mapping) else {"maps": attributions}
        if not named:
            raise UsageError("DiffROAR needs at least one attribution")
        pairs = {
            name: method if isinstance(method, tuple) else (_maps(method, model, train), _maps(method, model, test))
            for name, method in named.items()
        }
        first, second = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
        top, bottom = (
            remove_and_retrain(
                first, second, train, test, self.fit, fractions=self.fractions, keep=keep, fill=self.fill,
                seeds=self.seeds, unit=self.unit,
            )
            for keep in ("top", "bottom")
        )  # fmt: skip
        return DiffROARResult(top, bottom)


class SignalNull(NamedTuple):
    """Where a map lies in images of which one part carries the class and one does not.

    Attributes:
        energy: share of the map's absolute values inside the signal; the signal's share of the image for a flat map.
        top: share of the highest values that lie inside the signal.
    """

    energy: Float[Tensor, "B"]
    top: Float[Tensor, "B"]


def signal_null_energy(
    maps: Float[Tensor, "B *C H W"], signal: Bool[Tensor, "B H W"], *, fraction: float = 0.1, seed: int = 0
) -> SignalNull:
    """How much of a map falls on the part of the image that decides the class; 1 is ideal.

    Args:
        maps: (B, H, W) or (B, C, H, W), signed or not; the magnitude counts.
        signal: True in the signal block (`data.BlockDataset.signal`).
        fraction: of the values that count as the highest.
        seed: of the order among equal values.

    Returns:
        One value an image; a map of zeros has the energy of a flat one.

    Raises:
        UsageError: shapes that differ.

    Paper: Do Input Gradients Highlight Discriminative Features? (arXiv 2102.12781).
    """
    if maps.ndim not in (3, 4) or maps.shape[:1] + maps.shape[-2:] != signal.shape:
        raise UsageError(f"maps {tuple(maps.shape)} must be (B, H, W) or (B, C, H, W) of masks {tuple(signal.shape)}")
    size = maps.abs() if maps.ndim == 4 else maps.abs()[:, None]
    inside = signal[:, None].expand_as(size)
    total = size.flatten(1).sum(dim=1)
    flat = inside.flatten(1).to(size.dtype).mean(dim=1)
    energy = torch.where(total > 0, (size * inside).flatten(1).sum(dim=1) / total.clamp(min=1e-30), flat)
    chosen = keep_mask(size, fraction, seed=seed).flatten(1)
    hits = (chosen & inside.flatten(1)).sum(dim=1).to(size.dtype)
    return SignalNull(energy, hits / chosen.sum(dim=1).clamp(min=1))


def _maps(method: MapMethod, model: Any, data: Labelled) -> Tensor:
    batches = []
    for images, labels in zip(data[0].split(CHUNK), data[1].split(CHUNK), strict=True):
        maps = method(model, images, labels)
        batches.append((maps.maps() if hasattr(maps, "maps") else maps).detach())
    return torch.cat(batches)
