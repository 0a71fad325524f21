"""Embeddings of the bundled clip art by `small`, for studies of where they lie (p037, p096, p111)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.studies.protocols.bundled import bundled

__all__ = ["PackEmbeddings", "clip_art"]

AT_ONCE = 64


@dataclass(frozen=True)
class PackEmbeddings:
    """Raw embeddings of a split, row by row.

    Attributes:
        images: of the pictures. captions: of their captions as they are. descriptions: of what is kept beside them.
        texts: the captions.
    """

    images: Float[Tensor, "n d"]
    captions: Float[Tensor, "n d"]
    descriptions: Float[Tensor, "n d"]
    texts: tuple[str, ...]


@lru_cache(maxsize=4)
def clip_art(split: str) -> PackEmbeddings:
    """One picture for each caption of a split of the clip-art pack; pictures are encoded once on this machine."""
    from binderclip.data import load_data
    from binderclip.data.cache.features import FeatureCache

    data = load_data("openclipart", split)
    captions = list(data.captions)
    data = data.subset(sorted({caption: row for row, caption in reversed(list(enumerate(captions)))}.values()))
    clip = bundled()
    cache = FeatureCache(clip.fingerprint, f"whole, background {data.background}")

    def encoded(missing: list[int]) -> Tensor:
        return clip.encode_image([data[row].image for row in missing], batch_size=AT_ONCE)

    with torch.no_grad():
        images = cache.fetch([data.content_hash(row) for row in range(len(data))], encoded)
        texts = tuple(data.captions)
        described = [_description(data[row]) for row in range(len(data))]
        return PackEmbeddings(images.float(), clip.encode_text(list(texts)), clip.encode_text(described), texts)


def _description(sample: Any) -> str:
    """What a catalogue would say: where the picture is filed, and its key words."""
    found = sample.attributes
    place = str(found.get("category", "")).replace("_", " ").replace("/", ", ")
    words = ", ".join(found.get("keywords") or [])
    return f"clip art of {place}: {words}" if words else f"clip art of {place}"
