"""Retrieval in both directions, and zero-shot accuracy: what every training run is measured by."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.similarity.arrays import Rows, as_features, as_indices, as_ks
from binderclip.similarity.geometry import Cosine, Similarity

__all__ = ["retrieval", "zero_shot_accuracy"]


def retrieval(
    image_features: Rows,
    text_features: Rows,
    *,
    captions: Sequence[Hashable] | None = None,
    image_index: Integer[Tensor, "M"] | Integer[np.ndarray, "M"] | Sequence[int] | None = None,
    ks: int | Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
    similarity: Similarity | None = None,
) -> dict[str, float]:
    """Recall at k: how often a right partner is among the k most similar of the other side.

    Each text is right for its own image; with `captions` also for every image that has an equal caption. An image with
    several texts is found by any of them: `image_to_text` counts an image as a hit if at least one of its texts is
    among the first k, `text_to_image` asks each text for its image. With `image_index` and without `captions` this is
    the recall of clip_benchmark (and of the CLIP papers on Flickr30k and COCO).

    A wrong partner that is exactly as similar as the best right one counts as ranked before it, so a model that
    answers the same for everything scores near zero, not near one. So does one that is no number: features with NaN or
    infinities are no hits.

    Args:
        image_features: (N, E) features of the images, raw or normalised; a tensor or an array.
        text_features: (M, E) features of their captions.
        captions: (M,) captions, or any keys, equal for texts that are to count as one; None makes each its own.
        image_index: (M,) which image each text describes, in 0..N-1; None: text i describes image i, and M is N.
        ks: the k of R@k, one or several.
        chunk: rows of the similarity matrix held at once; memory is chunk x max(N, M) floats.
        similarity: geometry that features are compared in (`losses.SIMILARITIES`); None: cosine.

    Returns:
        `image_to_text/R@k` (mean over images) and `text_to_image/R@k` (mean over texts) as shares in [0, 1], the median
        ranks (1 is best) as `image_to_text/median_rank` and `text_to_image/median_rank`, `count` (N) and, with
        `image_index`, `captions` (M).

    Raises:
        UsageError: shapes or lengths do not match, nothing to rank, an index without an image, an image without a text,
            or a k below 1.
    """
    image_features, text_features = (
        each if isinstance(each, Tensor) else as_features(name, each)
        for name, each in (("image_features", image_features), ("text_features", text_features))
    )
    owners = _owners(image_features, text_features, captions, image_index)
    ks = as_ks(ks)
    partners = _Partners(owners, captions, len(image_features))
    geometry = Cosine() if similarity is None else similarity
    image, text = geometry.embed(image_features.float(), "image"), geometry.embed(text_features.float(), "text")
    figures: dict[str, float] = {"count": float(len(image))}
    if image_index is not None:
        figures["captions"] = float(len(text))
    ways: tuple[tuple[str, Compare, int, int, Right], ...] = (
        ("image_to_text", lambda i, j: geometry(image[i:j], text), len(image), len(text), partners.texts_of),
        ("text_to_image", lambda i, j: geometry(image, text[i:j]).T, len(text), len(image), partners.images_of),
    )
    for name, compare, rows, columns, right in ways:
        ranks = _ranks(compare, rows, columns, right, chunk)
        figures |= {f"{name}/R@{k}": float((ranks < min(k, columns)).double().mean()) for k in ks}
        figures[f"{name}/median_rank"] = float(ranks.double().quantile(0.5)) + 1.0
    return figures


def _owners(
    image_features: Tensor, text_features: Tensor, captions: Sequence[Hashable] | None, image_index: Any
) -> Int[Tensor, "M"]:
    """The image of each text, checked."""
    shapes = f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
    flat = image_features.ndim == text_features.ndim == 2 and image_features.shape[1] == text_features.shape[1]
    if not flat or not len(image_features) or not len(text_features):
        raise UsageError(f"retrieval needs images (N, E) and texts (M, E), at least one of each; got {shapes}")
    count, texts = len(image_features), len(text_features)
    if image_index is None and count != texts:
        raise UsageError(
            f"retrieval needs one text row for each image row; got {shapes}: say with image_index which image each "
            "text describes"
        )
    if captions is not None and len(captions) != texts:
        raise UsageError(f"retrieval got {len(captions)} captions for {texts} texts")
    device = image_features.device
    if image_index is None:
        return torch.arange(count, device=device)
    owners = as_indices("image_index", image_index, texts).to(device)
    if int(owners.min()) < 0 or int(owners.max()) >= count:
        raise UsageError(f"image_index runs from {int(owners.min())} to {int(owners.max())}; images are 0..{count - 1}")
    counts = torch.bincount(owners, minlength=count)
    if not bool(counts.all()):
        raise UsageError(f"image {int((counts == 0).nonzero()[0])} has no text, so no text can find it")
    return owners


class _Partners:
    """Which texts are right for which images: those of the image, and with captions all that equal one of them."""

    def __init__(self, owners: Int[Tensor, "M"], captions: Sequence[Hashable] | None, count: int) -> None:
        numbers: dict[Hashable, int] = {}
        keys = range(len(owners)) if captions is None else captions
        self.group = torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], device=owners.device)
        self.image, self.count, self.groups = owners, count, len(numbers)

    def texts_of(self, start: int, stop: int) -> Bool[Tensor, "n M"]:
        """Rows `start` to `stop` of the images against all texts."""
        inside = (self.image >= start) & (self.image < stop)
        named = torch.zeros(stop - start, self.groups, dtype=torch.bool, device=self.image.device)
        named[self.image[inside] - start, self.group[inside]] = True
        return named[:, self.group]

    def images_of(self, start: int, stop: int) -> Bool[Tensor, "n N"]:
        """Rows `start` to `stop` of the texts against all images."""
        groups, row = torch.unique(self.group[start:stop], return_inverse=True)
        place = torch.full((self.groups,), -1, device=groups.device)
        place[groups] = torch.arange(len(groups), device=groups.device)
        inside = place[self.group] >= 0
        shown = torch.zeros(len(groups), self.count, dtype=torch.bool, device=groups.device)
        shown[place[self.group[inside]], self.image[inside]] = True
        return shown[row]


Right = Callable[[int, int], Bool[Tensor, "n C"]]
Compare = Callable[[int, int], Float[Tensor, "n C"]]
"""From the first and the last row but one to the similarities of these rows with all columns."""


def _ranks(compare: Compare, rows: int, columns: int, right: Right, chunk: int) -> Int[Tensor, "R"]:
    """0-based rank of the best right column of each row, C where its similarity is no number."""
    ranks = []
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        similarity, hits = compare(start, stop), right(start, stop)
        unknown = similarity.isnan()
        best = similarity.masked_fill(~hits | unknown, -torch.inf).amax(dim=1, keepdim=True)
        rank = (((similarity >= best) | unknown) & ~hits).sum(dim=1)
        ranks.append(rank.masked_fill(best[:, 0] == -torch.inf, columns))
    return torch.cat(ranks)


def zero_shot_accuracy(
    image_features: Rows,
    classes: Any,
    labels: Integer[Tensor, "N"] | Integer[np.ndarray, "N"] | Sequence[int],
    *,
    ks: int | Sequence[int] = (1, 5),
    chunk: int = 4096,
    similarity: Similarity | None = None,
) -> dict[str, float]:
    """Share of images whose label is among the k classes with the most similar text; NaN is no hit.

    Args:
        image_features: (N, E) features of the images, raw or normalised; a tensor or an array.
        classes: (C, E) one vector a class, or a `TextBank`: its `class_points`.
        labels: (N,) index of the right class, of any whole-number type.
        ks: the k of top-k, one or several; k beyond C is left out.
        chunk: images scored at once.
        similarity: geometry that features are compared in (`losses.SIMILARITIES`); None: the bank's, else cosine.

    Returns:
        `accuracy` (top 1), `top{k}` for the other ks, `mean_class_accuracy` (mean over the classes that occur),
        `majority` (share of the commonest class: what a constant answer gets) and `count`.

    Raises:
        UsageError: lengths do not match, a label that no class has, or nothing to score.
    """
    image_features, ks = as_features("image_features", image_features), as_ks(ks)
    if isinstance(classes, (np.ndarray, list, tuple)):
        classes = as_features("classes", classes)
    bank = None if isinstance(classes, Tensor) else classes
    geometry = similarity or (None if bank is None else bank.geometry) or Cosine()
    target = as_indices("labels", labels).to(image_features.device)
    if len(target) != len(image_features) or not len(target):
        raise UsageError(f"zero_shot_accuracy got {len(target)} labels for {len(image_features)} images")
    if int(target.min()) < 0 or int(target.max()) >= len(classes):
        raise UsageError(f"labels must lie in 0..{len(classes) - 1}, got {int(target.min())}..{int(target.max())}")
    image = geometry.embed(image_features.float(), "image")
    if bank is None or type(geometry) is Cosine:  # a row of its own for each class, brought to unit length here
        rows = classes if bank is None else bank.class_points(geometry)
        text = geometry.embed(rows.to(image), "text")
    else:
        text = bank.class_points(geometry).to(image)
    tops, known = [], []
    for part, right in zip(image.split(chunk), target.split(chunk), strict=True):
        similar = geometry(part, text)
        tops.append(similar.topk(min(max(ks), len(text)), dim=1).indices)
        known.append(~similar.gather(1, right[:, None].long()).isnan())
    hits = (torch.cat(tops) == target[:, None]) & torch.cat(known)
    counts = torch.bincount(target, minlength=len(text)).double()
    correct = torch.bincount(target, weights=hits[:, 0].double(), minlength=len(text))
    figures = {
        "accuracy": float(hits[:, 0].double().mean()),
        "mean_class_accuracy": float((correct / counts)[counts > 0].mean()),
        "majority": float(counts.max() / len(target)),
        "count": float(len(target)),
    }
    figures |= {f"top{k}": float(hits[:, :k].any(dim=1).double().mean()) for k in ks if 1 < k <= len(text)}
    return figures
