"""Figures of edges on the outlined photographs: how much of the things' outlines as many edge pixels of a map meet.

A method is chosen on the splits "learn" and "choose", by the mean over things of `outline_recall`; it replaces the
default where the paired interval of 95 % of its difference to the default lies above 0 there and on "report" alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.train.bundled.data.photograph_masks import PhotographMask
from binderclip.vision import thin_edges

__all__ = ["outline_recall", "outline_recalls"]

LONGEST, SHARE, TOLERANCE = 480, 0.015, 0.01
"""Longest side in pixels; pixels that count as edges, of all; and how far, as a part of the diagonal, they are met."""


def outline_recall(
    thin: Float[Tensor, "H W"], mask: Bool[np.ndarray, "H W"], *, share: float = SHARE, tolerance: float = TOLERANCE
) -> float:
    """The part of a mask's outline that the strongest pixels of a thinned map come near to.

    Args:
        thin: values of edges, 0 where there is none.
        mask: of a thing; its outline are its pixels beside others, without those at the picture's border.
        share: of all pixels that are taken, the strongest first; equal ones in the order of rows.
        tolerance: of the distance, by the diagonal.

    Raises:
        UsageError: a mask of another size, or without an outline.
    """
    if tuple(thin.shape) != mask.shape:
        raise UsageError(f"the mask is {mask.shape[0]} x {mask.shape[1]}, the map {thin.shape[0]} x {thin.shape[1]}")
    outline = mask & ~binary_erosion(mask, border_value=1)
    if not outline.any():
        raise UsageError("the mask has no outline within the picture")
    values = thin.flatten().numpy()
    taken = np.zeros(len(values), dtype=bool)
    taken[np.argsort(-values, kind="stable")[: round(share * len(values))]] = True
    taken &= values > 0
    if not taken.any():
        return 0.0
    distance = distance_transform_edt(~taken.reshape(mask.shape))
    return float((distance[outline] <= tolerance * np.hypot(*mask.shape)).mean())


def outline_recalls(
    methods: Mapping[str, Callable[[Float[Tensor, "3 H W"]], Float[Tensor, "H W"]]],
    outlines: Sequence[PhotographMask],
) -> dict[str, list[float]]:
    """`outline_recall` of every thing by every method, whose maps are thinned here.

    Args:
        methods: by name; from a picture in [0, 1], at most 480 pixels long, to its map.
        outlines: with photographs that can be opened.
    """
    recalls: dict[str, list[float]] = {name: [] for name in methods}
    thinned: dict[str, Tensor] = {}
    before: tuple[str, str] | None = None
    for outline in outlines:
        row = outline.photograph
        if before != (row.file, row.member):
            before = (row.file, row.member)
            picture = row.open()
            picture.thumbnail((LONGEST, LONGEST))
            pixels = to_tensor(picture)
            thinned = {name: thin_edges(method(pixels), border=0) for name, method in methods.items()}
        mask = outline.mask(picture.height, picture.width)
        for name, thin in thinned.items():
            recalls[name].append(outline_recall(thin, mask))
    return recalls
