"""How right labels are near boundaries: bands that restrict the confusion matrix, and matched edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, SupportsFloat, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.metrics.accumulator import Accumulator
from binderclip.segment.metrics.confusion import IoU, IoUScore, is_counted

#: Tolerance of boundary scores as a fraction of the image's diagonal.
TOLERANCE = 0.02
#: The same of DAVIS.
DAVIS_TOLERANCE = 0.008
Edges = Literal["inner", "davis"]


def label_edges(labels: Int[Tensor, "*B H W"] | Bool[Tensor, "*B H W"]) -> Bool[Tensor, "*B H W"]:
    """Pixels of which one of the four neighbours has another label.

    The border of the image is no edge. Ignored labels are labels of their own here, so that an object within an
    ignored rim has one. Unlike the Laplacian of the label numbers this does not depend on how classes are numbered.
    """
    down = labels[..., 1:, :] != labels[..., :-1, :]
    right = labels[..., :, 1:] != labels[..., :, :-1]
    edges = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    edges[..., 1:, :] |= down
    edges[..., :-1, :] |= down
    edges[..., :, 1:] |= right
    edges[..., :, :-1] |= right
    return edges


def boundary_band(labels: Int[Tensor, "*B H W"], *, width: int = 15) -> Bool[Tensor, "*B H W"]:
    """Pixels near an edge of a label map: the edges, dilated by a square.

    Args:
        labels: label maps.
        width: side of the square in pixels, odd.

    Raises:
        UsageError: a width that is even or below 1.
    """
    if width < 1 or width % 2 == 0:
        raise UsageError(f"width must be odd and at least 1, not {width}")
    edges = label_edges(labels)
    flat = edges.reshape(-1, 1, *labels.shape[-2:]).float()
    # A square is a row after a column.
    flat = max_pool2d(flat, (width, 1), stride=1, padding=(width // 2, 0))
    flat = max_pool2d(flat, (1, width), stride=1, padding=(0, width // 2))
    return (flat > 0).reshape(labels.shape)


@dataclass(frozen=True)
class BoundaryErrorScore:
    """Errors in the bands around predicted and true boundaries; NaN where a band held no counted pixel.

    Attributes:
        ferr: false responses: 1 - mean class accuracy in the prediction's band.
        merr: merging mistakes: the same in the target's band.
        derr: displacements: the same where both bands overlap.
        biou: mean IoU where either band is, over the classes that occur or are predicted there.
        bacc: mean class accuracy where either band is.
        bands: all scores of `prediction`, `target`, `both` and `either`; a band without pixels is missing.
    """

    ferr: float
    merr: float
    derr: float
    biou: float
    bacc: float
    bands: dict[str, IoUScore]


class BoundaryErrors(Accumulator):
    """False responses, merging mistakes and displacements: class errors in bands around boundaries.

    Four confusion matrices of all images, each restricted to a band, give all five numbers. The band's width is in
    pixels: 15 is the paper's for images of about 512 px, so scale it with yours (5 at 64 px).

    Args:
        classes: number of classes C.
        width: side in pixels of the square that dilates the edges, odd.
        ignore: target value that is left out (255 is too).

    Raises:
        UsageError: fewer than one class, or a width that is even or below 1.

    Paper: When Semantic Segmentation Meets Frequency Aliasing (arXiv 2403.09065).
    """

    settings = ("classes", "width", "ignore")

    def __init__(self, classes: int, *, width: int = 15, ignore: int = -1) -> None:
        if width < 1 or width % 2 == 0:
            raise UsageError(f"width must be odd and at least 1, not {width}")
        self.classes, self.width, self.ignore = classes, width, ignore
        self.bands = {name: IoU(classes, ignore=ignore) for name in ("prediction", "target", "both", "either")}

    def reset(self) -> None:
        """Forget everything."""
        for band in self.bands.values():
            band.reset()

    def update(self, prediction: Int[Tensor, "*B H W"], target: Int[Tensor, "*B H W"]) -> None:
        """Add label maps.

        Raises:
            UsageError: shapes that differ, or a label that is no class.
        """
        if prediction.shape != target.shape or prediction.ndim < 2:
            raise UsageError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must be label maps (..., H, W) "
                "of one shape"
            )
        ours, true = boundary_band(prediction, width=self.width), boundary_band(target, width=self.width)
        where = {"prediction": ours, "target": true, "both": ours & true, "either": ours | true}
        for name, mask in where.items():
            self.bands[name].update(prediction, target, where=mask)

    def state_dict(self) -> dict[str, Tensor]:
        """Confusion matrices (4, C, C + 1) of the bands."""
        return {"bands": torch.stack([band.confusion for band in self.bands.values()])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        for band, confusion in zip(self.bands.values(), state["bands"], strict=True):
            band.confusion = confusion.clone()

    def compute(self) -> BoundaryErrorScore:
        """The scores of everything seen.

        Raises:
            UsageError: no boundary was seen.
        """
        seen = {name: band.compute() for name, band in self.bands.items() if int(band.confusion.sum())}
        if "either" not in seen:
            raise UsageError("no boundary to score: every map had one label, or update was not called")

        def error(name: str) -> float:
            return 1 - seen[name].class_accuracy if name in seen else math.nan

        either = seen["either"]
        return BoundaryErrorScore(
            error("prediction"),
            error("target"),
            error("both"),
            float(either.per_class.nanmean()),
            either.class_accuracy,
            seen,
        )


def boundary_errors(
    prediction: Int[Tensor, "*B H W"], target: Int[Tensor, "*B H W"], *, classes: int, width: int = 15, ignore: int = -1
) -> BoundaryErrorScore:
    """`BoundaryErrors` of label maps in one call.

    Raises:
        UsageError: as `BoundaryErrors`.
    """
    accumulator = BoundaryErrors(classes, width=width, ignore=ignore)
    accumulator.update(prediction, target)
    return accumulator.compute()


def boundary_tolerance(height: int, width: int, fraction: float = TOLERANCE) -> int:
    """Tolerance in pixels: a rounded fraction of the diagonal, at least 1."""
    return max(1, round(fraction * math.hypot(height, width)))


@dataclass(frozen=True)
class BoundaryFScore:
    """How well predicted and true edges of each class lie on one another.

    Attributes:
        per_class: (C,) F1 of precision and recall, NaN for classes without any edge.
        mean: mean over the classes with a true edge.
        precision: (C,) share of predicted edge pixels that lie within the tolerance of a true one.
        recall: (C,) share of true edge pixels that lie within the tolerance of a predicted one.
    """

    per_class: Float[Tensor, "C"]
    mean: float
    precision: Float[Tensor, "C"]
    recall: Float[Tensor, "C"]


class BoundaryF(Accumulator):
    """F1 of boundaries that may miss one another by a tolerance, edge pixels pooled over all images.

    A pixel of a class is its edge if one of its four neighbours in the image is not of the class. Distances are
    Euclidean between pixel centres.

    Args:
        classes: number of classes C.
        tolerance: in pixels if an integer of any type or a float of at least 1 (a whole one, such as 2.0); as a
            fraction of the diagonal (rounded, at least 1 px) if a float below 1.
        ignore: target value that is left out (255 is too): no edges beside it count, on either side.

    Raises:
        UsageError: fewer than one class, or a tolerance that is negative, no number, or pixels and a half.
    """

    settings = ("classes", "tolerance", "ignore")

    def __init__(self, classes: int, *, tolerance: SupportsFloat = TOLERANCE, ignore: int = -1) -> None:
        check_number("classes", classes, least=1)
        self.classes, self.tolerance, self.ignore = classes, _tolerance(tolerance), ignore
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # Rows: predicted edge pixels, those that are near, true edge pixels, those that are near.
        self.counts = torch.zeros(4, self.classes, dtype=torch.int64)

    def update(self, prediction: Int[Tensor, "*B H W"], target: Int[Tensor, "*B H W"]) -> None:
        """Add label maps.

        Raises:
            UsageError: shapes that differ.
        """
        if prediction.shape != target.shape or prediction.ndim < 2:
            raise UsageError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must be label maps (..., H, W) "
                "of one shape"
            )
        size = prediction.shape[-2:]
        limit = _pixels(self.tolerance, *size)
        for ours, true in zip(prediction.reshape(-1, *size).cpu(), target.reshape(-1, *size).cpu(), strict=True):
            out = ~is_counted(true, self.classes, self.ignore)
            beside = label_edges(out.long()) | out
            places = [(label_edges(each) & ~beside).nonzero().numpy() for each in (ours, true)]
            labels = [each.numpy()[tuple(p.T)] for each, p in zip((ours, true), places, strict=True)]
            for label in np.union1d(*labels).tolist():
                if 0 <= label < self.classes:
                    own, other = (p[of == label] for p, of in zip(places, labels, strict=True))
                    self.counts[:, label] += torch.tensor(_near(own, other, limit))

    def state_dict(self) -> dict[str, Tensor]:
        """Edge pixels (4, C): predicted, near a true one, true, near a predicted one."""
        return {"counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.counts = state["counts"].clone()

    def compute(self) -> BoundaryFScore:
        """The scores of everything seen.

        Raises:
            UsageError: the targets had no edge.
        """
        predicted, hit, true, recalled = self.counts.double()
        if not true.sum():
            raise UsageError("no boundary to score: the targets had no edge, or update was not called")
        precision, recall = hit / predicted, recalled / true  # 0 / 0 is NaN
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        f = torch.where((predicted > 0) ^ (true > 0), torch.zeros_like(f), f)
        return BoundaryFScore(f, float(f[true > 0].mean()), precision, recall)


def boundary_f(
    prediction: Bool[Tensor, "*B H W"],
    target: Bool[Tensor, "*B H W"],
    *,
    tolerance: SupportsFloat | None = None,
    edges: Edges = "inner",
) -> Float[Tensor, "*B"]:
    """F1 of the boundaries of pairs of binary masks: which edge pixels have one of the other mask within the tolerance.

    Args:
        prediction: masks.
        target: masks of the same shape.
        tolerance: in pixels if an integer of any type or a float of at least 1 (a whole one, such as 2.0); as a
            fraction of the diagonal if a float below 1, rounded and at least 1 px for `inner`, rounded up for `davis`.
            None is 0.02 for `inner` and 0.008 for `davis`.
        edges: `inner`: pixels of the mask with one of four neighbours outside it, the border of the image apart.
            `davis`: the contour accuracy F of the DAVIS challenges: pixels that differ from their right, lower or
            lower-right neighbour, matched by dilating the other contour with a disk.

    Returns:
        One score a pair. If neither mask has an edge: for `inner` 1 if they are equal, else 0; for `davis` 1.

    Raises:
        UsageError: shapes that differ, unknown edges, or a tolerance as in `BoundaryF`.

    Paper of `davis`: Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation
    (CVPR 2016); as computed by davis2017-evaluation.
    """
    if edges not in get_args(Edges):
        raise UsageError(f"edges must be inner or davis, not {edges!r}")
    if prediction.shape != target.shape or prediction.ndim < 2:
        raise UsageError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    size = prediction.shape[-2:]
    davis = edges == "davis"
    chosen = (DAVIS_TOLERANCE if davis else TOLERANCE) if tolerance is None else tolerance
    limit = _pixels(_tolerance(chosen), size[0], size[1], up=davis)
    find = _davis_contour if davis else lambda mask: label_edges(mask.long()) & mask
    scores = []
    pairs = zip(prediction.reshape(-1, *size).cpu().bool(), target.reshape(-1, *size).cpu().bool(), strict=True)
    for ours, true in pairs:
        own, other = (find(mask).nonzero().numpy() for mask in (ours, true))
        predicted, hit, there, recalled = _near(own, other, limit)
        if not predicted and not there:
            scores.append(1.0 if davis else float(torch.equal(ours, true)))
        elif not hit or not recalled:
            scores.append(0.0)
        else:
            precision, recall = hit / predicted, recalled / there
            scores.append(2 * precision * recall / (precision + recall))
    return torch.tensor(scores, dtype=torch.float64).reshape(prediction.shape[:-2])


def _davis_contour(mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Pixels that differ from the one to the right, below or diagonally below, as far as these are in the image."""
    contour = torch.zeros_like(mask)
    contour[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    contour[:-1] |= mask[:-1] ^ mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return contour


def _tolerance(given: SupportsFloat) -> int | float:
    """Pixels as an integer, a fraction of the diagonal as a float.

    Raises:
        UsageError: neither.
    """
    value = given.item() if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 0 else given
    number: Any = value if isinstance(value, Real) else math.nan
    if 0 <= number < math.inf and (number < 1 or number == int(number)):
        return float(number) if number < 1 and not isinstance(number, Integral) else int(number)
    raise UsageError(f"tolerance must be whole pixels >= 0 or a fraction of the diagonal below 1, not {given!r}")


def _pixels(tolerance: int | float, height: int, width: int, up: bool = False) -> int:
    if isinstance(tolerance, int):
        return tolerance
    return math.ceil(tolerance * math.hypot(height, width)) if up else boundary_tolerance(height, width, tolerance)


def _near(a: Int[np.ndarray, "N 2"], b: Int[np.ndarray, "M 2"], limit: int) -> tuple[int, int, int, int]:
    """(predicted edge pixels, those within the limit of a true one, true edge pixels, those near a predicted one)."""
    from scipy.spatial import KDTree

    if not len(a) or not len(b):
        return len(a), 0, len(b), 0
    # Edges are few among the pixels, so that a tree is much faster than a distance map. The bound itself is excluded;
    # the next distance beyond an integer L is more than 1 / (2 L + 1) larger.
    bound = limit + 1 / (2 * limit + 2)
    hits = [int(np.isfinite(KDTree(y).query(x, distance_upper_bound=bound)[0]).sum()) for x, y in ((a, b), (b, a))]
    return len(a), hits[0], len(b), hits[1]
