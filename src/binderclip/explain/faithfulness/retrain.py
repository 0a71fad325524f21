"""Remove and retrain: keep only what a map calls important, and see what a network trained anew can still learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import Fill
from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import blank_maps
from binderclip.fit import fit as run_fit
from binderclip.settings import check_choice

Keep = Literal["top", "bottom"]
Unit = Literal["pixel", "coordinate"]
Labelled: TypeAlias = tuple[Tensor, Tensor]
TrainClassifier: TypeAlias = Callable[[Tensor, Tensor, int], Callable[[Tensor], Tensor]]
Maps: TypeAlias = Tensor | Mapping[str, Tensor]
RANDOM = "random"
CHUNK = 512


@dataclass(frozen=True)
class RetrainTable:
    """Test accuracies of networks trained anew on what was kept.

    Attributes:
        methods: rows; the last one is `random`, the order that knows nothing.
        fractions: share of the pixels (or coordinates) of every image that was kept.
        kept: the same as exact counts.
        keep: whether the highest or the lowest values were kept.
        seeds: of masks and trainings.
        accuracy: one value a method, fraction and seed.
        blank: for each method but `random`, how many of its maps (of training and test images) have one value
            everywhere: these images lose pixels at random, so a method with many of them is measured on little.
    """

    methods: tuple[str, ...]
    fractions: tuple[float, ...]
    kept: tuple[int, ...]
    keep: Keep
    seeds: tuple[int, ...]
    accuracy: Float[Tensor, "M F S"]
    blank: dict[str, int]

    def of(self, method: str) -> Float[Tensor, "F S"]:
        """Accuracies of one method.

        Raises:
            UsageError: no such method.
        """
        if method not in self.methods:
            raise UsageError(f"method {method!r} was not measured; there are {', '.join(self.methods)}")
        return self.accuracy[self.methods.index(method)]

    def mean(self, method: str) -> Float[Tensor, "F"]:
        """Mean over seeds at each fraction."""
        return self.of(method).mean(dim=1)

    def standard_error(self, method: str) -> Float[Tensor, "F"]:
        """Standard error of that mean; zero for a single seed."""
        return standard_error(self.of(method))


def remove_and_retrain(
    maps_train: Maps,
    maps_test: Maps,
    train: Labelled,
    test: Labelled,
    fit: TrainClassifier,
    *,
    fractions: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    keep: Keep = "bottom",
    fill: str | float | Sequence[float] | Fill = "mean",
    seeds: Sequence[int] = (0, 1, 2),
    unit: Unit = "pixel",
) -> RetrainTable:
    """ROAR: retrain from scratch on images that keep only a share of their pixels, chosen by a map.

    A map is faithful if accuracy falls fast when its highest values are removed (`keep="bottom"`: lower is better), or
    stays high when only they are kept (`keep="top"`). Retraining makes removal part of the data, so a network cannot
    fail just because it never saw holes. The shape of the holes alone may tell the class: compare with `random`.

    Args:
        maps_train: scores of the training images, (N, H, W) for `unit="pixel"`, the shape of the images for
            `"coordinate"`; the larger, the more important (give magnitudes of signed maps). Or several by name.
        maps_test: the same of the test images, from the same model.
        train: images (N, C, H, W) (or any (N, C, ...) for coordinates) and labels (N,).
        test: likewise; it is masked too, since a network must be tested on what it was trained for.
        fit: `(images, labels, seed) -> classifier`, where the classifier maps images to logits (N, K); see
            `from_scratch`. Called for every method, fraction and seed.
        fractions: shares that are kept, each in [0, 1]; a removal of t is a fraction of 1 - t. `round(fraction * n)`
            of the n pixels are kept in every image, exactly.
        keep: the `"top"` or the `"bottom"` of every map. Values that are equal are ordered at random: in reading order
            they would draw a shape of their own.
        fill: of removed pixels: `"mean"` (of the training images, one number a channel), a number, one number a
            channel, or `Fill("zero", value=...)`. Always one constant for all images, since a fill that depends on the
            image would tell about what was removed.
        seeds: each orders equal values and trains anew.
        unit: `"pixel"` removes all channels of a pixel together.

    Returns:
        Accuracies, with the baseline `random`.

    Raises:
        UsageError: shapes that do not match, maps that are not finite, a fraction outside [0, 1], a fill that depends
            on the image.

    Examples:
        >>> train_anew = from_scratch(lambda: small_network(), epochs=10)  # doctest: +SKIP
        >>> remove_and_retrain(maps, test_maps, train, test, train_anew, fractions=[0.5, 0.1])  # doctest: +SKIP

    Paper: the test is that of A Benchmark for Interpretability Methods in Deep Neural Networks (arXiv 1806.10758), as
    used by Full-Gradient Representation for Neural Network Visualization (arXiv 1905.00780) and Do Input Gradients
    Highlight Discriminative Features? (arXiv 2102.12781).
    """
    check_choice("keep", keep, ("top", "bottom"))
    if not len(fractions) or not len(seeds):
        raise UsageError("remove_and_retrain needs at least one fraction and one seed")
    scores = _named(maps_train, maps_test, train[0], test[0], unit)
    for images, labels in (train, test):
        if labels.shape != images.shape[:1] or not len(labels):
            raise UsageError(f"labels {tuple(labels.shape)} do not go with images {tuple(images.shape)}")
    value = fill_value(fill, train[0])
    size = next(iter(scores.values()))[0][0].numel()
    kept = tuple(kept_count(fraction, size) for fraction in fractions)
    accuracy = torch.empty(len(scores), len(kept), len(seeds))
    for column, seed in enumerate(seeds):
        for row, (train_scores, test_scores) in enumerate(scores.values()):
            generator = torch.Generator().manual_seed(seed)
            ranks = [ranking(part, generator) for part in (train_scores, test_scores)]
            for place, count in enumerate(kept):
                seen, unseen = (
                    _masked(images, _kept(rank, count, keep), value, unit)
                    for (images, _), rank in zip((train, test), ranks, strict=True)
                )
                accuracy[row, place, column] = _accuracy(fit(seen, train[1], seed), unseen, test[1])
    blank = {name: sum(int(blank_maps(m).sum()) for m in pair) for name, pair in scores.items() if name != RANDOM}
    return RetrainTable(tuple(scores), tuple(fractions), kept, keep, tuple(seeds), accuracy, blank)


def keep_mask(
    maps: Float[Tensor, "N *size"], fraction: float, *, keep: Keep = "top", seed: int = 0
) -> Bool[Tensor, "N *size"]:
    """True at the highest (or lowest) `round(fraction * n)` of the n values of every map, exactly.

    Equal values are ordered at random. With one seed, the top f and the bottom 1 - f are complements.

    Args:
        maps: scores; the larger, the more important.
        fraction: in [0, 1].
        keep: `"top"` or `"bottom"`.
        seed: of the order among equal values.

    Raises:
        UsageError: a fraction outside [0, 1], or values that are not finite.
    """
    check_choice("keep", keep, ("top", "bottom"))
    count = kept_count(fraction, maps[0].numel())
    return _kept(ranking(maps, torch.Generator().manual_seed(seed)), count, keep)


def from_scratch(
    make_model: Callable[[], nn.Module],
    *,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 1e-3,
    **options: Any,
) -> TrainClassifier:
    """A training that `remove_and_retrain` can repeat: a new model, cross-entropy, `epochs` passes.

    Args:
        make_model: makes a network with fresh weights, from images to logits; torch's seed is set around it.
        epochs: passes over the images, whose order the seed decides.
        batch_size: images a step.
        lr: learning rate.
        options: of `fit`, such as `optimizer`, `schedule` or `clip`.

    Raises:
        UsageError: epochs or batch_size below 1; when called, what `fit` refuses.
    """
    if epochs < 1 or batch_size < 1:
        raise UsageError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")

    def train(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make_model().to(images.device).train()
        batches = ShuffledBatches(images, labels, batch_size, seed)
        run_fit(
            lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
            model,
            batches,
            steps=epochs * len(batches),
            lr=lr,
            **options,
        )
        return model.eval()

    return train


class ShuffledBatches:
    """Shuffled batches of images and labels for `fit`; each time it is iterated is the next pass.

    Args:
        images: all of them.
        labels: (N,).
        batch_size: the last batch of a pass may be smaller.
        seed: of the order.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator).to(self.images.device)
        for rows in order.split(self.batch_size):
            yield self.images[rows], self.labels[rows]


def ranking(maps: Float[Tensor, "N *size"], generator: torch.Generator) -> Int[Tensor, "N *size"]:
    """Place of every value of its map, 0 for the largest; equal values in random order.

    Raises:
        UsageError: values that are not finite.
    """
    flat = maps.detach().flatten(1)
    if not bool(flat.isfinite().all()):
        raise UsageError("maps hold NaN or infinite values: nothing can be ordered by them")
    shuffle = torch.rand(flat.shape, generator=generator).argsort(dim=1).to(flat.device)
    order = flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, shuffle.gather(1, order), places).reshape(maps.shape)


def kept_count(fraction: float, size: int) -> int:
    """How many of `size` values a fraction keeps."""
    if not 0 <= fraction <= 1:
        raise UsageError(f"fraction {fraction} is a share that is kept, in [0, 1]")
    return round(fraction * size)


def fill_value(fill: str | float | Sequence[float] | Fill, images: Tensor) -> Tensor:
    """The constant that replaces removed pixels, shaped to broadcast over the images.

    Raises:
        UsageError: an unknown rule, a number of values other than one or the channels, a fill that is no constant.
    """
    if isinstance(fill, Fill):
        if fill.rule != "zero":
            raise UsageError(
                f"Fill({fill.rule!r}) depends on the image and would tell what was removed; use fill='mean' (of all "
                "training images), a number, or Fill('zero', value=...)"
            )
        fill = fill.value
    shape = (1, -1, *[1] * (images.ndim - 2))
    if isinstance(fill, str):
        if fill != "mean":
            raise UsageError(f"fill {fill!r} is unknown: 'mean', a number, one number a channel, or a Fill")
        return images.mean(dim=[axis for axis in range(images.ndim) if axis != 1]).reshape(shape)
    value = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(-1)
    if len(value) not in (1, images.shape[1]):
        raise UsageError(f"fill has {len(value)} numbers for images of {images.shape[1]} channels")
    return value.reshape(shape)


def standard_error(values: Float[Tensor, "... S"]) -> Float[Tensor, "..."]:
    """Standard error of the mean over the last axis; zero for a single value."""
    n = values.shape[-1]
    return values.std(dim=-1) / n**0.5 if n > 1 else torch.zeros_like(values[..., 0])


def _named(
    maps_train: Maps, maps_test: Maps, train: Tensor, test: Tensor, unit: Unit
) -> dict[str, tuple[Tensor, Tensor]]:
    """Training and test maps by method, shapes checked, with the baseline at the end."""
    check_choice("unit", unit, ("pixel", "coordinate"))
    ours, theirs = (m if isinstance(m, Mapping) else {"maps": m} for m in (maps_train, maps_test))
    if set(ours) != set(theirs) or RANDOM in ours:
        raise UsageError(
            f"maps of training ({', '.join(ours)}) and test images ({', '.join(theirs)}) must have the same names, and "
            f"{RANDOM!r} is the baseline's"
        )
    for name in ours:
        for maps, images in ((ours[name], train), (theirs[name], test)):
            if unit == "pixel" and images.ndim != 4:
                raise UsageError(f"unit='pixel' takes images (N, C, H, W), not {tuple(images.shape)}")
            expected = images.shape if unit == "coordinate" else (len(images), *images.shape[-2:])
            if maps.shape != expected:
                raise UsageError(
                    f"maps {name!r} are {tuple(maps.shape)}; for images {tuple(images.shape)} and unit={unit!r} they "
                    f"must be {tuple(expected)}"
                )
    named = {name: (ours[name], theirs[name]) for name in ours}
    # A map of equal values is ordered wholly at random.
    blank = [x.new_zeros(x.shape if unit == "coordinate" else (len(x), *x.shape[-2:])) for x in (train, test)]
    return {**named, RANDOM: (blank[0], blank[1])}


def _kept(rank: Int[Tensor, "N *size"], count: int, keep: Keep) -> Bool[Tensor, "N *size"]:
    return rank < count if keep == "top" else rank >= rank[0].numel() - count


def _masked(images: Tensor, mask: Tensor, value: Tensor, unit: Unit) -> Tensor:
    return torch.where(mask[:, None] if unit == "pixel" else mask, images, value)


@torch.no_grad()
def _accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    if isinstance(model, nn.Module):
        model.eval()
    parts = zip(images.split(CHUNK), labels.split(CHUNK), strict=True)
    return sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in parts) / len(images)
