"""What studies of several views share: features of random views of clip art, made once, and texts changed at random.

Views go through frozen `small-dino` at half its size; which of its views and texts a picture is shown with is drawn in
each step.
Towers are those of `contrastive_towers`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import Augment, TextAugment, load_data
from binderclip.data.augment.augment import PLAIN
from binderclip.data.cache.features import FeatureCache, content_hash
from binderclip.studies.protocols.training.contrastive_towers import bags, training

__all__ = ["ViewDraw", "held_out_pictures", "text_variants", "training_pictures", "view_features"]

SIDE = 64
VIEWS, VARIANTS = {"weak": 2, "strong": 4}, 8
_WEAK = {**PLAIN, "scale": (0.5, 1.0), "ratio": (3 / 4, 4 / 3)}
_STRONG = {
    "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "rotate": 0.0, "brightness": 0.4, "contrast": 0.4,
    "saturation": 0.4, "hue": 0.1, "grey": 0.2, "white": 1.0, "paint": 0.0,
}  # fmt: skip
"""The paper's crops and colours, without blur; on white, as the held-out pictures are."""


@lru_cache(maxsize=4)
@torch.no_grad()
def _features(split: str, kind: Literal["whole", "weak", "strong"], number: int) -> Float[Tensor, "N D"]:
    from binderclip.models import load_vision

    model, data = load_vision("small-dino"), load_data("openclipart", split=split)
    augment = Augment(SIDE, **{"whole": PLAIN, "weak": _WEAK, "strong": _STRONG}[kind])
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    cache = FeatureCache(f"small-dino, {content_hash(weights)}", f"{augment}, view {number}")

    def encode(missing: list[int]) -> Tensor:
        pixels, read = data.subset(missing).pixels(2 * SIDE, mode="RGBA", fit="pad")
        parts = [slice(start, start + 256) for start in range(0, len(pixels), 256)]
        views = (augment(pixels[part], [f"{key}/{number}" for key in read.keys[part]]) for part in parts)
        return torch.cat([model.encode_image(view, normalize=True, size=SIDE) for view in views])

    return cache.fetch([data.content_hash(row) for row in range(len(data))], encode)


@lru_cache(maxsize=2)
def view_features(kind: Literal["weak", "strong"]) -> Float[Tensor, "N V D"]:
    """Unit features of several random views of each training picture: `weak` crops, or `strong` crops and colours."""
    return torch.stack([_features("train", kind, number) for number in range(VIEWS[kind])], 1)


@lru_cache(maxsize=1)
def training_pictures() -> Float[Tensor, "N D"]:
    """Unit features of the whole training pictures, in the order of `contrastive_towers.training`."""
    return _features("train", "whole", 0)


@lru_cache(maxsize=1)
def held_out_pictures() -> Float[Tensor, "N D"]:
    """Unit features of the whole held-out pictures, in the order of `contrastive_towers.held_out`."""
    return torch.cat([_features(split, "whole", 0) for split in ("val", "test")])


@lru_cache(maxsize=1)
def text_variants(seed: int) -> Float[Tensor, "N V W"]:
    """Bags of words of several random variants of each training caption."""
    captions, augment = training().captions, TextAugment(seed=seed)
    keys = [str(row) for row in range(len(captions))]
    return torch.stack([bags(augment(captions, [f"{key}/{n}" for key in keys])) for n in range(VARIANTS)], 1)


class ViewDraw:
    """Draws rows, views and texts of the training clip art; everything follows from the seed.

    Args:
        seed: of all draws.
        batch: rows a step.
        pictures: how many of the training pictures there are to draw from, chosen by the seed.
    """

    def __init__(self, seed: int, batch: int, pictures: int) -> None:
        self.generator, self.batch = torch.Generator().manual_seed(seed), batch
        self.pool = torch.randperm(len(training().captions), generator=self.generator)[:pictures]
        self.variants = text_variants(seed)

    def rows(self) -> Tensor:
        """Rows of the next batch, without a row twice."""
        return self.pool[torch.randperm(len(self.pool), generator=self.generator)[: self.batch]]

    def pictures(self, rows: Tensor, kind: Literal["weak", "strong"], count: int) -> Float[Tensor, "B V D"]:
        """`count` different views of each row."""
        return self._some(view_features(kind), rows, count)

    def texts(self, rows: Tensor, count: int) -> Float[Tensor, "B V W"]:
        """Bags of words of `count` different variants of each caption."""
        return self._some(self.variants, rows, count)

    def _some(self, several: Float[Tensor, "N V D"], rows: Tensor, count: int) -> Float[Tensor, "B k D"]:
        order = torch.rand(len(rows), several.shape[1], generator=self.generator).argsort(1)[:, :count]
        return several[rows[:, None], order]
