"""Several labels a picture: pseudo-labels from the whole picture and its tiles, and the metric they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score
from torch import Tensor

from binderclip.adapt.prior import prior_rows
from binderclip.data.windows import Windows, unfold
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


def mean_average_precision(truth: Any, scores: Any) -> float:
    """Mean over classes of the average precision of ranking the pictures by a class's score.

    Args:
        truth: (N, C), nonzero where a picture shows the class. Classes that no picture shows are left out.
        scores: (N, C), higher is likelier; only the order within a class counts.

    Raises:
        UsageError: shapes that differ, or no class that occurs.
    """
    there, values = np.asarray(truth) != 0, np.asarray(scores, dtype=np.float64)
    if there.shape != values.shape or there.ndim != 2:
        raise UsageError(f"truth {there.shape} and scores {values.shape} must both be (N, C)")
    occurs = there.any(0)
    if not occurs.any():
        raise UsageError("truth has no class that occurs")
    return float(average_precision_score(there[:, occurs], values[:, occurs], average="macro"))


def tiles(images: Float[Tensor, "B 3 H W"], n: int) -> Float[Tensor, "B V 3 h w"]:
    """n x n equal tiles of each picture, row by row; what does not divide is dropped at the right and the bottom.

    Raises:
        UsageError: n below 1, or a picture with fewer than n pixels a side.
    """
    height, width = images.shape[-2:]
    if not 1 <= n <= min(height, width):
        raise UsageError(f"n is {n}; it is a number of tiles a side, from 1 to {min(height, width)} here")
    shape = height // n, width // n
    whole = n * shape[0], n * shape[1]
    return unfold(images[..., : whole[0], : whole[1]], Windows.over(whole, shape, shape))


@torch.no_grad()
def tile_features(model: ImageTextModel, images: Any, n: int = 3, *, batch_size: int = 64) -> Float[Tensor, "N V E"]:
    """Raw features of each picture and of its n x n tiles: what `TileAggregator` and `CDUL` take.

    Args:
        model: encodes; each tile is preprocessed like a picture of its own.
        images: float (N, 3, H, W) in [0, 1], or a sequence of pictures or paths of any sizes.
        n: tiles a side; the paper's reproduction finds that 3 (nine tiles) is what works.
        batch_size: views that go through the model at once.

    Returns:
        (N, 1 + n * n, E) on the CPU; the whole picture first.

    Raises:
        UsageError: see `tiles`; no picture.
        DataError: a picture that cannot be read.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        parts = tiles(images, n)
        whole = model.encode_image(images, batch_size=batch_size)
        cut = model.encode_image(parts.flatten(0, 1), batch_size=batch_size)
        return torch.cat([whole[:, None], cut.unflatten(0, parts.shape[:2])], 1).float().cpu()
    items = list(images)
    if not items:
        raise UsageError("images is empty: give at least one")
    return torch.cat([tile_features(model, _pixels(item)[None], n, batch_size=batch_size) for item in items])


def _pixels(item: Any) -> Float[Tensor, "3 H W"]:
    from binderclip.data.images import open_image, to_tensor

    return item if isinstance(item, Tensor) and item.is_floating_point() else to_tensor(open_image(item))


@dataclass(frozen=True)
class PseudoLabels:
    """Soft labels of N pictures in C classes.

    Attributes:
        classes: their names.
        whole: (N, C) softmax of the whole picture, rows sum to 1.
        tiles: (N, C) aggregated over the tiles; in (0, 1), rows do not sum to 1.
        labels: (N, C) of both together.
    """

    classes: list[Any]
    whole: Float[Tensor, "N C"]
    tiles: Float[Tensor, "N C"]
    labels: Float[Tensor, "N C"]


class TileAggregator:
    """Multi-label pseudo-labels without annotation: a picture and its tiles are classified, the tiles' best counts.

    A softmax over the whole picture names its main object; small objects win in a tile of their own. A class gets the
    largest probability a_c that any tile gives it where a_c >= `threshold`, else the smallest, and the label is the
    mean of this and the whole picture's probability.

    Args:
        bank: text side of the classes: a `TextBank`, a `ZeroShotClassifier`, a mapping from class to row, or an array
            with `classes`.
        classes: names of the rows of an array.
        threshold: in [0, 1]; 0 always takes the largest, as the reproduction recommends.
        scale: factor on the cosines before the softmax; None: the bank's own, else 100.
        fusion: lambda_f in 0.5 (whole + tiles + lambda_f |whole - tiles|): 0 is the mean, 1 the maximum, -1 the
            minimum of both.

    Call it with views (N, V, d): features of the whole picture first, then of its tiles (`tile_features`).

    Raises:
        UsageError: a setting out of range, or views of another width than the bank.

    Paper: Reproducibility Study of CDUL: CLIP-Driven Unsupervised Learning for Multi-Label Image Classification
    (arXiv 2405.11574).

    Examples:
        >>> bank = model.text_bank(["cat", "dog", "tree"], templates="a photo of a {}")  # doctest: +SKIP
        >>> pseudo = TileAggregator(bank)(tile_features(model, images, 3))  # doctest: +SKIP
    """

    def __init__(
        self,
        bank: Any,
        *,
        classes: Sequence[Any] | None = None,
        threshold: float = 0.0,
        scale: float | None = None,
        fusion: float = 0.0,
    ) -> None:
        names, rows, own = prior_rows(bank, classes)
        self.classes, self.rows = names, rows
        self.scale = float(scale if scale is not None else own if own is not None else 100.0)
        if not threshold >= 0 or not -1 <= fusion <= 1 or not self.scale > 0:
            raise UsageError(
                f"threshold {threshold} is at least 0, fusion {fusion} in [-1, 1] and scale {self.scale} above 0"
            )
        self.threshold, self.fusion = float(threshold), float(fusion)

    def __call__(self, views: Float[Tensor, "N V d"]) -> PseudoLabels:
        x = torch.as_tensor(views)
        if x.ndim != 3 or x.shape[-1] != self.rows.shape[1]:
            raise UsageError(f"views are (N, V, {self.rows.shape[1]}), the whole picture first; got {tuple(x.shape)}")
        cosines = F.normalize(x.double(), dim=-1) @ self.rows.to(x.device).T
        probs = (self.scale * cosines).softmax(-1)
        whole, parts = probs[:, 0], probs[:, 1:] if x.shape[1] > 1 else probs
        most = parts.amax(1)
        local = torch.where(most >= self.threshold, most, parts.amin(1))
        labels = 0.5 * (whole + local + self.fusion * (whole - local).abs())
        return PseudoLabels(list(self.classes), whole, local, labels)


def indicator(names: Sequence[Sequence[Any]], classes: Sequence[Any]) -> Bool[Tensor, "N C"]:
    """(N, C), True where a picture shows a class: from the names of what each shows; other names count nowhere."""
    return torch.tensor([[name in set(own) for name in classes] for own in names])
