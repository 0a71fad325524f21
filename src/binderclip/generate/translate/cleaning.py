"""Whole pictures without fences or reflections: networks over overlapping windows, and the folders that keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.windows import WindowGrid
from binderclip.errors import CheckpointError, UsageError
from binderclip.generate.biharmonic import biharmonic_fill
from binderclip.generate.translate.network_files import fill_network, read_network, write_network
from binderclip.generate.translate.occlusion import OccNet
from binderclip.generate.translate.reflection import ReflectionRemover
from binderclip.models.files.devices import resolve_device
from binderclip.models.files.registry import BUNDLED
from binderclip.numeric import check_number, check_whole
from binderclip.vision import dilate

__all__ = [
    "BUNDLED_CLEANERS",
    "CLEANERS",
    "Cleaned",
    "FenceCleaner",
    "ReflectionCleaner",
    "load_cleaner",
    "save_cleaner",
]

LEAST = 16
"""Smallest side in pixels that the networks are given; a smaller one is continued by its border."""
LOOKED_AT = 1000
"""Longest side in pixels at which a picture is looked at where nothing else is said: strands are a few pixels wide."""
MEMORY = 8
"""Windows that go through a network at once."""


@dataclass(frozen=True)
class Cleaned:
    """A picture after `clean`.

    Attributes:
        image: in [0, 1]; outside of the mask as it was.
        mask: of what was painted; None where there is none.
    """

    image: Float[Tensor, "3 H W"]
    mask: Bool[Tensor, "H W"] | None = None


def over_windows(
    picture: Float[Tensor, "C H W"], compute: Callable[[Tensor], Tensor], *, window: int, channels: int
) -> Float[Tensor, "D H W"]:
    """What a network says of overlapping windows of a picture, averaged with weights that fall to the border.

    Windows overlap by a third. Only a few of them are held at a time, whatever the size of the picture.

    Args:
        picture: of at least `LEAST` pixels a side.
        compute: from (B, C, h, w) to (B, D, h, w).
        window: side of the windows; smaller where the picture is.
        channels: D.
    """
    grid = WindowGrid.over((picture.shape[1], picture.shape[2]), window, window - window // 3)
    ramp = [torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)).to(picture) for n in grid.window]
    taper = (ramp[0][:, None] / window).clamp(max=0.34) * (ramp[1] / window).clamp(max=0.34)
    total, cover = picture.new_zeros(channels, *grid.size), picture.new_zeros(grid.size)
    boxes = grid.boxes
    for first in range(0, len(boxes), MEMORY):
        part = boxes[first : first + MEMORY]
        values = compute(torch.stack([picture[:, y0:y1, x0:x1] for x0, y0, x1, y1 in part]))
        for value, (x0, y0, x1, y1) in zip(values, part, strict=True):
            total[:, y0:y1, x0:x1] += value * taper
            cover[y0:y1, x0:x1] += taper
    return total / cover


class FenceCleaner(nn.Module):
    """Finds thin occluders such as fences in pictures of any size, and fills what they hide smoothly.

    What is found counts where a region of it is at least `extent` long, and then all that are a quarter as long. So
    is a picture of which less than `least` or more than `most` is found, which no fence covers.

    Args:
        widths: of the `OccNet` that finds them.
        threshold: probability from which a pixel is masked, in [0, 1].
        dilation: pixels by which the mask grows, in [0, 64].
        extent: longer side of the smallest region, in pixels as the network sees them, in [1, 1e6].
        least, most: shares of the picture, in [0, 1].
        window: side of the windows, in [16, 4096].

    Raises:
        UsageError: a setting out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).
    """

    of: ClassVar[str] = "fence"

    def __init__(
        self,
        *,
        widths: Sequence[int] = (8, 16, 32, 32),
        threshold: float = 0.5,
        dilation: int = 1,
        extent: int = 40,
        least: float = 0.01,
        most: float = 0.8,
        window: int = 192,
    ) -> None:
        super().__init__()
        for name, share in (("threshold", threshold), ("least", least), ("most", most)):
            check_number(name, share, least=0, most=1)
        for name, value, low, high in (
            ("dilation", dilation, 0, 64), ("extent", extent, 1, 1e6), ("window", window, LEAST, 4096)
        ):  # fmt: skip
            check_whole(name, value, least=low)
            check_number(name, value, most=high)
        self.occluder = OccNet(tuple(widths))
        self.settings = {
            "widths": list(widths), "threshold": threshold, "dilation": dilation, "extent": extent,
            "least": least, "most": most, "window": window,
        }  # fmt: skip
        self.threshold, self.dilation, self.extent = threshold, dilation, extent
        self.least, self.most, self.window = least, most, window

    @torch.no_grad()
    def find(self, picture: Float[Tensor, "3 H W"], *, shrink: int | None = None) -> Bool[Tensor, "H W"]:
        """The mask, at the picture's size.

        Args:
            picture: in [0, 1].
            shrink: the picture is looked at so many times smaller, for strands wider than 8 pixels, in [1, 64]; None:
                so many times that its longer side has at most 1,000 pixels.

        Raises:
            UsageError: a shrink out of range.
        """
        shrink = shrink_of(picture, shrink)
        return _enlarged(self._found(shrunken(picture, shrink))[None], shrink, picture)[0] > 0

    def _found(self, small: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
        """1 where something is found in a picture as the network sees it, else 0."""
        probability = over_windows(small, lambda x: self.occluder(x).sigmoid(), window=self.window, channels=1)[0]
        kept = torch.from_numpy(long_regions((probability >= self.threshold).cpu().numpy(), self.extent))
        return dilate(kept.to(small)[None, None], 2 * self.dilation + 1)[0, 0]

    @torch.no_grad()
    def clean(self, picture: Float[Tensor, "3 H W"], *, shrink: int | None = None) -> Cleaned:
        """The picture without what is found; the same pixels outside of the mask.

        What is painted has the detail of the picture as it is looked at.

        Args:
            picture: in [0, 1], of any size.
            shrink: as of `find`.

        Raises:
            UsageError: a shrink out of range.
        """
        shrink = shrink_of(picture, shrink)
        small = shrunken(picture, shrink)
        hole = self._found(small)
        if not self.least <= float(hole.mean()) <= self.most:
            return Cleaned(picture, torch.zeros(picture.shape[1:], dtype=torch.bool, device=picture.device))

        def paint(parts: Tensor) -> Tensor:
            result, masked = parts[:, :3].clone(), parts[:, 3:].flatten(1).any(1)
            if bool(masked.any()):
                result[masked] = biharmonic_fill(parts[masked, :3], parts[masked, 3:]).clamp(0, 1)
            return result

        painted = over_windows(torch.cat([small, hole[None]]), paint, window=self.window, channels=3)
        mask = _enlarged(hole[None], shrink, picture)[0] > 0
        return Cleaned(torch.where(mask, _enlarged(painted, shrink, picture, smooth=True), picture), mask)


class ReflectionCleaner(nn.Module):
    """Takes reflections out of pictures of any size, without marks.

    Args:
        window: side of the windows, in [16, 4096].
        settings: of the `ReflectionRemover`.

    Raises:
        UsageError: a setting out of range.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).
    """

    of: ClassVar[str] = "reflection"

    def __init__(self, *, window: int = 192, **settings: Any) -> None:
        super().__init__()
        check_whole("window", window, least=LEAST)
        check_number("window", window, most=4096)
        self.remover = ReflectionRemover(**settings)
        self.window, self.settings = window, {"window": window, **settings}

    @torch.no_grad()
    def clean(self, picture: Float[Tensor, "3 H W"], *, shrink: int | None = None) -> Cleaned:
        """The transmitted layer.

        Args:
            picture: in [0, 1], of any size.
            shrink: the picture is looked at so many times smaller, and the difference is enlarged, for reflections that
                are blurred wider than 5 pixels, in [1, 64]; None: so many times that its longer side has at most 1,000
                pixels.

        Raises:
            UsageError: a shrink out of range.
        """
        shrink = shrink_of(picture, shrink)
        small = shrunken(picture, shrink)

        def transmitted(parts: Tensor) -> Tensor:
            return self.remover(parts, torch.zeros_like(parts[:, :1])).transmission - parts

        change = over_windows(small, transmitted, window=self.window, channels=3)
        return Cleaned((picture + _enlarged(change, shrink, picture, smooth=True)).clamp(0, 1))


CLEANERS: dict[str, type[FenceCleaner] | type[ReflectionCleaner]] = {
    "fence": FenceCleaner, "reflection": ReflectionCleaner,
}  # fmt: skip
"""By what they remove."""
BUNDLED_CLEANERS = {"fence": "small-fence"}
"""Names of bundled weights, by what they remove."""


def shrink_of(picture: Float[Tensor, "C H W"], shrink: int | None) -> int:
    """How many times smaller a picture is looked at: as said, or until its longer side is at most `LOOKED_AT`.

    Raises:
        UsageError: a shrink out of [1, 64].
    """
    if shrink is None:
        return min(64, max(1, -(-max(picture.shape[1:]) // LOOKED_AT)))
    check_whole("shrink", shrink, least=1)
    check_number("shrink", shrink, most=64)
    return shrink


def _enlarged(
    small: Float[Tensor, "C h w"], shrink: int, picture: Float[Tensor, "3 H W"], *, smooth: bool = False
) -> Float[Tensor, "C H W"]:
    """What was made of a picture that was looked at so many times smaller, at the picture's size."""
    height, width = picture.shape[1:]
    if shrink > 1:
        small = F.interpolate(small[None], scale_factor=float(shrink), mode="bilinear" if smooth else "nearest")[0]
    return small[:, :height, :width]


def shrunken(picture: Float[Tensor, "C H W"], shrink: int) -> Float[Tensor, "C h w"]:
    """A picture's means over squares, continued by its border to whole squares and to the least size."""
    height, width = picture.shape[1:]
    whole = F.pad(picture[None], (0, -width % shrink, 0, -height % shrink), "replicate")
    return padded(F.avg_pool2d(whole, shrink)[0] if shrink > 1 else whole[0])


def padded(picture: Float[Tensor, "C H W"]) -> Float[Tensor, "C h w"]:
    """A picture continued by its border, below and to the right, to `LEAST` pixels a side at least."""
    height, width = picture.shape[1:]
    return F.pad(picture[None], (0, max(0, LEAST - width), 0, max(0, LEAST - height)), "replicate")[0]


def long_regions(mask: Bool[np.ndarray, "H W"], extent: int) -> Bool[np.ndarray, "H W"]:
    """Those connected regions whose box is at least so long, or as long as the picture's shorter side.

    Where there is one, those of a quarter of that count as well: parts of a fence that something interrupts.
    """
    from scipy.ndimage import find_objects, label

    labels, count = label(mask, structure=np.ones((3, 3)))
    bound, lengths = min(extent, *mask.shape), np.zeros(count + 1)
    for number, box in enumerate(find_objects(labels), 1):
        lengths[number] = max(part.stop - part.start for part in box)
    return (lengths >= (bound if lengths.max() < bound else max(bound / 4, 1)))[labels]


def save_cleaner(
    cleaner: FenceCleaner | ReflectionCleaner, folder: str | Path, card: dict[str, Any] | None = None,
    *, dtype: torch.dtype | None = None,
) -> Path:  # fmt: skip
    """Write a cleaner.

    Args:
        cleaner: as trained.
        folder: of its weights and card.
        card: further values, such as figures.
        dtype: of the stored weights; None: as they are.

    Raises:
        OutputError: it cannot be written.
    """
    about = {**(card or {}), "kind": cleaner.of, "settings": cleaner.settings}
    return write_network(folder, cleaner, about, dtype=dtype)


def load_cleaner(
    folder: str | Path | None = None, *, of: str | None = None, device: str | torch.device = "cpu"
) -> tuple[FenceCleaner | ReflectionCleaner, dict[str, Any]]:
    """Open a cleaner; nothing in its files is run.

    Args:
        folder: of `save_cleaner`, or the name of a bundled one, `small-fence`; None: the bundled one of what it has
            to remove, by default fences.
        of: what it has to remove; None: anything.
        device: where it runs.

    Returns:
        The cleaner, and its card.

    Raises:
        CheckpointError: no such folder, it is none of a cleaner, or of one that removes something else.
        UsageError, NotSupported: no such device, or none is bundled for that.
    """
    where = resolve_device(device)
    if folder is None:
        folder = BUNDLED_CLEANERS.get(of or FenceCleaner.of, "")
        if not folder:
            raise UsageError(
                f"no weights against a {of} are bundled: give a folder of them (train_{of} of "
                "binderclip.train.bundled.generative.clean makes one of photographs)"
            )
    if str(folder) in BUNDLED_CLEANERS.values():
        folder = BUNDLED / str(folder)
    tensors, card = read_network(folder, "a cleaner")
    try:
        cleaner = CLEANERS[card["kind"]](**card["settings"])
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{folder} cannot be read as a cleaner: {str(error).splitlines()[0]}") from error
    if of not in (None, cleaner.of):
        raise CheckpointError(f"{folder} removes a {cleaner.of}, not a {of}")
    fill_network(cleaner, tensors, folder, "a cleaner")
    return cleaner.to(where).eval(), card
