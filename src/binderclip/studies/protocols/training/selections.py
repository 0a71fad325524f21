"""What studies of curation share: clip art and its captions, pools in memory, a small model to train on selections.

What is trained is a linear map from frozen features of pictures (`small-dino`) to frozen texts (`small`), by InfoNCE: a
few seconds a selection, so that a study can have many seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.curate import Shard, keys_of

STEPS, BATCH, RATE, SCALE = 300, 256, 1e-3, 20.0
CONCEPTS = (
    "animal", "arrow", "bread", "building", "button", "clock", "clothing", "computer", "dessert", "device", "drink",
    "egg", "flag", "folder", "food", "fruit", "hazard", "hotel", "map", "math", "music", "person", "road", "shape",
    "sports", "star", "tool", "toy", "tree", "vehicle", "weather",
)  # fmt: skip
"""Words that name what is drawn in many pictures of the clip art."""


@lru_cache(maxsize=4)
def clip_art(split: str) -> tuple[list[Any], list[str]]:
    """Pictures of the clip-art pack and their captions in small letters; splits are joined by `+`."""
    from binderclip.data import load_data

    parts = [load_data("openclipart", split=part) for part in split.split("+")]
    return [sample.image for part in parts for sample in part], [t.lower() for part in parts for t in part.captions]


@torch.no_grad()
def pictured(images: Sequence[Any]) -> Float[Tensor, "N D"]:
    """Unit features of `small-dino`."""
    from binderclip.models import load_vision

    return load_vision("small-dino").encode_image(list(images), normalize=True)


@lru_cache(maxsize=4)
@torch.no_grad()
def said(texts: tuple[str, ...]) -> Float[Tensor, "N E"]:
    """Unit features of texts by `small`."""
    from binderclip.studies.protocols.bundled import bundled

    return bundled().encode_text(list(texts), normalize=True).float()


class MemoryTable:
    """Captions and further columns as a pool of one shard, whose samples are named by their number."""

    def __init__(self, captions: Sequence[str], columns: Mapping[str, Any] | None = None) -> None:
        self.ids: Sequence[str] = ["pool"]
        self.skipped: list[tuple[str, str]] = []
        self.captions, self.columns = list(captions), dict(columns or {})

    def load(self, id: str) -> Shard:
        """The one shard."""
        names = [str(number) for number in range(len(self.captions))]
        own: dict[str, Any] = {"name": names, "text": self.captions, "texts": [[text] for text in self.captions]}
        return Shard(id, keys_of(names), {**own, **self.columns})


def linear_map(
    pictures: Float[Tensor, "N D"], texts: Float[Tensor, "N E"], rows: Int[Any, "K"], seed: int
) -> Float[Tensor, "D E"]:
    """What training on some rows of a pool gives; as many steps for any number of rows.

    Args:
        pictures, texts: unit features of the pool.
        rows: that are trained on.
        seed: of the start and the batches.
    """
    from binderclip.fit import fit

    chosen = torch.as_tensor(rows)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(0.02 * torch.randn(pictures.shape[1], texts.shape[1], generator=generator))

    def batches() -> Iterator[Tensor]:
        while True:
            yield chosen[torch.randint(len(chosen), (BATCH,), generator=generator)]

    def loss(picked: Tensor) -> Tensor:
        logits = SCALE * F.normalize(pictures[picked] @ weight, dim=1) @ texts[picked].T
        truth = torch.arange(BATCH)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    fit(loss, [weight], batches(), steps=STEPS, lr=RATE)
    return weight.detach()
