"""How well a picture fits its text, beside what other texts of its length get."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from binderclip.data import load_packs
from binderclip.models import ImageTextModel

OTHERS = 64
"""Texts that a drawing is held against."""
PACK, SPLIT = "openmoji", "shift"
"""Bundled captions that no bundled model has learned from."""


@dataclass(frozen=True)
class DrawingScore:
    """What a model says of a picture.

    Attributes:
        model: its name.
        guides: whether the picture was made by its gradients.
        before, after: cosines of the first and the last picture with the text.
        others: mean cosine of the last picture with other texts.
        place_before, place: part of the other texts that fit the first and the last picture less than the text does: 1
            where none fits as well, about 0.5 for a picture that has nothing to do with it.
    """

    model: str
    guides: bool
    before: float
    after: float
    others: float
    place_before: float
    place: float


def other_texts(text: str, count: int = OTHERS, seed: int = 0) -> list[str]:
    """Texts of at least as many words as another: bundled captions, one after the other, which differ from it.

    Args:
        text: whose number of words they have.
        count: of them.
        seed: of their order.
    """
    words = len(text.split())
    captions = sorted({one for one in load_packs(PACK, SPLIT).captions if one and one.lower() != text.lower()})
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        made = generator.choice(captions)
        while len(made.split()) < words:
            made += f" {generator.choice(captions)}"
        texts.append(made)
    return texts


@torch.no_grad()
def scored(
    model: ImageTextModel,
    pictures: tuple[Float[Tensor, "1 3 H W"], Float[Tensor, "1 3 H W"]],
    text: str,
    others: Sequence[str],
    *,
    guides: bool,
) -> DrawingScore:
    """What a model says of a drawing.

    Args:
        model: scores.
        pictures: the first and the last, in [0, 1].
        text: that was drawn.
        others: texts beside it.
        guides: whether it is the model that guided.
    """
    rows = torch.cat([model.encode_text([text]), model.encode_text(list(others))])
    features = model.encode_image(torch.cat(pictures).to(model.device))
    cosine = (normalize(features, dim=-1) @ normalize(rows, dim=-1).T).double().cpu()  # [2, 1 + K]
    place = (cosine[:, 1:] < cosine[:, :1]).double().mean(1)
    return DrawingScore(
        model.name, guides, float(cosine[0, 0]), float(cosine[1, 0]), float(cosine[1, 1:].mean()), float(place[0]),
        float(place[1]),
    )  # fmt: skip
