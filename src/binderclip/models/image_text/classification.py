"""What `classify` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Classification:
    """Scores of N images for C labels.

    Args:
        labels: the C labels, in the order of the columns.
        probs: (N, C) softmax over the labels; for models trained with a logit bias (SigLIP) the sigmoid of each logit,
            so rows need not sum to one.
        logits: (N, C) scale times similarity (for most models the cosine), plus the bias where the model has one.
        keys: the N names of the images (paths where files were given, else their positions).
        skipped: (key, reason) of the images left out.
        shown: how many labels `top()` and `table()` give when not told.
    """

    labels: list[str]
    probs: Float[Tensor, "N C"]
    logits: Float[Tensor, "N C"]
    keys: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    shown: int | None = None

    def __len__(self) -> int:
        return len(self.probs)

    @property
    def best(self) -> list[str]:
        """The most probable label of each image."""
        return [self.labels[c] for c in self.logits.argmax(dim=-1).tolist()] if len(self) else []

    def top(self, k: int | None = None) -> list[list[tuple[str, float]]]:
        """For each image the `k` best (label, probability), best first.

        Raises:
            UsageError: `k` below 1.
        """
        k = self.shown if k is None else k
        if k is not None and k < 1:
            raise UsageError(f"top must be at least 1, got {k}")
        k = min(k or len(self.labels), len(self.labels))
        order = self.logits.argsort(dim=-1, descending=True, stable=True)[:, :k].tolist()
        probs = self.probs.tolist()
        return [[(self.labels[c], probs[n][c]) for c in row] for n, row in enumerate(order)]

    def table(self, k: int | None = None) -> str:
        """The best labels as lines of text, one an image."""
        keys = self.keys or [str(n) for n in range(len(self))]
        width = max((len(key) for key in keys), default=0)
        return "\n".join(
            f"{key:<{width}}  " + "  ".join(f"{label} {prob:.3f}" for label, prob in row)
            for key, row in zip(keys, self.top(k), strict=True)
        )

    def _named(self, k: int) -> list[tuple[str, list[tuple[str, float]]]]:
        """(key, best labels) of the images that a notebook shows."""
        keys = self.keys or [str(n) for n in range(len(self))]
        return list(zip(keys, self.top(k), strict=True))

    def _repr_html_(self) -> str:
        """The pictures with their best labels, in a notebook; their names alone where they came from no files."""
        from binderclip.display import MOST, sheet_html

        entries = []
        for number, (key, row) in enumerate(self._named(3)):
            labels = ", ".join(f"{label} {prob:.2f}" for label, prob in row)
            picture = _picture(key) if number < MOST else None
            entries.append((picture, labels if picture is not None else f"{key}: {labels}"))
        return sheet_html(entries)

    def plot(self, k: int = 5) -> Any:
        """A matplotlib figure: each picture beside the bars of its `k` best labels (the first eight pictures).

        Raises:
            UsageError: `k` below 1, or no picture was classified.
        """
        from binderclip.display import bars, new_figure

        if not len(self):
            raise UsageError("no picture was classified: there is nothing to plot")
        shown = self._named(k)[:8]
        figure = new_figure(7, 1.8 * len(shown))
        grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[1, 2])
        for (left, right), (key, row) in zip(grid, shown, strict=True):
            left.axis("off")
            picture = _picture(key)
            if picture is not None:
                left.imshow(picture)
            left.set_title(key.rsplit("/", 1)[-1], fontsize=9)
            bars(right, [label for label, _ in row], [prob for _, prob in row])
            right.set_xlim(0, 1)
        return figure


def _picture(key: str) -> Any:
    """The picture of a key that names a file, or None."""
    from binderclip.data import open_image
    from binderclip.errors import BinderclipError

    try:
        return open_image(key) if Path(key).is_file() else None
    except (BinderclipError, OSError, ValueError):
        return None


def probabilities(logits: Float[Tensor, "N C"], activation: Activation) -> Float[Tensor, "N C"]:
    """Logits -> probabilities: over the labels (`softmax`) or each label by itself (`sigmoid`)."""
    if activation == "softmax":
        return torch.softmax(logits, dim=-1)
    if activation == "sigmoid":
        return torch.sigmoid(logits)
    raise UsageError(f"activation {activation!r} is unknown: 'softmax' or 'sigmoid'")


def check_top(top: int | None, labels: Sequence[str]) -> int | None:
    """`top` of `classify`, checked and capped at the number of labels.

    Raises:
        UsageError: below 1 or not a whole number.
    """
    if top is None:
        return None
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise UsageError(f"top must be a whole number of at least 1, got {top!r}")
    return min(top, len(labels))
