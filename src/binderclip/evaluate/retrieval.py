"""Retrieval in both directions, and zero-shot accuracy: what every training run is measured by."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError

__all__ = ["retrieval", "zero_shot_accuracy"]


def retrieval(
    image_features: Float[Tensor, "N E"],
    text_features: Float[Tensor, "N E"],
    *,
    captions: Sequence[Hashable] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """Recall at k: how often the right partner is among the k most similar of the other side.

    A partner with an equal caption counts as right. A wrong one that is exactly as similar as the best right one
    counts as ranked before it, so a model that answers the same for everything scores near zero, not near one.

    Args:
        image_features: (N, E) features of the images, raw or normalised.
        text_features: (N, E) features of their captions, in the same order.
        captions: (N,) captions, or any keys; None makes every pair its own.
        ks: the k of R@k.
        chunk: rows of the similarity matrix held at once; memory is chunk x N floats.

    Returns:
        `image_to_text/R@k` and `text_to_image/R@k` as shares in [0, 1], the median ranks (1 is best) as
        `image_to_text/median_rank` and `text_to_image/median_rank`, and `count`.

    Raises:
        UsageError: shapes or lengths do not match, nothing to rank, or a k below 1.
    """
    if image_features.shape != text_features.shape or image_features.ndim != 2 or not len(image_features):
        raise UsageError(
            "retrieval needs one text row for each image row, (N, E) both and N at least 1; got "
            f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
        )
    count = len(image_features)
    if captions is not None and len(captions) != count:
        raise UsageError(f"retrieval got {len(captions)} captions for {count} pairs")
    if not ks or min(ks) < 1:
        raise UsageError(f"ks must be whole numbers from 1, got {tuple(ks)}")
    numbers: dict[Hashable, int] = {}
    groups = torch.tensor([numbers.setdefault(c, len(numbers)) for c in captions or range(count)])
    groups = groups.to(image_features.device)
    image = functional.normalize(image_features.float(), dim=-1)
    text = functional.normalize(text_features.float(), dim=-1)
    figures: dict[str, float] = {"count": float(count)}
    for name, rows, columns in (("image_to_text", image, text), ("text_to_image", text, image)):
        ranks = _ranks(rows, columns, groups, chunk)
        figures |= {f"{name}/R@{k}": float((ranks < k).double().mean()) for k in ks}
        figures[f"{name}/median_rank"] = float(ranks.double().quantile(0.5)) + 1.0
    return figures


def _ranks(
    rows: Float[Tensor, "N E"], columns: Float[Tensor, "N E"], groups: Int[Tensor, "N"], chunk: int
) -> Int[Tensor, "N"]:
    """0-based rank of the best right column of each row."""
    ranks = []
    for start in range(0, len(rows), chunk):
        similarity = rows[start : start + chunk] @ columns.T
        right = groups[start : start + chunk, None] == groups
        best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((similarity >= best) & ~right).sum(dim=1))
    return torch.cat(ranks)


def zero_shot_accuracy(
    image_features: Float[Tensor, "N E"],
    classes: Float[Tensor, "C E"] | Any,
    labels: Int[Tensor, "N"] | Sequence[int],
    *,
    ks: Sequence[int] = (1, 5),
    chunk: int = 4096,
) -> dict[str, float]:
    """Share of images whose label is among the k classes with the most similar text.

    Args:
        image_features: (N, E) features of the images, raw or normalised.
        classes: (C, E) one vector a class, or a `TextBank` (its "mean-unit" prototypes).
        labels: (N,) index of the right class.
        ks: the k of top-k; k beyond C is left out.
        chunk: images scored at once.

    Returns:
        `accuracy` (top 1), `top{k}` for the other ks, `mean_class_accuracy` (mean over the classes that occur),
        `majority` (share of the commonest class: what a constant answer gets) and `count`.

    Raises:
        UsageError: lengths do not match, a label that no class has, or nothing to score.
    """
    vectors = classes if isinstance(classes, Tensor) else classes.prototypes("mean-unit")
    target = torch.as_tensor(labels, device=image_features.device)
    if len(target) != len(image_features) or not len(target):
        raise UsageError(f"zero_shot_accuracy got {len(target)} labels for {len(image_features)} images")
    if int(target.min()) < 0 or int(target.max()) >= len(vectors):
        raise UsageError(f"labels must lie in 0..{len(vectors) - 1}, got {int(target.min())}..{int(target.max())}")
    image = functional.normalize(image_features.float(), dim=-1)
    text = functional.normalize(vectors.to(image), dim=-1)
    top = torch.cat([(part @ text.T).topk(min(max(ks), len(text)), dim=1).indices for part in image.split(chunk)])
    hits = top == target[:, None]
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
