"""What a segmenter gives back: a label map that can be looked at, saved and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.files import write_whole
from binderclip.numeric import check_number
from binderclip.segment.output.palette import colours, paint, with_legend


@dataclass(frozen=True)
class Segmentation:
    """A label for every pixel.

    Attributes:
        classes: names; the background class, if there is one, is the first.
        labels: (H, W) int32, index into `classes`, -1 = unsegmented.
        scores: (C, h, w) class logits on the model's own, coarser grid of pixels.
        image: the picture, for the overlay.
        background: whether `classes[0]` stands for background.
    """

    classes: tuple[str, ...]
    labels: Int[Tensor, "H W"]
    scores: Float[Tensor, "C h w"]
    image: Image.Image = field(repr=False)
    background: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the label map."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def probs(self) -> Float[Tensor, "C H W"]:
        """Softmax of the scores at the size of the label map; computed when asked for, as it is large."""
        return F.interpolate(self.scores[None], size=self.size, mode="bilinear", align_corners=False)[0].softmax(dim=0)

    def most_probable(self) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W"]]:
        """The class of the largest probability of each pixel, and that probability; one class at a time.

        These are the scores' own guesses, before thresholds and whatever else changed `labels`.
        """
        labels, best, total = _best_of(self.scores, self.size)
        return labels, (best - total).exp()

    def mask(self, name: str) -> Tensor:
        """(H, W) bool, where the label is `name`.

        Raises:
            UsageError: no such class.
        """
        if name not in self.classes:
            raise UsageError(f"{name!r} is none of the classes: {', '.join(self.classes)}")
        return self.labels == self.classes.index(name)

    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class, in the order of `classes`; unsegmented pixels are in none."""
        counts = torch.bincount(self.labels[self.labels >= 0].flatten(), minlength=len(self.classes))
        return dict(zip(self.classes, (counts / self.labels.numel()).tolist(), strict=True))

    def overlay(self, *, opacity: float = 0.6, legend: bool = True) -> Image.Image:
        """The picture in the colours of its labels, with a legend below (largest first, from half a percent).

        Args:
            opacity: of the colours, in [0, 1].
            legend: False for the coloured picture alone, at its own size.

        Raises:
            UsageError: opacity out of range.
        """
        check_number("opacity", opacity, least=0, most=1)
        palette = colours(len(self.classes), background=self.background)
        quiet = {0} if self.background else set()
        shown = paint(self.image, self.labels.cpu().numpy(), palette, opacity=opacity, quiet=quiet)
        if not legend:
            return shown
        present = sorted(((fraction, name) for name, fraction in self.shares().items()), key=lambda entry: -entry[0])
        # A few stray pixels of a class are not worth a line.
        entries = [(f"{n} {s:.0%}", palette[self.classes.index(n)]) for s, n in present if s >= 0.005]
        return with_legend(shown, entries)

    def _repr_html_(self) -> str:
        """The overlay and the share of every class, in a notebook."""
        from binderclip.display import picture_html, table_html

        shares = sorted(
            ((name, fraction) for name, fraction in self.shares().items() if fraction), key=lambda row: -row[1]
        )
        return picture_html(self.overlay(), ", ".join(name for name, _ in shares)) + table_html(
            ("class", "share"), shares
        )

    def plot(self) -> Any:
        """A matplotlib figure: the picture, its overlay, and the share of every class."""
        from binderclip.display import bars, new_figure

        figure = new_figure(10, 3.4)
        left, middle, right = figure.subplots(1, 3)
        left.imshow(self.image)
        middle.imshow(self.overlay(legend=False))
        for axes in (left, middle):
            axes.axis("off")
        shares = sorted(self.shares().items(), key=lambda row: -row[1])[:12]
        bars(right, [name for name, _ in shares], [fraction for _, fraction in shares])
        right.set_xlabel("share of the picture")
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the label map as a PNG of class indices: 8 bit with 255 = unsegmented, 16 bit with 65535 beyond that.

        Raises:
            UsageError: a name that does not end in .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UsageError(f"a label map is saved as PNG, not {path.name!r}: another format would change its numbers")
        picture = self.numbered()
        return write_whole(path, lambda draft: picture.save(draft, "PNG"))

    def numbered(self) -> Image.Image:
        """The label map as a grey picture of class indices, as `save` writes it."""
        kind, unsegmented = (np.uint8, 255) if len(self.classes) <= 255 else (np.uint16, 65535)
        labels = self.labels.cpu().numpy()
        return Image.fromarray(np.where(labels < 0, unsegmented, labels).astype(kind))


def label_map(
    scores: Float[Tensor, "C h w"],
    size: tuple[int, int],
    threshold: float = 0.0,
    *,
    below: int = -1,
    absolute: bool = False,
) -> Int[Tensor, "H W"]:
    """The best class of each pixel after bilinear enlargement of the scores, one class at a time.

    Args:
        scores: class logits.
        size: (h, w) of the map.
        threshold: pixels whose best probability is below it get `below`.
        below: label of those pixels.
        absolute: the scores are log probabilities as they stand, not to be normalised over the classes.
    """
    labels, best, total = _best_of(scores, size)
    if threshold > 0:
        labels[(best if absolute else best - total).exp() < threshold] = below
    return labels


def _best_of(scores: Float[Tensor, "C h w"], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(best class, its logit, logarithm of the summed exponentials) of each pixel."""
    best = torch.full(size, -torch.inf, device=scores.device)
    total = torch.full(size, -torch.inf, device=scores.device)
    labels = torch.full(size, -1, dtype=torch.int32, device=scores.device)
    # Large pictures times many classes would not fit into memory at once.
    for index, score in enumerate(scores.float()):
        drawn = F.interpolate(score[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        better = drawn > best
        labels[better] = index
        best = torch.where(better, drawn, best)
        total = torch.logaddexp(total, drawn)
    return labels, best, total


def as_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as a tuple, checked to differ."""
    if len(set(names)) != len(names):
        raise UsageError("a class is named twice")
    return tuple(names)
