"""Objects to click on: scenes of held-out drawings with exact masks, and the segmenter that is clicked."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary

LEAST = 0.01
"""Share of the scene that the visible part of an object covers at least."""
PAINTED = ("plain", "gradient", "noise", "texture")


@lru_cache(maxsize=1)
def clicked_model() -> Any:
    """The bundled promptable segmenter."""
    from binderclip.segment import load_promptable

    return load_promptable("small-sam")


def click_samples(
    seed: int, count: int, *, size: int = 128, split: str = "test", camouflage: float = 0.0
) -> list[tuple[Float[Tensor, "3 S S"], Bool[Tensor, "M S S"]]]:
    """Pictures of 2 to 4 drawings that may hide each other, with the masks of those that are large enough.

    Args:
        seed: of the scenes.
        count: of scenes.
        size: side in pixels.
        split: of the drawings; the segmenter was trained on `train`.
        camouflage: share of the background mixed into objects.
    """
    made = scenes(
        seed, count, size, vocabulary=vocabulary("captions", split=split), objects=(2, 4), area=(0.03, 0.2),
        occlusion=0.4, background=list(PAINTED), camouflage=camouflage,
    )  # fmt: skip
    samples = []
    for image, masks in zip(made.images, made.visible, strict=True):
        kept = masks[masks.float().mean((1, 2)) >= LEAST]
        if len(kept):
            samples.append((image, kept))
    return samples
