"""How much of a pair's score hangs on the text in its picture (p051)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Real
from torch.nn import functional as F

from binderclip.data.images import open_image
from binderclip.data.inpaint import inpaint_by_marching
from binderclip.data.made.words import polygon_mask
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.models import ImageTextModel
    from binderclip.models.image_text.preprocess import ImageLike

__all__ = ["TextRemoval", "TextRemovalScore"]

Polygons = Sequence[Real[np.ndarray, "_ 2"]]


@dataclass(frozen=True)
class TextRemoval:
    """Scores of one pair.

    Attributes:
        raw: cosine of the picture and its caption.
        rsa, rsc: `raw` less the cosine with all text, and with the text that the caption repeats, painted over.
        random: the same with polygons of another picture painted over; None where none were given. What painting alone
            does to a score: RSA and RSC say something only beside it.
    """

    raw: float
    rsa: float
    rsc: float
    random: float | None


@dataclass(frozen=True, eq=False)
class TextRemovalScore:
    """RSA and RSC of a picture and its caption: what the cosine loses when text is painted over.

    Args:
        model: encodes both.
        inpaint: (picture (H, W, 3) in [0, 1], hole (H, W)) -> picture; None: Telea's method.
        radius: of Telea's neighbourhood, in pixels.
        margin: pixels around each polygon that are painted over with it.

    Raises:
        UsageError: a radius below 1 or a negative margin.

    Paper: Parrot Captions Teach CLIP to Spot Text (arXiv 2312.14232).
    """

    model: ImageTextModel
    inpaint: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    radius: int = 3
    margin: int = 1

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "TextRemovalScore")
        if self.radius < 1 or self.margin < 0:
            raise UsageError(f"radius must be at least 1 and margin at least 0, got {self.radius} and {self.margin}")

    @torch.no_grad()
    def __call__(
        self, image: ImageLike, caption: str, polygons: Polygons, co_polygons: Polygons, control: Polygons | None = None
    ) -> TextRemoval:
        """Score one pair.

        Args:
            image: as `open_image` takes it.
            caption: of the picture.
            polygons: of all text in it, corners (x, y) in pixels.
            co_polygons: of the words that are in the caption.
            control: polygons borrowed from another picture.
        """
        picture = open_image(image).convert("RGB")
        given = {"all": polygons, "co": co_polygons, **({} if control is None else {"random": control})}
        shown = {name: self._painted(picture, part) for name, part in given.items()}
        # What is not painted over is not encoded again, so that its difference is 0 and not rounding.
        changed = {name: boxes for name, boxes in shown.items() if boxes is not None}
        features = self.model.encode_image([picture, *changed.values()], normalize=True)
        text = self.model.encode_text([caption], normalize=True)
        raw, *others = F.cosine_similarity(features, text.to(features)).double().tolist()
        lost = dict.fromkeys(shown, 0.0) | {name: raw - v for name, v in zip(changed, others, strict=True)}
        return TextRemoval(raw, lost["all"], lost["co"], lost.get("random"))

    def _painted(self, picture: Image.Image, polygons: Polygons) -> Image.Image | None:
        """The picture without what is inside the polygons; None where there is nothing to paint over."""
        from PIL import Image

        hole: Bool[np.ndarray, "H W"] = polygon_mask(list(polygons), picture.size[::-1], margin=self.margin)
        if not len(polygons) or not hole.any():
            return None
        pixels = np.asarray(picture, dtype=np.float32) / 255
        filled = (
            inpaint_by_marching(pixels, hole, radius=self.radius)
            if self.inpaint is None
            else self.inpaint(pixels, hole)
        )
        return Image.fromarray((np.clip(filled, 0, 1) * 255).round().astype(np.uint8))
