"""What instance metrics need of a picture: the areas of all instances and of all their intersections, counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: An integer label map (*S), 0 = nothing, or a boolean stack (N, *S) whose masks may overlap.
Instances: TypeAlias = "Integer[Tensor, '*S'] | Bool[Tensor, '_ *S'] | np.ndarray"
#: Pixels of a stack that are multiplied at a time; float32 counts them exactly.
BLOCK = 1 << 16
#: A dense product does about so many multiplications in the time of one of a sparse product.
SPARSE_COST = 32


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Areas of P predicted and G true instances and of the M pairs that intersect. Empty masks are left out.

    Attributes:
        predicted: (P,) areas in pixels: whole numbers of masks, any of boxes.
        true: (G,) areas in pixels.
        rows: (M,) prediction of each intersecting pair.
        columns: (M,) true instance of each intersecting pair.
        areas: (M,) pixels that both have.
        predicted_ids: (P,) label in the map, or place in the stack.
        true_ids: (G,) the same of the true instances.
        classes: (P,) class of each prediction, 0 if none was given.
        true_classes: (G,) the same of the true instances.
        scores: (P,) confidence, 1 if none was given.
        exempt: (P,) more than half of the prediction is ignored: it is no mistake if nothing matches it.
        crowd: (G,) stands for many instances that nobody parted (COCO's `iscrowd`).
        sizes: (G,) areas by which COCO's ranges of sizes go, `true` unless given.
        disjoint: no two predictions and no two true instances share a pixel.
    """

    predicted: Int[np.ndarray, "P"] | Float[np.ndarray, "P"]
    true: Int[np.ndarray, "G"] | Float[np.ndarray, "G"]
    rows: Int[np.ndarray, "M"]
    columns: Int[np.ndarray, "M"]
    areas: Int[np.ndarray, "M"] | Float[np.ndarray, "M"]
    predicted_ids: Int[np.ndarray, "P"]
    true_ids: Int[np.ndarray, "G"]
    classes: Int[np.ndarray, "P"]
    true_classes: Int[np.ndarray, "G"]
    scores: Float[np.ndarray, "P"]
    exempt: Bool[np.ndarray, "P"]
    crowd: Bool[np.ndarray, "G"]
    sizes: Float[np.ndarray, "G"]
    disjoint: bool

    @property
    def iou(self) -> Float[np.ndarray, "M"]:
        """Intersection over union of each pair; with a crowd, over the prediction alone."""
        own = self.predicted[self.rows]
        return self.areas / np.where(self.crowd[self.columns], own, own + self.true[self.columns] - self.areas)

    @property
    def dice(self) -> Float[np.ndarray, "M"]:
        """Dice coefficient of each pair."""
        return 2 * self.areas / (self.predicted[self.rows] + self.true[self.columns])

    def matrix(self, values: np.ndarray | None = None) -> Float[np.ndarray, "P G"]:
        """IoU, or other values of the pairs, as a full matrix."""
        full = np.zeros((len(self.predicted), len(self.true)))
        full[self.rows, self.columns] = self.iou if values is None else values
        return full


#: Arrays of `Overlaps` and the place of their length among (P, G, M).
ARRAYS = {
    "predicted": 0, "true": 1, "rows": 2, "columns": 2, "areas": 2, "predicted_ids": 0, "true_ids": 1, "classes": 0,
    "true_classes": 1, "scores": 0, "exempt": 0, "crowd": 1, "sizes": 1,
}  # fmt: skip
_KINDS: dict[str, type] = {"scores": np.float64, "sizes": np.float64, "exempt": np.bool_, "crowd": np.bool_}


def joined(images: Sequence[Overlaps], *, whole: bool = True) -> dict[str, Tensor]:
    """Pictures as tensors: each array of all of them joined, and `lengths`: P, G, M and disjoint of each.

    Args:
        images: of one kind.
        whole: whether areas are whole numbers, as those of masks; those of boxes are not.
    """
    kinds = _KINDS if whole else {**_KINDS, **dict.fromkeys(("predicted", "true", "areas"), np.float64)}
    lengths = [v for f in images for v in (len(f.predicted), len(f.true), len(f.rows), int(f.disjoint))]
    state = {"lengths": torch.tensor(lengths, dtype=torch.int64)}
    for name in ARRAYS:
        arrays = [np.zeros(0), *(getattr(overlaps, name) for overlaps in images)]
        state[name] = torch.from_numpy(np.concatenate(arrays).astype(kinds.get(name, np.int64)))
    return state


def parted(state: Mapping[str, Tensor]) -> list[Overlaps]:
    """Pictures from their tensors."""
    lengths = state["lengths"].reshape(-1, 4).numpy()
    stops = np.cumsum(lengths[:, :3], axis=0)
    images = []
    for end, (*sizes, disjoint) in zip(stops, lengths, strict=True):
        spans = [slice(stop - size, stop) for stop, size in zip(end, sizes, strict=True)]
        arrays = {name: state[name].numpy()[spans[place]] for name, place in ARRAYS.items()}
        images.append(Overlaps(**arrays, disjoint=bool(disjoint)))
    return images


class Matches(NamedTuple):
    """Pairs of which each instance has at most one.

    Attributes:
        rows: predictions.
        columns: true instances.
        iou: of each pair.
    """

    rows: Int[np.ndarray, "T"]
    columns: Int[np.ndarray, "T"]
    iou: Float[np.ndarray, "T"]


def overlaps(
    prediction: Instances,
    target: Instances,
    *,
    ignore: Any = None,
    classes: Sequence[int] | Tensor | np.ndarray | None = None,
    target_classes: Sequence[int] | Tensor | np.ndarray | None = None,
    scores: Sequence[float] | Tensor | np.ndarray | None = None,
    target_crowd: Sequence[bool] | Tensor | np.ndarray | None = None,
    target_areas: Sequence[float] | Tensor | np.ndarray | None = None,
) -> Overlaps:
    """Count the areas and intersections of the instances of one picture (or volume).

    One `bincount` where instances do not overlap, however many there are; a matrix product where they do, sparse if
    the masks are.

    Args:
        prediction: integer label map (*S), 0 = nothing; or boolean stack (N, *S), masks may overlap.
        target: the same of the true instances; the two need not be of one kind.
        ignore: bool (*S), pixels that are left out on both sides.
        classes: of the predictions, in the order of the stack or of the ascending labels. Instances of different
            classes never match.
        target_classes: the same of the true instances; needed with `classes`.
        scores: confidence of the predictions, in the same order; not NaN.
        target_crowd: which true instances are crowds, for `coco_average_precision` alone.
        target_areas: of the true instances, for COCO's ranges of sizes; None for those of the masks.

    Raises:
        UsageError: shapes, kinds or lengths that do not belong together; a NaN among the scores or areas; a stack of
            masks that are not boolean.
    """
    ours, true = _side("prediction", prediction), _side("target", target)
    if ours.shape != true.shape:
        raise UsageError(f"prediction is over {ours.shape} and target over {true.shape}; a boolean stack is (N, *S)")
    if (classes is None) != (target_classes is None):
        raise UsageError("give both classes and target_classes, or neither")
    outside = None if ignore is None else _array(ignore).astype(bool)
    if outside is not None and outside.shape != ours.shape:
        raise UsageError(f"ignore is over {outside.shape} and prediction over {ours.shape}")
    predicted = whole = ours.sizes()
    if outside is not None:
        ours, true = ours.without(outside.ravel()), true.without(outside.ravel())
        predicted = ours.sizes()
    there = true.sizes()
    rows, columns, areas = _intersections(ours, true)
    kept, present = np.flatnonzero(predicted), np.flatnonzero(there)
    # Empty instances intersect nothing, so only their numbers go.
    place, column = np.cumsum(predicted > 0) - 1, np.cumsum(there > 0) - 1
    own = _per_instance("classes", classes, ours, np.int64, 0)[kept]
    other = _per_instance("target_classes", target_classes, true, np.int64, 0)[present]
    rows, columns = place[rows], column[columns]
    same = own[rows] == other[columns]
    return Overlaps(
        predicted[kept],
        there[present],
        rows[same],
        columns[same],
        areas[same],
        ours.ids[kept],
        true.ids[present],
        own,
        other,
        _per_instance("scores", scores, ours, np.float64, 1)[kept],
        (2 * (whole - predicted) > whole)[kept],
        _per_instance("target_crowd", target_crowd, true, np.bool_, 0)[present],
        (there if target_areas is None else _per_instance("target_areas", target_areas, true, np.float64, 0))[
            present
        ].astype(np.float64),
        ours.labels is not None and true.labels is not None,
    )


def match(overlaps: Overlaps, threshold: float = 0.5, *, as_assigned: bool = False) -> Matches:
    """Pair predictions with true instances where their IoU exceeds a threshold.

    Above one half disjoint instances cannot match twice, so all pairs are taken. Otherwise the pairs are those of the
    assignment with the largest sum of IoU; pairs of which neither instance has another choice are not weighed.

    Args:
        found: areas and intersections.
        threshold: pairs need more than this IoU.
        as_assigned: keep every pair that was assigned, also those below the threshold that only fill the assignment
            up, as the code of SortedAP's authors does.
    """
    from scipy.optimize import linear_sum_assignment

    good = np.flatnonzero(overlaps.iou > threshold)
    ours, true, iou = overlaps.rows[good], overlaps.columns[good], overlaps.iou[good]
    if threshold >= 0.5 and overlaps.disjoint:
        return Matches(ours, true, iou)
    alone = np.zeros(len(good), dtype=bool)
    if not as_assigned and len(good):
        # Others' pairs do not touch theirs, so that the best assignment has them.
        alone = (np.bincount(ours)[ours] == 1) & (np.bincount(true)[true] == 1)
    rows, i = np.unique(ours[~alone], return_inverse=True)
    columns, j = np.unique(true[~alone], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[i, j] = iou[~alone]
    a, b = linear_sum_assignment(table, maximize=True)
    if as_assigned:
        return Matches(rows[a], columns[b], overlaps.matrix()[rows[a], columns[b]])
    a, b = a[table[a, b] > 0], b[table[a, b] > 0]
    return Matches(
        np.concatenate([ours[alone], rows[a]]),
        np.concatenate([true[alone], columns[b]]),
        np.concatenate([iou[alone], table[a, b]]),
    )


@dataclass(frozen=True)
class _Side:
    """One side's instances: numbers 1..N at each pixel where they are disjoint, else masks."""

    shape: tuple[int, ...]
    ids: np.ndarray
    labels: np.ndarray | None
    masks: np.ndarray | None

    def sizes(self) -> np.ndarray:
        if self.labels is not None:
            return np.bincount(self.labels, minlength=len(self.ids) + 1)[1:]
        return np.count_nonzero(self.masks, axis=1)  # type: ignore[arg-type]

    def without(self, outside: np.ndarray) -> _Side:
        if self.labels is not None:
            return replace(self, labels=np.where(outside, 0, self.labels))
        return replace(self, masks=self.masks & ~outside)

    def sparse(self) -> csr_array:
        """Masks (N, pixels) by the pixels that they have."""
        from scipy.sparse import csr_array

        shape = (len(self.ids), int(np.prod(self.shape)))
        if self.masks is not None:
            places = np.divmod(np.flatnonzero(self.masks), max(shape[1], 1))
        else:
            assert self.labels is not None
            pixels = np.flatnonzero(self.labels)
            places = self.labels[pixels] - 1, pixels
        return csr_array((np.ones(len(places[0]), dtype=np.int64), places), shape=shape)

    def block(self, start: int) -> np.ndarray:
        """Masks (N, pixels) of some pixels as float32."""
        if self.masks is not None:
            return self.masks[:, start : start + BLOCK].astype(np.float32)
        labels = self.labels[start : start + BLOCK]  # type: ignore[index]
        return (labels == np.arange(1, len(self.ids) + 1)[:, None]).astype(np.float32)


def _array(given: Any) -> np.ndarray:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def _side(name: str, given: Any) -> _Side:
    array = _array(given)
    if array.dtype == np.bool_:
        if array.ndim < 2:
            raise UsageError(f"{name} is a boolean stack of shape {array.shape}; it is (N, *S)")
        return _of_stack(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise UsageError(f"{name} is {array.dtype}; give an integer label map or a boolean stack (N, *S)")
    if array.dtype in (np.uint8, np.int8) and array.ndim > 2 and len(set(np.unique(array).tolist()) - {0}) == 1:
        # Read as the label map of a volume, all masks of what decoders call a mask would be one instance.
        raise UsageError(
            f"{name} is {array.dtype} of shape {array.shape} and holds one value beside 0: a stack of masks is boolean "
            "(.astype(bool)), the label map of a volume int32 or wider"
        )
    flat = array.ravel()
    if flat.size and int(flat.min()) < 0:
        raise UsageError(f"{name} has the label {int(flat.min())}; labels are 0 (nothing) and above")
    if flat.size and int(flat.max()) < 4 * flat.size:
        # Much cheaper than sorting the pixels, as `unique` does.
        ids = np.flatnonzero(np.bincount(flat))
        ids = ids[ids > 0]
        table = np.zeros(int(flat.max()) + 1, dtype=np.int64)
        table[ids] = np.arange(1, len(ids) + 1)
        return _Side(array.shape, ids, table[flat], None)
    values, numbers = np.unique(flat, return_inverse=True)
    first = int(bool(len(values)) and values[0] == 0)
    return _Side(array.shape, values[first:].astype(np.int64), numbers.ravel() + 1 - first, None)


def _of_stack(stack: np.ndarray) -> _Side:
    flat = np.ascontiguousarray(stack).reshape(len(stack), -1 if stack.size else int(np.prod(stack.shape[1:])))
    ids, pixels = np.arange(len(stack)), flat.shape[1]
    if np.count_nonzero(flat) <= pixels:
        cells = np.flatnonzero(flat)
        instances, places = np.divmod(cells, max(pixels, 1))
        labels = np.zeros(pixels, dtype=np.int64)
        labels[places] = instances + 1
        if np.count_nonzero(labels) == len(cells):
            return _Side(stack.shape[1:], ids, labels, None)
    return _Side(stack.shape[1:], ids, None, flat)


def _intersections(ours: _Side, true: _Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prediction, true instance, pixels) of all pairs that share a pixel."""
    width = len(true.ids) + 1
    if ours.labels is not None and true.labels is not None:
        keys, pixels, cells = ours.labels * width + true.labels, ours.labels.size, (len(ours.ids) + 1) * width
        if cells <= 4 * pixels + BLOCK:
            counts = np.bincount(keys, minlength=cells)
            keys = np.flatnonzero(counts)
            counts = counts[keys]
        else:
            keys, counts = np.unique(keys, return_counts=True)
        rows, columns = np.divmod(keys, width)
        overlapping = (rows > 0) & (columns > 0)
        return rows[overlapping] - 1, columns[overlapping] - 1, counts[overlapping]
    pixels, pairs = int(np.prod(ours.shape)), len(ours.ids) * len(true.ids)
    if all(SPARSE_COST * int(side.sizes().sum()) < len(side.ids) * pixels for side in (ours, true)):
        one, other = ours.sparse(), true.sparse()
        products = np.bincount(one.indices, minlength=pixels) @ np.bincount(other.indices, minlength=pixels)
        if SPARSE_COST * int(products) < pairs * pixels:
            shared = (one @ other.T).tocoo()
            order = np.lexsort((shared.col, shared.row))
            return shared.row[order].astype(np.int64), shared.col[order].astype(np.int64), shared.data[order]
    table = np.zeros((len(ours.ids), len(true.ids)), dtype=np.int64)
    for start in range(0, pixels, BLOCK):
        table += (ours.block(start) @ true.block(start).T).astype(np.int64)
    rows, columns = np.nonzero(table)
    return rows, columns, table[rows, columns]


def _per_instance(name: str, given: Any, side: _Side, kind: Any, default: int) -> np.ndarray:
    return per_instance(name, given, len(side.ids), kind, default)


def per_instance(name: str, given: Any, count: int, kind: Any, default: int) -> np.ndarray:
    """One value an instance, or the default of each.

    Raises:
        UsageError: another number of values, a NaN, a negative class.
    """
    if given is None:
        return np.full(count, default, dtype=kind)
    values = _array(given)
    if values.shape != (count,):
        raise UsageError(f"{name} has shape {values.shape} for {count} instances")
    if np.issubdtype(values.dtype, np.floating) and bool(np.isnan(values).any()):
        place = int(np.flatnonzero(np.isnan(values))[0])
        raise UsageError(f"{name}[{place}] is NaN: nothing can be ordered or compared by it")
    values = values.astype(kind)
    if kind is np.int64 and len(values) and values.min() < 0:
        raise UsageError(f"{name} has the class {values.min()}; classes are 0 and above")
    return values
