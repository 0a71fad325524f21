"""Seeded distortions of pictures: 24 kinds at 5 levels, for rank training, quality claims and robustness.

There are two libraries of them, our own and ARNIQA's with its released strengths.

The kinds follow the two families that readers know, the corruptions of Hendrycks and Dietterich ("Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations", ICLR 2019) and the distortions of KADID-10k (Lin, Hosu and
Saupe, QoMEX 2019); the strengths are our own, chosen so that each level is seen to be worse than the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.distortions import arniqa
from binderclip.data.distortions import kinds as kinds
from binderclip.data.distortions.pieces import Draws
from binderclip.errors import UsageError

LEVELS = 5
_KINDS: dict[str, tuple[Callable, tuple]] = {
    "gaussian_noise": (kinds.gaussian_noise, (0.04, 0.08, 0.13, 0.20, 0.30)),
    "colour_noise": (kinds.colour_noise, (0.04, 0.08, 0.13, 0.20, 0.30)),
    "shot_noise": (kinds.shot_noise, (90, 35, 15, 7, 3)),
    "speckle_noise": (kinds.speckle_noise, (0.10, 0.20, 0.30, 0.45, 0.65)),
    "impulse_noise": (kinds.impulse_noise, (0.01, 0.03, 0.06, 0.12, 0.22)),
    "gaussian_blur": (kinds.gaussian_blur, (0.8, 1.5, 2.5, 4.0, 6.5)),
    "defocus_blur": (kinds.defocus_blur, (1.5, 2.5, 4.0, 6.5, 10.0)),
    "motion_blur": (kinds.motion_blur, (4, 8, 13, 20, 32)),
    "zoom_blur": (kinds.zoom_blur, (0.03, 0.07, 0.12, 0.20, 0.32)),
    "glass_blur": (kinds.glass_blur, (0.8, 1.6, 2.8, 4.5, 7.5)),
    "jpeg": (kinds.jpeg, (40, 22, 12, 6, 2)),
    "wavelet": (kinds.wavelet, (0.06, 0.13, 0.25, 0.45, 0.80)),
    "pixelate": (kinds.pixelate, (0.55, 0.36, 0.24, 0.15, 0.09)),
    "posterize": (kinds.posterize, (20, 11, 7, 4, 3)),
    "contrast": (kinds.contrast, (0.75, 0.58, 0.42, 0.26, 0.12)),
    "brighten": (kinds.brighten, (1.25, 1.6, 2.1, 2.9, 4.5)),
    "darken": (kinds.darken, (1.25, 1.6, 2.1, 2.9, 4.5)),
    "saturate": (kinds.saturate, (1.4, 1.9, 2.6, 3.8, 6.0)),
    "desaturate": (kinds.desaturate, (0.75, 0.55, 0.35, 0.15, 0.0)),
    "colour_shift": (kinds.colour_shift, (1.5, 3.0, 5.0, 8.0, 13.0)),
    "fog": (kinds.fog, (0.20, 0.35, 0.50, 0.68, 0.85)),
    "snow": (kinds.snow, (0.20, 0.38, 0.56, 0.75, 1.0)),
    "elastic": (kinds.elastic, (2.0, 4.0, 7.0, 11.0, 18.0)),
    "scramble": (kinds.scramble, (0.06, 0.14, 0.26, 0.45, 0.80)),
}
DISTORTIONS: tuple[str, ...] = tuple(_KINDS)
"""Names of the distortions."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": DISTORTIONS[0:5],
    "blur": DISTORTIONS[5:10],
    "compression": DISTORTIONS[10:14],
    "light and colour": DISTORTIONS[14:20],
    "weather and geometry": DISTORTIONS[20:24],
}
"""The distortions by what they do."""


@dataclass(frozen=True)
class DistortionLibrary:
    """Distortions that go together.

    Attributes:
        kinds: name -> function and the strengths of levels 1 to 5.
        families: the names by what they do.
        unordered: names whose levels do not rise.
    """

    kinds: Mapping[str, tuple[Callable, tuple]]
    families: Mapping[str, tuple[str, ...]]
    unordered: tuple[str, ...] = ()

    @property
    def ordered(self) -> tuple[str, ...]:
        """Names whose levels rise."""
        return tuple(name for name in self.kinds if name not in self.unordered)


LIBRARIES: dict[str, DistortionLibrary] = {
    "binderclip": DistortionLibrary(_KINDS, FAMILIES),
    "arniqa": DistortionLibrary(arniqa.ARNIQA, arniqa.GROUPS, arniqa.UNORDERED),
}
"""By name: our own, whose lengths scale with the picture, and ARNIQA's (arXiv 2310.14918) as released."""


def library_named(name: str) -> DistortionLibrary:
    """One of `LIBRARIES`.

    Raises:
        UsageError: an unknown name.
    """
    if name not in LIBRARIES:
        raise UsageError(f"library {name!r} is unknown: one of {', '.join(LIBRARIES)}")
    return LIBRARIES[name]


def distort(
    images: Float[Tensor, "*B 3 H W"],
    name: str,
    level: int | Sequence[int],
    seed: int | Sequence[int] = 0,
    *,
    library: str = "binderclip",
) -> Float[Tensor, "*B 3 H W"]:
    """Distort pictures.

    Every image has its own random stream, which depends on the name and its seed, not on the level, the batch or the
    device: levels of one image are more of the same noise, so severity grows with the level image by image.

    Args:
        images: (B, 3, H, W), or one (3, H, W), floats in [0, 1].
        name: one of `DISTORTIONS`, or of the library's `kinds`.
        level: 0 (unchanged) to 5, one for all or one an image.
        seed: image b takes `seed + b`, or give one seed an image (equal ones for levels of the same picture).
        library: `binderclip`, or `arniqa` for ARNIQA's 24 distortions (`gaublur`, `jpeg2000`, ...) with the released
            strengths, whose lengths are in pixels: for crops of 224.

    Returns:
        Distorted pictures in [0, 1], same shape, dtype and device. Gradients pass where the distortion has any ("jpeg",
        "wavelet" and "shot_noise" have none).

    Raises:
        UsageError: an unknown name, level or library, images that are not float (B, 3, H, W), or smaller ones than a
            distortion of `arniqa` takes.
    """
    distortions = library_named(library)
    if name not in distortions.kinds:
        raise UsageError(f"distortion {name!r} is unknown; use {', '.join(distortions.kinds)}")
    if images.ndim == 3:
        return distort(images[None], name, level, seed, library=library)[0]
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UsageError(f"distort takes float images (B, 3, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}")
    count = len(images)
    levels = [level] * count if isinstance(level, int) else [int(one) for one in level]
    seeds = [seed + b for b in range(count)] if isinstance(seed, int) else [int(one) for one in seed]
    if len(levels) != count or len(seeds) != count:
        raise UsageError(f"{count} images need one level and one seed, or {count} of each")
    wrong = [one for one in levels if not 0 <= one <= LEVELS]
    if wrong:
        raise UsageError(f"level {wrong[0]} of {name} is not in 0..{LEVELS}")
    function, strengths = distortions.kinds[name]
    out = images.clone()
    for value in sorted(set(levels) - {0}):
        rows = [b for b in range(count) if levels[b] == value]
        part = images[rows]
        draws = Draws(name, [seeds[b] for b in rows], part)
        changed = function(part, strengths[value - 1], draws).clamp(0, 1)
        out = changed if len(rows) == count else out.index_copy(0, torch.tensor(rows, device=out.device), changed)
    return out


def distort_levels(
    images: Float[Tensor, "B 3 H W"],
    name: str,
    seed: int | Sequence[int] = 0,
    *,
    levels: Sequence[int] = range(LEVELS + 1),
    library: str = "binderclip",
) -> Float[Tensor, "B L 3 H W"]:
    """Each picture at several levels, axis 1, with the same random stream.

    Args:
        images: floats in [0, 1].
        name, seed, library: as in `distort`.
        levels: which levels, in order; all six by default.
    """
    return torch.stack([distort(images, name, level, seed, library=library) for level in levels], 1)
