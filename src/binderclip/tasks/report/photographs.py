"""One line beside results on photographs: the bundled models are weak there, and which --model is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from binderclip.tasks.events import warn

WEAK = ("small", "small-b")
BLIND_TO_FAULTS = (*WEAK, "everyday")
"""Models whose words for blur, noise and the like follow none of it: `everyday` has them from the tower of `small`."""
REAL = "open_clip:ViT-B-32/openai"
NAMING = "is weak on photographs"
LOOKED_AT = 4
FLAT = 0.25
"""Below this share of equal neighbouring pixels it is a photograph; of drawings a third and more are equal."""


def note_weak_on_photographs(model: str, pictures: Sequence[Any], *, weakness: str = NAMING, real: str = REAL) -> None:
    """Warn that `model` is weak on photographs; the arguments are those of `weak_on_photographs`."""
    for line in weak_on_photographs(model, pictures, weakness=weakness, real=real):
        warn(line)


def weak_on_photographs(model: str, pictures: Sequence[Any], *, weakness: str = NAMING, real: str = REAL) -> list[str]:
    """The sentence that `model` is weak on photographs, where it is and the pictures look like some; else none.

    Args:
        model: as it was named.
        pictures: paths, or anything `open_image` takes; a few of them are looked at.
        weakness: what is said of it, where more is known than that.
        real: the model to take instead.
    """
    if model not in (WEAK if weakness == NAMING else BLIND_TO_FAULTS) or not pictures:
        return []
    chosen = list(pictures)[:: max(1, len(pictures) // LOOKED_AT)][:LOOKED_AT]
    if 2 * sum(like_a_photograph(each) for each in chosen) < len(chosen):
        return []
    # Of other weaknesses than naming what is there the classifier beside the tower knows nothing.
    nearer = "bundled and better there: --model everyday; " if weakness == NAMING else ""
    return [f"{model} {weakness}; {nearer}a real CLIP, downloaded once: --model {real}"]


def like_a_photograph(picture: Any) -> bool:
    """Whether few neighbouring pixels of a thumbnail are equal; False for what cannot be read."""
    import numpy as np
    from PIL import Image

    from binderclip.data import open_image
    from binderclip.errors import DataError

    try:
        shown = open_image(picture).convert("RGB")
    except DataError:
        return False
    shown.thumbnail((96, 96), Image.Resampling.NEAREST)
    values = np.asarray(shown).astype(int)
    if values.shape[1] < 8:
        return False
    return bool((np.abs(np.diff(values, axis=1)).sum(axis=-1) == 0).mean() < FLAT)
