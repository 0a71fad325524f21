"""Is a map faithful? Pixels are taken away or put back in its order, and the score is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.data import Fill
from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution, blank_maps
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.targets import resolve
from binderclip.explain.faithfulness.retrain import kept_count, ranking, standard_error
from binderclip.numeric import check_number

MapsOf: TypeAlias = Callable[[Any, Any, Any], Tensor]
Maps: TypeAlias = "Tensor | Attribution | Callable[[Any, Any, Any], Any]"
Scorer: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PerturbationArea:
    """Areas under the curves of scores while pixels go or come.

    Attributes:
        fractions: shares of the pixels that were changed, 0 to 1.
        curve: the score at each of them.
        random_curve: the same in random order, the mean over draws.
        blank: which maps have one value everywhere. Their order is chance, so they have no area and are in no mean.
    """

    fractions: Float[Tensor, "S"]
    curve: Float[Tensor, "B S"]
    random_curve: Float[Tensor, "B S"]
    blank: Bool[Tensor, "B"]

    @property
    def values(self) -> Float[Tensor, "B"]:
        """The area of each image, in units of the score; NaN for a blank map."""
        return torch.trapezoid(self.curve, self.fractions).masked_fill(self.blank, torch.nan)

    @property
    def random(self) -> Float[Tensor, "B"]:
        """The same in random order."""
        return torch.trapezoid(self.random_curve, self.fractions)

    @property
    def mean(self) -> float:
        """Over the images whose map is not blank."""
        return float(self.values[~self.blank].mean())

    @property
    def standard_error(self) -> float:
        """Of the mean; zero for a single image."""
        return float(standard_error(self.values[~self.blank]))

    @property
    def random_mean(self) -> float:
        """Of the random order."""
        return float(self.random.mean())


@dataclass(frozen=True)
class PixelPerturbation:
    """How far the score moved when the least salient pixels were removed: the less, the better.

    Attributes:
        fractions: shares of the pixels that were removed.
        values: |change| / |score| of each image at each share.
        random: the same for random pixels, the mean over draws.
        blank: which maps have one magnitude everywhere: their values are NaN, and in no mean.
    """

    fractions: tuple[float, ...]
    values: Float[Tensor, "B S"]
    random: Float[Tensor, "B S"]
    blank: Bool[Tensor, "B"]

    @property
    def mean(self) -> Float[Tensor, "S"]:
        """Over the images whose map is not blank."""
        return self.values[~self.blank].mean(dim=0)

    @property
    def standard_error(self) -> Float[Tensor, "S"]:
        """Of the mean; zero for a single image."""
        return standard_error(self.values[~self.blank].T)

    @property
    def random_mean(self) -> Float[Tensor, "S"]:
        """Of random pixels."""
        return self.random.mean(dim=0)


def maps_of(method: Callable[[Any, Any, Any], Any]) -> MapsOf:
    """Any method as a function `(model, images, target) -> maps (B, H, W)`.

    Args:
        method: a callable `(model, images, target)` that returns an `Attribution` or a tensor (B, H, W).

    Raises:
        UsageError: when called: the result is something else.
    """

    def maps(model: Any, images: Any, target: Any = None) -> Tensor:
        attribution = method(model, images, target)
        attribution = attribution.maps() if isinstance(attribution, Attribution) else attribution
        if not isinstance(attribution, Tensor) or attribution.ndim != 3:
            what = tuple(attribution.shape) if isinstance(attribution, Tensor) else type(attribution).__name__
            raise UsageError(f"a method must give an Attribution or maps (B, H, W), not {what}")
        return attribution.detach()

    return maps


def deletion_auc(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    maps: Maps,
    steps: int = 20,
    fill: str | Fill = "zero",
    unit: int = 1,
    draws: int = 1,
    seed: int = 0,
    batch: int = 64,
) -> PerturbationArea:
    """The score while the most salient pixels are removed first: the smaller the area, the better the map.

    Holes are unlike anything the model has seen, so compare with the random order, and with `remove_and_retrain`.

    Args:
        model, images, target: as in `attribute`; the target is resolved on the whole images. Areas are in its units:
            give a callable for another score, such as a probability.
        maps: (B, H, W) of the images' size, an `Attribution`, or a method; signed maps go from positive to negative.
        steps: equal steps from nothing to everything.
        fill: of removed pixels, a rule of `data.Fill` or a `Fill`.
        unit: side in pixels of the square patches that go together, by their mean.
        draws: random orders that the baseline averages; 0 for none (NaN).
        seed: of the random orders, and of the order of equal values.
        batch: images per forward.

    Raises:
        UsageError: maps of another shape or not finite, settings out of range, or see `attribute`.

    Paper: RISE: Randomized Input Sampling for Explanation of Black-box Models (arXiv 1806.07421).
    """
    return _area(model, images, target, maps, steps, fill, unit, draws, seed, batch, inserted=False)


def insertion_auc(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    maps: Maps,
    steps: int = 20,
    fill: str | Fill = "blur",
    unit: int = 1,
    draws: int = 1,
    seed: int = 0,
    batch: int = 64,
) -> PerturbationArea:
    """The score while the most salient pixels are put into an empty image first: the larger the area, the better.

    Args:
        fill: of pixels that are not there yet; a blurred picture as published.
        model, images, target, maps, steps, unit, draws, seed, batch: as in `deletion_auc`.

    Raises:
        UsageError: see `deletion_auc`.

    Paper: RISE: Randomized Input Sampling for Explanation of Black-box Models (arXiv 1806.07421).
    """
    return _area(model, images, target, maps, steps, fill, unit, draws, seed, batch, inserted=True)


def pixel_perturbation(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    maps: Maps,
    fractions: Sequence[float] = (0.001, 0.005, 0.01, 0.03, 0.05, 0.1),
    fill: str | Fill = "zero",
    unit: int = 1,
    draws: int = 1,
    seed: int = 0,
    batch: int = 64,
) -> PixelPerturbation:
    """The change of the score when the LEAST salient pixels are removed: small for a map that knows what is not needed.

    Removing the most salient ones mixes what they mean with the artefacts of holes; these few pixels hardly make any.

    Args:
        maps: as in `deletion_auc`; the least salient pixels are those of the smallest magnitude.
        fractions: shares of the pixels that are removed, each in (0, 1].
        model, images, target, fill, unit, draws, seed, batch: as in `deletion_auc`; black as published.

    Raises:
        UsageError: a fraction out of range, a score of zero (nothing can be relative to it), or see `deletion_auc`.

    Paper: Full-Gradient Representation for Neural Network Visualization (arXiv 1905.00780).
    """
    if not len(fractions) or any(not 0 < f <= 1 for f in fractions):
        raise UsageError(f"fractions {list(fractions)}: give shares of the pixels, each in (0, 1]")
    with scoring(model, images, target, batch=batch) as (scorer, pictures):
        ranks, blank = _orders(model, pictures, target, maps, unit, draws, seed, magnitude=True)
        before = scorer(pictures)
        if bool((before == 0).any()):
            raise UsageError("the score of an image is 0: no change is relative to it")
        empty = _fill(fill)(pictures)
        size = ranks[0][0].numel()
        curves = []
        for rank in ranks:
            lost = [rank >= size - kept_count(fraction, size) for fraction in fractions]
            after = [scorer(torch.where(_pixels(gone, unit, pictures), empty, pictures)) for gone in lost]
            curves.append(torch.stack([(score - before).abs() / before.abs() for score in after], dim=1))
    random = torch.stack(curves[1:]).mean(dim=0) if draws else torch.full_like(curves[0], torch.nan)
    return PixelPerturbation(tuple(fractions), curves[0].masked_fill(blank[:, None], torch.nan), random, blank)


@contextmanager
def scoring(model: Any, images: Any, target: Any, *, batch: int = 64) -> Iterator[tuple[Scorer, Tensor]]:
    """A function from changed versions (k B, C, H, W) of the images to scores (k B,), and the images as a batch.

    The target is resolved once, on the images as they are; forwards run in chunks, without gradients.

    Args:
        model, images, target: as in `attribute`.
        batch: images per forward.

    Raises:
        UsageError: see `attribute`.
    """
    check_number("batch", batch, least=1)
    observer = Observer(model)
    pictures = observer.images(images)
    dense = getattr(target, "on", "outputs") == "dense"
    way = observer.way([], dense)

    def outputs(changed: Tensor) -> Tensor:
        return torch.cat([observer.run(part, way=way).readable(dense) for part in changed.split(batch)])

    with observer.ready(), torch.no_grad():
        score = resolve(model, target, outputs(pictures))
        count = len(pictures)
        yield lambda changed: torch.cat([score(part) for part in outputs(changed).split(count)]), pictures


def _area(
    model: Any,
    images: Any,
    target: Any,
    maps: Maps,
    steps: int,
    fill: str | Fill,
    unit: int,
    draws: int,
    seed: int,
    batch: int,
    *,
    inserted: bool,
) -> PerturbationArea:
    check_number("steps", steps, least=1)
    with scoring(model, images, target, batch=batch) as (scorer, pictures):
        ranks, blank = _orders(model, pictures, target, maps, unit, draws, seed)
        empty = _fill(fill)(pictures)
        old, new = (empty, pictures) if inserted else (pictures, empty)
        size = ranks[0][0].numel()
        counts = sorted({kept_count(step / steps, size) for step in range(steps + 1)})
        # Nothing and everything changed are the same pictures in every order.
        ends = {0: scorer(old), size: scorer(new)}
        between = [count for count in counts if count not in ends]
        # Several steps a forward: small batches leave most of the time to overhead.
        at_once = max(1, batch // len(pictures))
        curves = []
        for rank in ranks:
            scores = dict(ends)
            for first in range(0, len(between), at_once):
                some = between[first : first + at_once]
                changed = torch.cat([torch.where(_pixels(rank < count, unit, old), new, old) for count in some])
                scores.update(zip(some, scorer(changed).split(len(pictures)), strict=True))
            curves.append(torch.stack([scores[count] for count in counts], dim=1))
    fractions = torch.tensor(counts, dtype=curves[0].dtype, device=curves[0].device) / size
    random = torch.stack(curves[1:]).mean(dim=0) if draws else torch.full_like(curves[0], torch.nan)
    return PerturbationArea(fractions, curves[0], random, blank)


def _orders(
    model: Any,
    pictures: Tensor,
    target: Any,
    maps: Maps,
    unit: int,
    draws: int,
    seed: int,
    magnitude: bool = False,
) -> tuple[list[Int[Tensor, "B h w"]], Bool[Tensor, "B"]]:
    """Places of the units from the most to the least salient, by the map and at random; and which maps are blank."""
    if unit < 1 or draws < 0:
        raise UsageError(f"unit must be at least 1 and draws at least 0, got {unit} and {draws}")
    silent = maps.blank if isinstance(maps, Attribution) else None
    if isinstance(maps, Attribution):
        maps = maps.maps()
    if not isinstance(maps, Tensor):
        with torch.enable_grad():
            maps = maps_of(maps)(model, pictures, target)
    expected = (len(pictures), *pictures.shape[-2:])
    if tuple(maps.shape) != expected:
        raise UsageError(f"maps are {tuple(maps.shape)}; for images {tuple(pictures.shape)} they must be {expected}")
    values = maps.detach().to(pictures.device).float()
    values = values.abs() if magnitude else values
    if unit > 1:
        values = functional.avg_pool2d(values[:, None], unit, ceil_mode=True, count_include_pad=False)[:, 0]
    generator = torch.Generator().manual_seed(seed)
    ours = ranking(values, generator)
    blank = blank_maps(values)
    blank = blank if silent is None else blank | silent.to(blank.device)
    return [ours, *(ranking(torch.zeros_like(values), generator) for _ in range(draws))], blank


def _pixels(units: Bool[Tensor, "B h w"], unit: int, images: Tensor) -> Bool[Tensor, "B 1 H W"]:
    """Units as pixels; those at the lower and right edge may be cut."""
    height, width = images.shape[-2:]
    return units.repeat_interleave(unit, 1).repeat_interleave(unit, 2)[:, None, :height, :width]


def _fill(fill: str | Fill) -> Fill:
    return fill if isinstance(fill, Fill) else Fill(fill)
