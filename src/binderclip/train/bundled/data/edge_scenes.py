"""Scenes whose edges are known: outlines of what was pasted, as far as it is seen, and lines inside of drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from binderclip.data import load_data, region_edges
from binderclip.data.distortions.library import distort
from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import UsageError
from binderclip.vision import sobel, thin_edges

__all__ = ["DEGRADATIONS", "EdgeScenes", "degraded", "edge_scenes", "named_photographs", "scene_edges"]

DEGRADATIONS = (
    "gaussian_noise", "colour_noise", "shot_noise", "speckle_noise", "impulse_noise", "gaussian_blur", "jpeg",
    "contrast", "brighten", "darken", "desaturate", "fog",
)  # fmt: skip
"""Kinds of `data.distort` that leave every outline where it is."""
BLUR = 1.0
"""Standard deviation in pixels of the blur under which colours inside of drawings are compared."""
LINE, FAINT = 0.06, 0.02
"""Slopes of the blurred drawing, grey levels a pixel: from the first a line, below the second none; between: disputed.
A step of one channel by 0.2 has a slope of about 0.06."""
APART = 2
"""Pixels from an outline within which no line inside of a drawing counts: the outline's own slope is there."""


@dataclass(frozen=True)
class EdgeScenes:
    """N square pictures with their edges.

    Attributes:
        images: in [0, 1].
        edges: outlines and lines, one pixel wide.
        counted: False where nobody can say whether there is an edge: slopes inside of drawings that are neither steep
            nor flat, and slopes in photographs behind the objects.
    """

    images: Float[Tensor, "N 3 S S"]
    edges: Bool[Tensor, "N S S"]
    counted: Bool[Tensor, "N S S"]

    def __len__(self) -> int:
        return len(self.images)


def scene_edges(made: Scenes, *, photograph: bool = False) -> EdgeScenes:
    """Edges of composed scenes.

    Outlines are exact: pixels whose right or lower neighbour belongs to another object. Lines inside of a drawing are
    maxima of the slope of its colours; a shading is none.

    Args:
        made: scenes without distortion.
        photograph: the ground shows things with edges of their own, which are not counted.
    """
    outline = region_edges(made.instances)  # (N, S, S)
    inside = _away(made.instances >= 0, outline)
    slope = sobel(gaussian_blur(made.images, [7, 7], [BLUR, BLUR])).amax(1)  # (N, S, S)
    thin = thin_edges(slope, smoothing=0, direction_smoothing=1, border=0) > 0
    lines = inside & thin & (slope >= LINE)
    edges = outline | lines
    unclear = _away(inside & (slope > FAINT) & (slope < LINE), lines)  # beside a line is its own slope: no edge
    if photograph:
        unclear |= _away(made.instances < 0, outline) & (slope > FAINT)
    return EdgeScenes(made.images, edges, edges | ~unclear)


def _away(region: Bool[Tensor, "N S S"], edges: Bool[Tensor, "N S S"]) -> Bool[Tensor, "N S S"]:
    """The pixels of a region that are farther than `APART` from an edge."""
    near = F.max_pool2d(edges[:, None].float(), 2 * APART + 1, stride=1, padding=APART)[:, 0] > 0
    return region & ~near


def named_photographs(names: Sequence[str], size: int = 300) -> Float[Tensor, "N 3 size size"]:
    """Photographs of `load_data("photographs")` by name, the largest square in the middle of each.

    Args:
        names: such as "grass.png".
        size: side in pixels.

    Raises:
        UsageError: an unknown name.
    """
    rows = {str(sample.key): sample.image for sample in load_data("photographs")}
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UsageError(f"there is no photograph {unknown[0]!r}: {', '.join(rows)}")
    squares = []
    for name in names:
        image = rows[name].convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((size, size))
        squares.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255)
    return torch.stack(squares)


def edge_scenes(
    seed: int,
    n: int,
    size: int,
    *,
    split: str,
    grounds: Sequence[object],
    photograph: bool = False,
    options: dict[str, Any] | None = None,
) -> EdgeScenes:
    """Compose scenes of pack pictures and take their edges.

    Args:
        seed, n, size: as in `data.scenes`.
        split: of the packs.
        grounds: what `data.scenes` takes for `background`, to draw from.
        photograph: as in `scene_edges`.
        options: further options of `data.scenes`.
    """
    made = scenes(
        seed, n, size, vocabulary=vocabulary("captions", split=split), objects=(1, 6), area=(0.02, 0.3),
        occlusion=0.5, background=list(grounds), **(options or {}),
    )  # fmt: skip
    return scene_edges(made, photograph=photograph)


def degraded(scenes: EdgeScenes, seed: int, *, most: int = 3, whole: float = 0.35) -> EdgeScenes:
    """The same scenes, most of them distorted by one kind of `DEGRADATIONS`; edges stay.

    Args:
        seed: of kinds, levels and noise.
        most: highest level, 1 to 5.
        whole: share that is left as it is.
    """
    rng = np.random.default_rng([seed, 110])
    images = scenes.images.clone()
    for row in range(len(scenes)):
        kind, level, keep = str(rng.choice(DEGRADATIONS)), int(rng.integers(1, most + 1)), rng.random() < whole
        if not keep:
            images[row] = distort(images[row], kind, level, int(rng.integers(2**31)))
    return replace(scenes, images=images)
